//! Schedules against the definitions in the systems that they come from, written again here, in f64 and with those
//! systems' names.

use std::f64::consts::PI;

use kiln_diffusion::schedule::{LogSnrEnds, Sigmoid};
use kiln_diffusion::{Schedule, ScheduleConfig, ScheduleKind};

const PLACES: [f64; 7] = [0.0, 0.01, 0.2, 0.5, 0.77, 0.99, 1.0];

/// The noise power b² at t, t being 0 at timestep 0 and 1 at the last, of the continuous schedule
/// and of the discrete one, which must be the same.
fn noise_power(config: &ScheduleConfig, t: f64) -> f64 {
    // 101 timesteps, so that all places are whole.
    let read = |continuous| {
        let config = ScheduleConfig {
            num_train_timesteps: 101,
            continuous,
            ..config.clone()
        };
        Schedule::new(config)
            .unwrap()
            .noise_rate((t * 100.0).round())
            .powi(2)
    };
    let (discrete, continuous) = (read(false), read(true));
    assert!((discrete - continuous).abs() < 1e-14);
    continuous
}

/// clear-diffusion-keras, `schedules.py`: each is a function of the start and end noise power.
#[test]
fn the_seven_schedules_of_clear_diffusion() {
    type Kind = fn(LogSnrEnds) -> ScheduleKind;
    type Definition = fn(f64, f64, f64) -> f64;
    let definitions: [(Kind, Definition); 7] = [
        (ScheduleKind::NoisePowerLinear, |start, end, t| {
            start + t * (end - start)
        }),
        (ScheduleKind::NoisePowerCosine, |start, end, t| {
            let (start_angle, end_angle) = (start.sqrt().asin(), end.sqrt().asin());
            (start_angle + t * (end_angle - start_angle)).sin().powi(2)
        }),
        (ScheduleKind::LogSnrLinear, |start, end, t| {
            let log_snr = |power: f64| ((1.0 - power) / power).ln();
            1.0 / (1.0 + ((1.0 - t) * log_snr(start) + t * log_snr(end)).exp())
        }),
        (ScheduleKind::LogNoiseLinear, |start, end, t| {
            start * (end / start).powf(t)
        }),
        (ScheduleKind::LogSignalLinear, |start, end, t| {
            1.0 - (1.0 - start) * ((1.0 - end) / (1.0 - start)).powf(t)
        }),
        (ScheduleKind::NoiseStepLinear, |start, end, t| {
            end * (start / end).powf((1.0 - t).powi(2))
        }),
        (ScheduleKind::SignalStepLinear, |start, end, t| {
            1.0 - (1.0 - start) * ((1.0 - end) / (1.0 - start)).powf(t * t)
        }),
    ];
    for (start_log_snr, end_log_snr) in [(3.0, -10.0), (2.5, -7.5), (8.0, -2.0)] {
        let power = |log_snr: f64| 1.0 / (1.0 + log_snr.exp());
        for (kind, definition) in definitions {
            let config = ScheduleConfig::of(kind(LogSnrEnds {
                start_log_snr,
                end_log_snr,
            }));
            for t in PLACES {
                let expected = definition(power(start_log_snr), power(end_log_snr), t);
                let ours = noise_power(&config, t);
                assert!(
                    (ours - expected).abs() < 1e-12,
                    "{} {t}: {ours} {expected}",
                    config.kind.name()
                );
            }
        }
    }
}

/// The Keras example "Denoising Diffusion Implicit Models", `diffusion_schedule`.
#[test]
fn the_angles_of_the_keras_example() {
    let (max_signal_rate, min_signal_rate) = (0.95f64, 0.02f64);
    let config = ScheduleConfig {
        kind: ScheduleKind::AngleLinear(Default::default()),
        ..Default::default()
    };
    for diffusion_time in PLACES {
        let (start_angle, end_angle) = (max_signal_rate.acos(), min_signal_rate.acos());
        let diffusion_angle = start_angle + diffusion_time * (end_angle - start_angle);
        let noise_rate = diffusion_angle.sin();
        let ours = noise_power(&config, diffusion_time).sqrt();
        assert!((ours - noise_rate).abs() < 1e-12, "{diffusion_time}");
    }
}

