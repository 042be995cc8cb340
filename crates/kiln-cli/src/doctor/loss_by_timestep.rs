//! Whether the U-Net has learnt more than the mean and the spread of its data, timestep by timestep.
//!
//! With only the data's mean m and variance s², the best prediction that is linear in zt = a z0 + b noise is
//!
//! ```text
//! noise = b (zt - a m) / (a² s² + b²)    with the mean squared error    a² s² / (a² s² + b²)
//! ```
//!
//! It is never worse than the prediction of no noise (1) or of the mean image (a² s² / b²). This is the chance level.
//! The noise follows from any prediction of the network, and the ratio of the errors is the same for noise, signal and
//! velocity.

use burn::tensor::{Int, Tensor};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::{Rates, Schedule, noise::ImageNoise};

use super::finding::{Finding, Findings};
use super::latent_scale::mean_and_deviation;
use super::patient::NO_LATENTS;
use super::patient::Patient;

const BANDS: usize = 10;
/// Noisy latents per band.
const PER_BAND: usize = 48;
/// From this share of the chance level on, a network has learnt nothing.
const CHANCE: f64 = 0.95;
/// A smaller error of the noise is not judged: with hardly any signal, good networks are no better than chance.
const NEGLIGIBLE: f64 = 0.05;

/// How well the noise of some timesteps is predicted.
#[derive(Debug)]
struct Band {
    first_timestep: usize,
    last_timestep: usize,
    /// Mean squared error of the network's noise.
    error: f64,
    /// Median over the noisy latents of error / chance level.
    share_of_chance: f64,
}

pub(super) fn check(patient: &Patient) -> Findings {
    let model = (patient.model.as_ref()).ok_or("there is no trained U-Net")?;
    if model.metadata.distilled_by().is_some() {
        return Err(
            "a distilled model answers with whole images, and not with their mean".to_owned(),
        );
    }
    let latents = patient.latents.as_ref().ok_or(NO_LATENTS)?;
    let z0 = latents.clone().mul_scalar(patient.scaling_factor());
    Ok(judge(&measure(model, z0)?, patient.is_in_pixel_space()))
}

fn judge(bands: &[Band], in_pixel_space: bool) -> Vec<Finding> {
    let at_chance: Vec<&Band> = bands.iter().filter(|band| band.is_at_chance()).collect();
    let judged = bands.iter().filter(|band| !band.is_negligible()).count();
    if at_chance.is_empty() {
        return Vec::new();
    }
    let (whose, used) = match in_pixel_space {
        true => ("images'", "schedule and prediction"),
        false => ("latents'", "schedule, prediction and first stage"),
    };
    if at_chance.len() == judged {
        return vec![Finding::broken(
            format!(
                "at every timestep the U-Net predicts noise no better than the {whose} mean and spread do"
            ),
            format!(
                "train longer or with another learning_rate, and use the {used} of its training"
            ),
        )];
    }
    let places: Vec<String> = at_chance.iter().map(|band| band.in_words()).collect();
    vec![Finding::warning(
        format!(
            "at timesteps {} the U-Net predicts noise no better than the {whose} mean and spread do",
            places.join(", ")
        ),
        "train longer, and check that schedule and prediction match its training",
    )]
}

impl Band {
    // NaN is not below anything, so it counts as chance.

    fn is_at_chance(&self) -> bool {
        !(self.share_of_chance < CHANCE || self.is_negligible())
    }

    fn is_negligible(&self) -> bool {
        self.error < NEGLIGIBLE
    }

    fn in_words(&self) -> String {
        format!(
            "{} to {} (noise error {:.3}, {:.2} of chance)",
            self.first_timestep, self.last_timestep, self.error, self.share_of_chance
        )
    }
}

