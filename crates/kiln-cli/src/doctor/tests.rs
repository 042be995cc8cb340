//! A healthy model, and each disease planted in it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln::pictures::Images;
use kiln_checkpoint::{FirstStage, Metadata};
use kiln_data::{DataConfig, DatasetKind, NoProgress};
use kiln_diffusion::sampler::{Sampler, Variance};
use kiln_diffusion::{ScheduleConfig, SchedulerConfig, Spacing};
use kiln_models::ema::EmaConfig;
use kiln_models::{AutoencoderConfig, AutoencoderKlConfig};
use kiln_train::{Experiment, StageRecord};

use super::*;

const TEACHER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../pretrained/mnist-many-steps"
);

/// A model that draws in many steps, on digits that it has not been trained on.
fn healthy() -> Patient {
    with_digits(Patient::open(Path::new(TEACHER), &Device::flex()).unwrap())
}

fn with_digits(patient: Patient) -> Patient {
    let config = DataConfig::new(DatasetKind::Mnist10k, 32, 1);
    let digits = kiln_data::open(&config, &NoProgress).unwrap().validation;
    let mut images = Images::empty(1, 32, 32);
    for index in 0..128 {
        images.extend(&digits.image(index, false).unwrap());
    }
    patient.with_images(&images).unwrap()
}

/// A patient with only the metrics of one stage: `(step, training loss, validation loss)`.
fn trained(losses: &[(usize, f64, f64)], average: EmaConfig) -> Patient {
    let text = include_str!("../../../../configs/mnist-quick.toml");
    let experiment = Experiment::parse(text, "mnist-quick", &[]).unwrap();
    let mut training = experiment.stage_2.training;
    training.ema = Some(average);
    let row = |&(step, train, valid): &(usize, f64, f64)| {
        let values = [("loss/train", train), ("loss/valid", valid)];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        (step, BTreeMap::from(values))
    };
    let mut patient = Patient::unknown("a run".to_owned(), &Device::flex());
    patient.stages.push(StageRecord {
        folder: "nowhere".into(),
        name: "stage 2",
        training,
        rows: losses.iter().map(row).collect(),
        damage: None,
    });
    patient
}

/// The only finding of a check, which must have this severity.
fn only(findings: Findings, severity: Severity) -> Finding {
    let findings = findings.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, severity, "{findings:?}");
    findings[0].clone()
}

#[test]
fn a_damaged_table_of_metrics_is_one_finding() {
    let mut patient = trained(&[], EmaConfig::default());
    patient.stages[0].damage =
        Some("run/metrics.csv is damaged, its last line is cut off".to_owned());
    let finding = only(validation_gap::check(&patient), Severity::Warning);
    assert!(finding.what.contains("last line is cut off"), "{finding:?}");
    // Without its rows it is not known how old the average is.
    let reason = moving_average::check(&patient).unwrap_err();
    assert!(reason.contains("metrics.csv"), "{reason}");
}

#[test]
fn the_models_that_ship_are_healthy() {
    let built_in = with_digits(Patient::pretrained(&Device::flex()).unwrap());
    // A student answers with whole images, which are no means.
    for (patient, skips) in [(healthy(), "student"), (built_in, "loss by timestep")] {
        let examinations = examine(&patient);
        for examined in &examinations {
            assert!(examined.findings.is_empty(), "{examined:?}");
        }
        let mut skipped: Vec<_> = (examinations.iter())
            .filter(|examined| examined.not_examined.is_some())
            .map(|examined| examined.check)
            .collect();
        // Only what `kiln` itself wrote has a list of its files.
        skipped.retain(|&check| check != "files");
        let mut expected = [
            "posterior",
            "discriminator",
            "moving average",
            "validation gap",
            skips,
        ];
        skipped.sort_unstable();
        expected.sort_unstable();
        assert_eq!(skipped, expected);
    }
}