/// Chen 2023, "On the Importance of Noise Scheduling for Diffusion Models", algorithm 1: the code
/// of `sigmoid_schedule`, at t = 1/T, 2/T, .. 1.
#[test]
fn the_sigmoid_of_jabri_and_of_chen() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (start, end, tau) in [(-3.0, 3.0, 1.0), (-3.0, 3.0, 0.9), (0.0, 3.0, 0.3)] {
        for continuous in [false, true] {
            let schedule = Schedule::new(ScheduleConfig {
                kind: ScheduleKind::Sigmoid(Sigmoid {
                    sigmoid_start: start,
                    sigmoid_end: end,
                    tau,
                }),
                num_train_timesteps: 100,
                continuous,
                ..Default::default()
            })
            .unwrap();
            for timestep in 0..100 {
                let t = f64::from(timestep + 1) / 100.0;
                let v_start = sigmoid(start / tau);
                let v_end = sigmoid(end / tau);
                let output = sigmoid((t * (end - start) + start) / tau);
                let gamma = ((v_end - output) / (v_end - v_start)).clamp(1e-9, 1.0);
                let ours = schedule.signal_rate(f64::from(timestep)).powi(2);
                assert!(
                    (ours - gamma).abs() < 1e-12,
                    "{start} {end} {tau} {timestep}"
                );
            }
        }
    }
}

/// Song et al. 2021, "Score-Based Generative Modeling through SDEs", eq. 33: the variance-preserving
/// diffusion whose beta runs from 0.1 to 20, which is DDPM's range times T.
#[test]
fn linear_betas_read_continuously_are_the_variance_preserving_sde() {
    let schedule = Schedule::new(ScheduleConfig {
        continuous: true,
        ..Default::default()
    })
    .unwrap();
    for timestep in [0.0, 0.5, 12.3, 499.5, 999.0f64] {
        let t = (timestep + 1.0) / 1000.0;
        let log_mean_coefficient: f64 = -0.25 * t * t * (20.0 - 0.1) - 0.5 * t * 0.1;
        let expected = log_mean_coefficient.exp();
        assert!(
            (schedule.signal_rate(timestep) - expected).abs() < 1e-12,
            "{timestep}"
        );
    }
}

/// Nichol and Dhariwal 2021, eq. 17, read continuously.
#[test]
fn the_cosine_read_continuously_is_its_formula() {
    let schedule = Schedule::new(ScheduleConfig {
        kind: ScheduleKind::Cosine,
        continuous: true,
        ..Default::default()
    })
    .unwrap();
    let f = |t: f64| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
    for timestep in [0.0, 0.5, 12.3, 499.5, 998.0] {
        let expected = f((timestep + 1.0) / 1000.0) / f(0.0);
        let ours = schedule.signal_rate(timestep).powi(2);
        assert!((ours - expected).abs() < 1e-12, "{timestep}");
    }
    assert!((schedule.terminal_signal_rate().powi(2) - 1e-9).abs() < 1e-20);
}

/// Lin et al. 2023, algorithm 1, on a curve that is read continuously.
#[test]
fn a_continuous_curve_can_be_rescaled_to_zero_terminal_snr() {
    let config = ScheduleConfig {
        kind: ScheduleKind::SignalStepLinear(Default::default()),
        continuous: true,
        ..Default::default()
    };
    let plain = Schedule::new(config.clone()).unwrap();
    let rescaled = Schedule::new(ScheduleConfig {
        zero_terminal_snr: true,
        ..config
    })
    .unwrap();
    let (first, last) = (plain.signal_rate(0.0), plain.signal_rate(999.0));
    for timestep in [0.0, 3.7, 500.0, 998.9, 999.0] {
        let expected = (plain.signal_rate(timestep) - last) * first / (first - last);
        assert!((rescaled.signal_rate(timestep) - expected).abs() < 1e-14);
    }
    assert!(rescaled.is_zero_terminal_snr());
}
