//! temporary
use kiln_train::*;
#[test]
#[ignore]
fn run() {
    let config = std::env::var("CONFIG").unwrap();
    let sets: Vec<String> = std::env::var("SETS")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let experiment = Experiment::load(config.as_ref(), &sets).unwrap_or_else(|e| panic!("{e}"));
    let options = RunOptions {
        out: std::env::var("OUT").unwrap().into(),
        resume: std::env::var("RESUME").is_ok(),
        devices: Devices::parse(&std::env::var("DEV").unwrap_or("cpu".into())).unwrap(),
        strategy: Strategy::Main,
        vqvae: None,
        stop: StopSignal::default(),
    };
    let stage = std::env::var("STAGE").unwrap();
    if stage.contains('1') {
        println!(
            "{}",
            train_vqvae(&experiment, &options, &kiln_data::NoProgress)
                .unwrap_or_else(|e| panic!("{e}"))
        );
    }
    if stage.contains('2') {
        println!(
            "{}",
            train_latent_diffusion(&experiment, &options, &kiln_data::NoProgress)
                .unwrap_or_else(|e| panic!("{e}"))
        );
    }
}