#[test]
fn what_cannot_be_examined_says_what_it_takes() {
    for examined in examine(&Patient::unknown("nothing".to_owned(), &Device::flex())) {
        assert!(examined.not_examined.is_some(), "{}", examined.check);
    }
}

#[test]
fn a_schedule_that_leaves_signal_is_found() {
    let mut patient = healthy();
    patient.scheduler = Some(SchedulerConfig {
        schedule: ScheduleConfig {
            num_train_timesteps: 200,
            ..Default::default()
        },
        ..Default::default()
    });
    let found = only(terminal_snr::check(&patient), Severity::Warning);
    assert!(found.what.contains("0.364"), "{found:?}");
    assert!(
        found.remedy.as_deref().unwrap().contains("scale_betas"),
        "{found:?}"
    );
}

#[test]
fn latents_of_another_scale_are_found() {
    for (factor, severity) in [
        (1.5, Severity::Warning),
        (0.7, Severity::Warning),
        (3.0, Severity::Broken),
        (0.0, Severity::Broken),
        (f64::NAN, Severity::Broken),
    ] {
        let mut patient = healthy();
        patient.latents = patient.latents.map(|latents| latents.mul_scalar(factor));
        let found = only(latent_scale::check(&patient), severity);
        assert!(found.what.contains("standard deviation"), "{found:?}");
    }
}

#[test]
fn dead_codes_are_found_by_encoding() {
    let mut patient = healthy();
    let one = patient.latents.take().unwrap().narrow(0, 0, 1);
    let one_vector = one.narrow(2, 0, 1).narrow(3, 0, 1);
    patient.latents = Some(one_vector.repeat(&[100, 1, 8, 8]));
    let found = only(codebook::check(&patient), Severity::Warning);
    assert!(found.what.contains("only 0.2 %"), "{found:?}");
}

#[test]
fn dead_codes_are_found_in_the_metrics() {
    let mut patient = trained(&[(10, 1.0, 1.0)], EmaConfig::default());
    let stage = &mut patient.stages[0];
    stage.name = "stage 1";
    let row = stage.rows.get_mut(&10).unwrap();
    row.insert("codes in use/valid".to_owned(), 12.5);
    let found = only(codebook::check(&patient), Severity::Warning);
    assert!(found.what.contains("12.5 %"), "{found:?}");
    let row = patient.stages[0].rows.get_mut(&10).unwrap();
    row.insert("codes in use/valid".to_owned(), 80.0);
    assert_eq!(codebook::check(&patient), Ok(Vec::new()));
}

#[test]
fn a_collapsed_posterior_is_found() {
    let config = AutoencoderKlConfig {
        latent_channels: 2,
        sample_size: 8,
        ..AutoencoderKlConfig::default()
    };
    let mut patient = trained(&[(10, 1.0, 1.0)], EmaConfig::default());
    let network = AutoencoderConfig::Kl(config).init(&Device::flex(), 0);
    patient.first_stage = Some(FirstStage {
        network: network.unwrap(),
        metadata: Metadata::default(),
    });
    patient.latents = Some(Tensor::zeros([3, 2, 8, 8], &Device::flex()));
    let stage = &mut patient.stages[0];
    stage.name = "stage 1";
    assert!(posterior::check(&patient).is_err());
    for (divergence, is_healthy) in [(0.01 * 128.0, false), (2.0 * 128.0, true)] {
        let row = patient.stages[0].rows.get_mut(&10).unwrap();
        row.insert("kl/valid".to_owned(), divergence);
        if is_healthy {
            assert_eq!(posterior::check(&patient), Ok(Vec::new()));
        } else {
            let found = only(posterior::check(&patient), Severity::Warning);
            assert!(found.what.contains("0.010 nats"), "{found:?}");
        }
    }
}

