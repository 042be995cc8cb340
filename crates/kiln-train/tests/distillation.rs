//! A student resumes bit for bit, learns the same on any devices, and takes over from its teacher what its file leaves out.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{
    assert_within, experiment, in_pieces, in_pixel_space, options, pixels, stage_1, stage_2,
    weights,
};
use kiln_checkpoint::{DiffusionModel, ModelSource, weights_hash};
use kiln_diffusion::sampler::Sampler;
use kiln_pipeline::Devices;
use kiln_train::{Experiment, RunOptions, TrainError, load_model};

/// Each method, with students or levels that change within ten steps.
const METHODS: [&str; 6] = [
    r#"{ method = "consistency-tuning", halve_every = 3 }"#,
    r#"{ method = "consistency-distillation", teacher_steps = 20, guidance = 2.0 }"#,
    r#"{ method = "consistency-distillation", teacher_steps = 20, segments = 4, guidance = 2.0 }"#,
    r#"{ method = "moment-matching", student_steps = 4, fewest_steps = 2, guidance = 2.0 }"#,
    r#"{ method = "progressive", first_steps = 8, last_steps = 2, halve_every = 3, guidance = 2.0 }"#,
    r#"{ method = "moment-matching", student_steps = 4, simulated = 0.5, guidance = 2.0 }"#,
];

/// How far the weights of equal trainings may lie apart. The consistency methods divide the difference of two
/// predictions by the distance of their noise levels, which makes its rounding larger: 1.4e-5 was seen on a processor
/// with AVX2. Ten steps move a weight by up to 1e-2.
const ROUNDING: f32 = 5e-5;

/// A teacher in pixel space, with classes and a null class.
fn teacher(place: &Path) -> PathBuf {
    let options = options(&place.join("teacher"));
    in_pixel_space(&pixels(&["stage_2.prediction=velocity"]), &options).unwrap();
    options.out.join("model")
}

fn student(method: &str, overrides: &[&str]) -> Experiment {
    let distillation = format!("stage_2.distillation={method}");
    let own = ["stage_2.prediction=velocity", &distillation];
    pixels(&[&own, overrides].concat())
}

fn in_folder(folder: PathBuf, teacher: &Path) -> RunOptions {
    RunOptions {
        initial_weights: Some(teacher.to_owned()),
        ..options(&folder)
    }
}

#[test]
fn every_method_resumes_bit_for_bit_from_any_step() {
    let place = tempfile::tempdir().unwrap();
    let teacher = teacher(place.path());
    for (number, method) in METHODS.into_iter().enumerate() {
        let experiment = student(method, &[]);
        let folder = place.path().join(number.to_string());
        let whole = in_folder(folder.join("whole"), &teacher);
        in_pixel_space(&experiment, &whole).unwrap();
        let pieces = in_folder(folder.join("pieces"), &teacher);
        in_pieces(in_pixel_space, &experiment, &pieces, &[1, 3, 4, 6, 8]);
        assert!(weights(&whole.out) == weights(&pieces.out), "{method}");
        assert!(
            weights(&whole.out) != weights(&place.path().join("teacher")),
            "{method}: nothing was learnt"
        );
        let picture = |run: &RunOptions| {
            std::fs::read(run.out.join("diffusion/samples/step-0000010.png")).unwrap()
        };
        assert!(picture(&whole) == picture(&pieces), "{method}");
        let newest = pieces.out.join("diffusion/checkpoints/step-0000010");
        load_model(&newest, &Device::flex()).unwrap();
    }
}

