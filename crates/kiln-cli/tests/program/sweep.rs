//! `kiln sweep`, and `kiln runs` over what it leaves.

use std::fs;

use serde_json::Value;

use crate::{
    Workplace,
    training::{self, PIXELS},
};

fn workplace() -> Workplace {
    let workplace = training::workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    workplace
}

/// Runs a sweep, whose progress goes to stderr.
fn swept(workplace: &Workplace, arguments: &str) -> Value {
    let output = workplace.run(&format!("sweep {arguments} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kiln sweep {arguments}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The results without the times.
fn untimed(results: &Value) -> Value {
    let mut results = results.clone();
    for point in results["points"].as_array_mut().unwrap() {
        for run in point["runs"].as_array_mut().unwrap() {
            run["seconds_a_step"].take();
        }
    }
    results
}

const RATES: &str = "--config experiment.toml --data photos --set stage_2.training.learning_rate=1e-4,1e-2 --set stage_2.training.checkpoint_every=2";

#[test]
fn a_sweep_compares_its_runs_and_goes_on_as_it_began() {
    let workplace = workplace();
    let results = swept(&workplace, &format!("{RATES} --seeds 2 --out sweep"));
    let points = results["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        let runs = point["runs"].as_array().unwrap();
        let losses = runs.iter().map(|run| run["newest"]["loss/valid"].as_f64());
        let losses: Vec<f64> = losses.map(Option::unwrap).collect();
        assert!(losses.len() == 2 && losses[0] != losses[1], "{losses:?}");
    }
    let table = fs::read_to_string(workplace.path("sweep/results.md")).unwrap();
    assert!(
        table.contains("learning_rate=1e-2") && table.contains('±'),
        "{table}"
    );
    assert!(workplace.path("sweep/results.svg").exists());

    // A run of a sweep is what the command for one run makes.
    let run = "sweep/001-learning_rate=1e-2,seed=0";
    workplace.run(&format!(
        "train-diffusion --config {run}/config.toml --out alone"
    ));
    let weights = "model/unet/diffusion_pytorch_model.safetensors";
    let of = |run: &str| fs::read(workplace.path(&format!("{run}/{weights}"))).unwrap();
    assert_eq!(of(run), of("alone"));

    let sentence = workplace.fail(&format!("sweep {RATES} --seeds 2 --out sweep"));
    assert!(sentence.contains("--resume"), "{sentence}");
    let sentence = workplace.fail(&format!("sweep {RATES} --seeds 3 --out sweep --resume"));
    assert!(sentence.contains("another sweep"), "{sentence}");
    // One run is lost, and only that one is trained again.
    let before = of(run);
    fs::remove_dir_all(workplace.path(run)).unwrap();
    let output = workplace.run("sweep --resume --out sweep --json");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches(", trained before").count(), 3, "{said}");
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(untimed(&again), untimed(&results));
    assert_eq!(of(run), before);

    let listed = workplace.json("runs sweep --json");
    assert_eq!(listed["runs"].as_array().unwrap().len(), 4);
    assert!(
        listed["runs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|run| run["state"] == "finished")
    );
    let other = "sweep/000-learning_rate=1e-4,seed=1";
    let compared = workplace.json(&format!(
        "runs compare {run} {other} --plot both.svg --json"
    ));
    let differ = compared["differences"].as_object().unwrap();
    assert_eq!(
        differ.keys().collect::<Vec<_>>(),
        ["seed", "stage_2.training.learning_rate"]
    );
    assert!(workplace.path("both.svg").exists());
}

#[test]
fn halving_trains_only_the_best_to_the_end_and_as_one_that_never_paused() {
    let workplace = workplace();
    let halved = "--set stage_2.training.steps=8 --halving 2 --out halved";
    let arguments = RATES.replace("1e-2", "1e-2,1e-3,2e-3");
    let results = swept(&workplace, &format!("{arguments} {halved}"));
    let points = results["points"].as_array().unwrap();
    let shares: Vec<f64> = points
        .iter()
        .map(|point| point["share"].as_f64().unwrap())
        .collect();
    assert_eq!(shares, [1.0, 0.5, 0.25, 0.25]);
    let steps: Vec<u64> = (points.iter())
        .map(|point| point["runs"][0]["steps"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [8, 4, 2, 2]);
    let best = points[0]["runs"][0]["folder"].as_str().unwrap();
    workplace.run(&format!(
        "train-diffusion --config {best}/config.toml --out alone"
    ));
    let weights = "model/unet/diffusion_pytorch_model.safetensors";
    let of = |run: &str| fs::read(workplace.path(&format!("{run}/{weights}"))).unwrap();
    assert_eq!(of(best), of("alone"));
    let again = swept(&workplace, "--resume --out halved");
    assert_eq!(untimed(&again), untimed(&results));
    let sentence = workplace.fail("sweep --resume --out halved --maximize x/valid");
    assert!(sentence.contains("halves its points"), "{sentence}");
}

#[test]
fn what_is_no_sweep_is_refused_before_it_begins() {
    let workplace = workplace();
    let config = "--config experiment.toml --data photos";
    fs::create_dir(workplace.path("others")).unwrap();
    fs::write(workplace.path("others/results.md"), "precious").unwrap();
    for (arguments, words) in [
        (config.to_owned(), "only one run"),
        (format!("{config} --set seed=1,no"), "seed"),
        (
            format!("{config} --set stage_2.training.learning_rate=1e-4..1e-2"),
            "--random",
        ),
        (
            format!("{config} --seeds 2 --first-stage"),
            "no first stage",
        ),
        ("--resume --out nowhere".to_owned(), "no sweep to resume"),
        (format!("{config} --set seed=1,1"), "the same training"),
        (
            format!("{config} --config experiment.toml"),
            "the same training",
        ),
        (
            format!(
                "{config} --set stage_2.training.steps=24 --set stage_2.training.checkpoint_every=24 --set seed=1,2 --halving 2"
            ),
            "checkpoint_every=12",
        ),
        (
            format!("{config} --seeds 2 --out others"),
            "not from a sweep",
        ),
        (
            format!("{config} --seeds 2 --minimize loss/validation"),
            "loss/train, loss/valid",
        ),
        (
            format!("{config} --seeds 2 --minimize fid/valid"),
            "no column `fid/valid`",
        ),
    ] {
        let sentence = workplace.fail(&format!("sweep {arguments}"));
        assert!(sentence.contains(words), "{arguments}: {sentence}");
    }
    assert!(!workplace.path("sweeps").exists());
    let sentence = workplace.fail("runs photos");
    assert!(sentence.contains("no run of kiln"), "{sentence}");
}

#[test]
fn a_run_has_a_name_tags_and_an_event_file_that_a_resume_continues() {
    let workplace = workplace();
    let train = |arguments: &str| {
        let output = workplace.run(&format!("train-diffusion --out run {arguments}"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    train("--config experiment.toml --data photos --name first --tag small --log tensorboard");
    let events = || {
        let names = fs::read_dir(workplace.path("run/diffusion")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("events.out.tfevents."))
            .count()
    };
    assert_eq!(events(), 1);
    train("--resume --tag longer --set stage_2.training.steps=6");
    assert_eq!(events(), 2);
    train("--resume --tag renamed");
    let listed = workplace.json("runs . --tag small --tag longer --tag renamed --json");
    let run = &listed["runs"][0];
    assert_eq!(
        (run["name"].as_str(), run["state"].as_str()),
        (Some("first"), Some("finished"))
    );
    assert!(run["stages"][0]["seconds_a_step"].as_f64().is_some());
    let sentence = workplace.fail("runs . --tag large");
    assert!(sentence.contains("large"), "{sentence}");
}

#[test]
fn runs_of_latent_diffusion_share_their_first_stage_and_can_be_swept_by_it() {
    let workplace = training::workplace();
    fs::write(workplace.path("experiment.toml"), training::EXPERIMENT).unwrap();
    let rates = "--set stage_2.training.learning_rate=1e-4,1e-2";
    let config = "--config experiment.toml --data photos";
    swept(&workplace, &format!("{config} {rates} --out second"));
    let first_stages = fs::read_dir(workplace.path("second/first-stages")).unwrap();
    assert_eq!(first_stages.count(), 1);
    let listed = workplace.json("runs second --json");
    let stages = |run: &Value| run["stages"].as_array().unwrap().len();
    let runs = listed["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(stages).collect::<Vec<_>>(), [1, 1, 1]);

    let sizes = "--set vqvae.num_vq_embeddings=4,8 --first-stage --maximize perplexity/valid";
    let results = swept(&workplace, &format!("{config} {sizes} --out first"));
    let points = results["points"].as_array().unwrap();
    let perplexity = |point: &Value| {
        let value = &point["runs"][0]["newest"]["perplexity/valid"];
        value.as_f64().unwrap()
    };
    assert!(perplexity(&points[0]) >= perplexity(&points[1]));
    assert!(!workplace.path("first/first-stages").exists());
}