#[test]
fn a_young_moving_average_is_found() {
    // Without warm-up, as in most papers.
    let constant = EmaConfig {
        decay: 0.999,
        min_decay: 0.999,
        ..EmaConfig::default()
    };
    let young = trained(&[(100, 1.0, 1.0)], constant.clone());
    let found = only(moving_average::check(&young), Severity::Warning);
    // 0.999^99 of it: the first of the hundred steps sets it.
    assert!(found.what.contains("91 %"), "{found:?}");
    let old = trained(&[(5000, 1.0, 1.0)], constant);
    assert_eq!(moving_average::check(&old), Ok(Vec::new()));
    let warming_up = trained(&[(100, 1.0, 1.0)], EmaConfig::default());
    assert_eq!(moving_average::check(&warming_up), Ok(Vec::new()));
}

#[test]
fn a_network_that_has_learned_nothing_is_found() {
    let mut patient = healthy();
    let model = patient.model.as_mut().unwrap();
    model.unet = model.unet.config().init(&Device::flex(), 0).unwrap();
    let found = only(loss_by_timestep::check(&patient), Severity::Broken);
    assert!(found.what.contains("every timestep"), "{found:?}");
}

#[test]
fn a_network_that_answers_with_nan_is_found() {
    let mut patient = healthy();
    patient.latents = patient.latents.map(|latents| latents.mul_scalar(f64::NAN));
    only(loss_by_timestep::check(&patient), Severity::Broken);
}

#[test]
fn validation_that_rises_is_found() {
    let overfitted = [(10, 1.0, 1.1), (20, 0.5, 0.8), (30, 0.2, 1.0)];
    let patient = trained(&overfitted, EmaConfig::default());
    let found = only(validation_gap::check(&patient), Severity::Warning);
    assert!(found.what.contains("step 20"), "{found:?}");
    let far = trained(&[(10, 1.0, 3.0), (20, 0.4, 1.0)], EmaConfig::default());
    let found = only(validation_gap::check(&far), Severity::Warning);
    assert!(found.what.contains("2.5 times"), "{found:?}");
    let diverged = trained(
        &[(10, 3.8, 2.2), (20, 20.0, 5.0), (30, 46.0, 8.7)],
        EmaConfig::default(),
    );
    let found = only(validation_gap::check(&diverged), Severity::Warning);
    assert!(
        found.remedy.as_deref().unwrap().contains("learning_rate"),
        "{found:?}"
    );
    // Noise is not a gap, and neither is a training loss that rises, too.
    for losses in [
        [(10, 1.0, 1.1), (20, 0.5, 0.8), (30, 0.49, 0.82)],
        [(10, 1.0, 1.1), (20, 0.5, 0.6), (30, 0.9, 1.0)],
    ] {
        let patient = trained(&losses, EmaConfig::default());
        assert_eq!(validation_gap::check(&patient), Ok(Vec::new()));
    }
}

#[test]
fn a_pixel_space_model_has_no_latent_scale() {
    let mut patient = healthy();
    let model = patient.model.as_mut().unwrap();
    model.first_stage = None;
    assert!(latent_scale::check(&patient).is_err());
    patient.latents = Some(Tensor::zeros([1, 3, 32, 32], &Device::flex()));
    let reason = loss_by_timestep::check(&patient).unwrap_err();
    assert!(reason.contains("3x32x32"), "{reason}");
}

#[test]
fn what_is_not_there_is_not_called_well() {
    let mut without_average = trained(&[(10, 1.0, 1.0)], EmaConfig::default());
    without_average.stages[0].training.ema = None;
    assert!(moving_average::check(&without_average).is_err());

    let mut without_validation = trained(&[(10, 1.0, 1.0)], EmaConfig::default());
    let row = without_validation.stages[0].rows.get_mut(&10).unwrap();
    row.remove("loss/valid");
    assert!(validation_gap::check(&without_validation).is_err());

    let mut in_pixel_space = trained(&[(10, 1.0, 1.0)], EmaConfig::default());
    in_pixel_space.run_is_in_pixel_space = true;
    for reason in [
        codebook::check(&in_pixel_space),
        latent_scale::check(&in_pixel_space),
    ] {
        assert!(reason.unwrap_err().contains("pixel space"));
    }
}