/// A resumed run has its teacher, guide and all, and needs it nowhere else.
#[test]
fn a_teacher_may_go_once_its_student_has_begun() {
    let place = tempfile::tempdir().unwrap();
    let teacher = teacher(place.path());
    let experiment = student(METHODS[1], &[]);
    let whole = in_folder(place.path().join("whole"), &teacher);
    in_pixel_space(&experiment, &whole).unwrap();
    let pieces = in_folder(place.path().join("pieces"), &teacher);
    let stop = kiln_train::StopSignal::before_step(5);
    in_pixel_space(
        &experiment,
        &RunOptions {
            stop,
            ..pieces.clone()
        },
    )
    .unwrap();
    std::fs::remove_dir_all(place.path().join("teacher")).unwrap();
    let checkpoint = pieces.out.join("diffusion/checkpoints/step-0000005");
    load_model(&checkpoint, &Device::flex()).unwrap();
    let resumed = RunOptions {
        resume: true,
        ..options(&pieces.out)
    };
    in_pixel_space(&experiment, &resumed).unwrap();
    assert!(weights(&whole.out) == weights(&pieces.out));
}

/// Its own teacher is still the one that it learns from. A run that was killed early knows both.
#[test]
fn a_student_may_begin_where_another_one_ended() {
    let place = tempfile::tempdir().unwrap();
    let teacher = teacher(place.path());
    let first = in_folder(place.path().join("first"), &teacher);
    in_pixel_space(&student(METHODS[2], &[]), &first).unwrap();
    let experiment = student(METHODS[3], &[]);
    let trained = |name: &str, begins_with: Option<PathBuf>| {
        let options = RunOptions {
            student: begins_with,
            ..in_folder(place.path().join(name), &teacher)
        };
        in_pixel_space(&experiment, &options).unwrap();
        options.out
    };
    let second = trained("second", Some(first.out.join("model")));
    let alone = trained("alone", None);
    assert!(weights(&second) != weights(&alone));
    let bytes = |model: PathBuf| {
        std::fs::read(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap()
    };
    let unet = |model: PathBuf| load_model(&model, &Device::flex()).unwrap().unet;
    assert_eq!(
        weights_hash(&unet(second.join("diffusion/start"))),
        weights_hash(&unet(teacher.clone()))
    );

    let whole = bytes(second.join("model"));
    for folder in ["model", "diffusion/checkpoints"] {
        std::fs::remove_dir_all(second.join(folder)).unwrap();
    }
    let resumed = RunOptions {
        resume: true,
        ..options(&second)
    };
    in_pixel_space(&experiment, &resumed).unwrap();
    assert!(bytes(second.join("model")) == whole);
}

#[test]
fn every_method_learns_the_same_on_two_devices_and_in_micro_batches() {
    let place = tempfile::tempdir().unwrap();
    let teacher = teacher(place.path());
    for (number, method) in METHODS.into_iter().enumerate() {
        let trained = |name: &str, devices: &str, batch_size: usize, accumulate: usize| {
            let sizes = [("batch_size", batch_size), ("accumulate", accumulate)];
            let sizes = sizes.map(|(key, size)| format!("stage_2.training.{key}={size}"));
            let folder = place.path().join(number.to_string()).join(name);
            let options = RunOptions {
                devices: Devices::parse(devices).unwrap(),
                ..in_folder(folder, &teacher)
            };
            let experiment = student(method, &sizes.each_ref().map(String::as_str));
            in_pixel_space(&experiment, &options).unwrap();
            weights(&options.out)
        };
        let whole = trained("whole", "cpu", 8, 1);
        assert_within(ROUNDING, &trained("devices", "cpu:2", 4, 1), &whole, method);
        assert_within(ROUNDING, &trained("micro", "cpu", 2, 4), &whole, method);
    }
}

#[test]
fn a_student_in_latents_takes_over_what_its_file_leaves_out() {
    let place = tempfile::tempdir().unwrap();
    let run = options(&place.path().join("teacher"));
    let experiment = experiment(&["stage_2.prediction=velocity"]);
    stage_1(&experiment, &run).unwrap();
    stage_2(&experiment, &run).unwrap();
    let teacher = run.out.join("model");
    let file = place.path().join("few-steps.toml");
    let text = r#"
        [stage_2.distillation]
        method = "progressive"
        first_steps = 4
        last_steps = 2
        [stage_2.training]
        steps = 10
        batch_size = 8
        learning_rate = 1e-3
        checkpoint_every = 5
        validation_images = 16
    "#;
    std::fs::write(&file, text).unwrap();
    let student = Experiment::load_student(&file, &[], &teacher).unwrap();
    assert_eq!(student.unet, experiment.unet);
    assert_eq!(student.data, experiment.data);
    assert_eq!(student.stage_2.prediction, experiment.stage_2.prediction);
    assert_eq!(student.sampling.steps, 2);
    let folder = in_folder(place.path().join("student"), &teacher);
    stage_2(&student, &folder).unwrap();
    let model = ModelSource::Folder(folder.out.join("model"));
    let model = DiffusionModel::load(&model, &Device::flex()).unwrap();
    assert!(matches!(model.scheduler.sampler, Sampler::Ddim { .. }));
    assert_eq!(model.metadata.sampling_steps, Some(2));
    assert_eq!(model.metadata.training["distilled_by"], "progressive");
    // The run's own file is whole: nothing is needed to read it.
    let again = Experiment::load(&folder.out.join("config.toml"), &[]).unwrap();
    assert_eq!(again.to_toml().unwrap(), student.to_toml().unwrap());

    let overrides = ["stage_2.distillation.method=consistency-distillation".to_owned()];
    let refused = Experiment::load_student(&file, &overrides, &teacher).unwrap_err();
    assert!(refused.to_string().contains("first_steps"), "{refused}");
    let text = text.replace("[stage_2.distillation]", "[sampling]");
    std::fs::write(&file, text.split("method").next().unwrap()).unwrap();
    let refused = Experiment::load_student(&file, &[], &teacher).unwrap_err();
    assert!(refused.to_string().contains("training"), "{refused}");

    // Another model may take the teacher's place: a student that goes on has its own copy.
    std::fs::remove_dir_all(teacher.join("vqvae")).unwrap();
    let further = Experiment::parse(
        &student.to_toml().unwrap(),
        "further",
        &["stage_2.training.steps=12".to_owned()],
    );
    let resumed = RunOptions {
        resume: true,
        ..options(&folder.out)
    };
    stage_2(&further.unwrap(), &resumed).unwrap();
}

#[test]
fn what_a_teacher_has_not_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let sentence = |experiment: &Experiment, options: &RunOptions| -> String {
        let refused: TrainError = in_pixel_space(experiment, options).unwrap_err();
        refused.to_string()
    };
    let nobody = options(&place.path().join("nobody"));
    let without_teacher = sentence(&student(METHODS[0], &[]), &nobody);
    assert!(
        without_teacher.contains("kiln distill --model"),
        "{without_teacher}"
    );

    // Nothing to be guided by: no null class.
    let classes = ["stage_2.label_dropout=0.0", "unet.num_class_embeds=10"];
    let plain = options(&place.path().join("plain"));
    let experiment = pixels(&[&["stage_2.prediction=velocity"], &classes[..]].concat());
    in_pixel_space(&experiment, &plain).unwrap();
    let guided = student(METHODS[1], &classes);
    let folder = in_folder(place.path().join("guided"), &plain.out.join("model"));
    let without_null_class = sentence(&guided, &folder);
    assert!(without_null_class.contains("guid"), "{without_null_class}");

    // Another prediction or schedule than the teacher's, so that its answers would be misread.
    for key in ["stage_2.prediction=noise", "schedule.kind=cosine"] {
        let other = student(METHODS[1], &[&[key], &classes[..]].concat());
        let place = place.path().join(key);
        let folder = in_folder(place, &plain.out.join("model"));
        let misread = sentence(&other, &folder);
        assert!(misread.contains("leave the key out"), "{key}: {misread}");
    }

    let signal = Experiment::parse(
        &student(METHODS[1], &[]).to_toml().unwrap(),
        "test",
        &["stage_2.prediction=signal".to_owned()],
    );
    let signal = signal.unwrap_err().to_string();
    assert!(signal.contains("progressive"), "{signal}");
}
