//! The experiments that ship with kiln.

use std::path::Path;

use burn::tensor::Device;
use kiln_models::WeightsType;
use kiln_train::{ClassifierExperiment, Experiment, TrainError, load_model};

#[test]
fn every_config_is_an_experiment_whose_schedule_ends_in_noise() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut spaces = [0; 2];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with("-classifier.toml") {
            ClassifierExperiment::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            continue;
        }
        let name = path.to_string_lossy();
        let mut of_students = ["-few-steps.toml", "-few-steps-moments.toml"].into_iter();
        let experiment = match of_students.find_map(|suffix| name.strip_suffix(suffix)) {
            None => Experiment::load(&path, &[]).map_err(TrainError::from),
            // What a student's file leaves out is its teacher's.
            Some(name) => {
                let teacher = tempfile::tempdir().unwrap();
                write_teacher(Path::new(name), teacher.path());
                Experiment::load_student(&path, &[], teacher.path())
            }
        };
        let experiment = experiment.unwrap_or_else(|error| panic!("{error}"));
        let schedule = experiment.build_schedule().unwrap();
        assert_eq!(schedule.warning(), None, "{}", path.display());
        spaces[usize::from(experiment.first_stage.is_some())] += 1;
    }
    assert!(spaces.iter().all(|&count| count > 1), "{spaces:?}");
}

/// Writes the model that ships under the config's name to `folder`, as if its config had trained it: it may be a student.
fn write_teacher(config: &Path, folder: &Path) {
    let pretrained = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pretrained");
    let shipped = pretrained.join(match config.file_name().unwrap().to_str() {
        // It has the networks of its teacher, which does not ship.
        Some("mnist") => "mnist-few-steps",
        name => name.unwrap(),
    });
    let mut model = load_model(&shipped, &Device::flex()).unwrap();
    model.metadata.training.clear();
    model.save(folder, WeightsType::F16).unwrap();
    std::fs::copy(config.with_extension("toml"), folder.join("config.toml")).unwrap();
}