#[test]
fn losses_that_are_no_numbers_are_found() {
    let infinite = f64::INFINITY;
    let losses = [(100, 1.0, 1.0), (200, infinite, infinite)];
    let patient = trained(&losses, EmaConfig::default());
    let found = only(validation_gap::check(&patient), Severity::Warning);
    assert!(found.what.contains("no numbers"), "{}", found.what);
}

#[test]
fn a_student_that_draws_in_another_way_than_it_learnt_is_found() {
    let mut patient = healthy();
    assert!(student::check(&patient).is_err());
    let model = patient.model.as_mut().unwrap();
    let method = "consistency-distillation".to_owned();
    model
        .metadata
        .training
        .insert("distilled_by".to_owned(), method);
    // It draws by DDIM in 50 steps.
    assert_eq!(student::check(&patient).unwrap().len(), 2);
    let model = patient.model.as_mut().unwrap();
    model.scheduler.sampler = Sampler::Consistency { segments: 1 };
    model.metadata.sampling_steps = Some(4);
    assert_eq!(student::check(&patient), Ok(Vec::new()));
    assert!(
        loss_by_timestep::check(&patient).is_err(),
        "it is no denoiser"
    );
    // By moment matching a student learns to draw by another sampler.
    let mut matched = healthy();
    let model = matched.model.as_mut().unwrap();
    model.metadata = patient.model.as_ref().unwrap().metadata.clone();
    let method = "moment-matching".to_owned();
    (model.metadata.training).insert("distilled_by".to_owned(), method);
    assert_eq!(student::check(&matched).unwrap().len(), 1);
    matched.model.as_mut().unwrap().scheduler.sampler = Sampler::Ddpm {
        variance: Variance::Small,
    };
    assert_eq!(student::check(&matched), Ok(Vec::new()));
    // It has learnt nothing from its teacher: one step gives the mean of all digits.
    patient.teacher = patient.model.clone();
    let found = only(student::check(&patient), Severity::Warning);
    assert!(found.what.contains("in 1 step "), "{}", found.what);

    // The built-in student draws what it draws.
    let mut own = Patient::pretrained(&Device::flex()).unwrap();
    own.teacher = own.model.clone();
    let model = own.teacher.as_mut().unwrap();
    (model.metadata.training).remove("guidance_learnt");
    let model = own.model.as_mut().unwrap();
    (model.metadata.training).remove("guidance_learnt");
    let found = only(student::check(&own), Severity::Note);
    assert!(found.what.contains("times as far"), "{}", found.what);

    // A progressive student has learnt its own number of steps only.
    let model = own.model.as_mut().unwrap();
    model.scheduler.sampler = Sampler::default();
    let method = "progressive".to_owned();
    (model.metadata.training).insert("distilled_by".to_owned(), method);
    model.metadata.sampling_steps = Some(2);
    let found = only(student::check(&own), Severity::Note);
    assert!(found.what.contains("in 2 steps "), "{}", found.what);

    // Its own faults are told beside the one that it cannot be compared with such a teacher.
    let model = patient.model.as_mut().unwrap();
    let guidance = "guidance_learnt".to_owned();
    (model.metadata.training).insert(guidance.clone(), "2".to_owned());
    model.scheduler.levels.spacing = Spacing::Leading;
    let found = student::check(&patient).unwrap();
    assert!(
        found
            .iter()
            .all(|found| found.severity == Severity::Warning)
    );
    let [own, other] = found.try_into().unwrap();
    assert!(own.what.contains("leading timesteps"), "{}", own.what);
    assert!(other.what.contains("cannot be compared"), "{}", other.what);

    let model = patient.model.as_mut().unwrap();
    model.metadata.training.remove(&guidance);
    model.scheduler.levels.spacing = Spacing::Trailing;
    model.scheduler.sampler = Sampler::Consistency { segments: 8 };
    patient.teacher = None;
    let found = only(student::check(&patient), Severity::Warning);
    assert!(found.what.contains("in 4 steps"), "{}", found.what);
}