/// The network's errors on `z0` `[images, channels, height, width]`, scaled, over ten bands of timesteps.
fn measure(model: &DiffusionModel, z0: Tensor<4>) -> Result<Vec<Band>, String> {
    let config = model.unet.config();
    let [images, channels, height, width] = z0.dims();
    if config.class_embed_type.is_some() {
        return Err("the U-Net is conditional on something else than classes".to_owned());
    }
    let side = config.sample_size.map(|size| size.height_and_width());
    if channels != config.in_channels || side.is_some_and(|side| side != [height, width]) {
        return Err(format!(
            "the U-Net takes {} channels of {side:?}, but there are latents of {channels}x{height}x{width}",
            config.in_channels
        ));
    }
    let schedule =
        Schedule::new(model.scheduler.schedule.clone()).map_err(|error| error.to_string())?;
    let (_, deviation) = mean_and_deviation(&z0)?;
    let timesteps = schedule.num_train_timesteps();
    (0..BANDS)
        .map(|band| (band * timesteps / BANDS, (band + 1) * timesteps / BANDS))
        .filter(|(first, end)| first < end)
        .map(|(first, end)| {
            // Evenly spread over the band.
            let visited: Vec<f64> = (0..PER_BAND)
                .map(|index| (first + index * (end - first) / PER_BAND) as f64)
                .collect();
            let chosen: Vec<Tensor<4>> = (0..PER_BAND)
                .map(|index| z0.clone().narrow(0, (first + index) % images, 1))
                .collect();
            let errors = noise_errors(model, &schedule, Tensor::cat(chosen, 0), &visited, first)?;
            let mut shares: Vec<f64> = errors
                .iter()
                .zip(&visited)
                .map(|(error, &timestep)| error / chance(schedule.rates(timestep), deviation))
                .collect();
            shares.sort_by(f64::total_cmp);
            Ok(Band {
                first_timestep: first,
                last_timestep: end - 1,
                error: errors.iter().sum::<f64>() / errors.len() as f64,
                share_of_chance: shares[shares.len() / 2],
            })
        })
        .collect()
}

/// a² s² / (a² s² + b²), where s is the data's standard deviation.
fn chance(rates: Rates, deviation: f64) -> f64 {
    let signal = (rates.signal * deviation).powi(2);
    signal / (signal + rates.noise.powi(2))
}

/// The mean squared error of the network's noise for each image, mixed with noise of `seed`.
fn noise_errors(
    model: &DiffusionModel,
    schedule: &Schedule,
    z0: Tensor<4>,
    timesteps: &[f64],
    seed: usize,
) -> Result<Vec<f64>, String> {
    let device = z0.device();
    let [images, channels, height, width] = z0.dims();
    let noise = ImageNoise {
        seed: seed as u64,
        images: (0..images as u64).collect(),
        shape: [channels, height, width],
        device: device.clone(),
    }
    .draw(0);
    let levels: Vec<Rates> = (timesteps.iter())
        .map(|&timestep| schedule.rates(timestep))
        .collect();
    let rates = Rates::batch(&levels, &device);
    let zt = rates.add_noise(z0, noise.clone());
    let config = model.unet.config();
    // The last label is the null class, if there is one, which measures the network without a class.
    let labels = (config.num_class_embeds)
        .map(|classes| Tensor::<1, Int>::full([images], classes as i64 - 1, &device));
    let places = timesteps
        .iter()
        .copied()
        .zip(levels.iter().map(Rates::noise_power));
    let output = (model.unet).forward_at_each(zt.clone(), places, labels);
    let found = model
        .scheduler
        .prediction
        .denoised(output, zt, &rates)
        .noise;
    let errors = (found - noise)
        .square()
        .reshape([images as i32, -1])
        .mean_dim(1);
    let errors = errors
        .try_into_data_as::<f32>()
        .map_err(|error| error.to_string())?;
    Ok(errors.iter::<f32>().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Severity;
    use super::*;

    fn band(first_timestep: usize, error: f64, share_of_chance: f64) -> Band {
        Band {
            first_timestep,
            last_timestep: first_timestep + 99,
            error,
            share_of_chance,
        }
    }

    proptest! {
        #[test]
        fn chance_is_no_worse_than_no_noise_or_the_mean_image(log_snr in -9.0..9.0f64, deviation in 0.1..3.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            let mean_image = (rates.signal * deviation / rates.noise).powi(2);
            prop_assert!(chance(rates, deviation) <= mean_image.min(1.0));
        }
    }

    #[test]
    fn bands_at_chance_are_named_and_bands_without_signal_are_not() {
        let bands = [
            band(0, 0.9, 1.02),
            band(100, 0.4, 0.5),
            band(200, 0.01, 7.0),
        ];
        let findings = judge(&bands, false);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Warning);
        let what = &findings[0].what;
        assert!(what.contains("0 to 99") && !what.contains("200"), "{what}");
        assert!(judge(&bands[1..], false).is_empty() && judge(&[], false).is_empty());
        let lost = [band(0, f64::NAN, f64::NAN), band(200, 0.01, 7.0)];
        assert_eq!(judge(&lost, false)[0].severity, Severity::Broken);
        assert!(judge(&lost, true)[0].what.contains("the images' mean"));
    }
}
