//! First stages with terms of their own: what goes on from where, and what is said about it.

use crate::training::{train, workplace};

const ADVERSARIAL: &str = "--set stage_1.adversarial={weight=0.1,start=0,head_start=0,discriminator={channels=8,layers=1}}";

fn said(workplace: &crate::Workplace, arguments: &str) -> String {
    let output = workplace.run(&format!("{arguments} --config experiment.toml"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "kiln {arguments}: {said}");
    said
}

/// Whichever folder of a run is named, stage 1 goes on with its discriminator, or says that there is none.
#[test]
fn a_discriminator_is_found_in_a_finished_run_too() {
    let workplace = workplace();
    train(&workplace, &format!("train-vqvae --out run {ADVERSARIAL}"));
    train(&workplace, "train-latent-diffusion --out run");
    let begun = |with: &str, out: &str| {
        let arguments = format!("train-vqvae --initial-weights {with} --out {out} {ADVERSARIAL}");
        said(&workplace, &arguments)
    };
    for (number, with) in ["run", "run/model", "run/vqvae/model"]
        .into_iter()
        .enumerate()
    {
        let said = begun(with, &format!("next-{number}"));
        assert!(!said.contains("no discriminator"), "{with}: {said}");
    }
    train(&workplace, "train-vqvae --out without");
    let said = begun("without", "after-without");
    assert!(
        said.contains("no discriminator beside") && said.contains("without/vqvae/model"),
        "{said}"
    );
}

#[test]
fn a_term_that_hardly_counts_is_named() {
    let workplace = workplace();
    let late = ADVERSARIAL.replace("weight=0.1,start=0,", "weight=0.1,start=3,ramp=100,");
    let late = said(&workplace, &format!("train-vqvae --out late {late}"));
    assert!(late.contains("ends at 1.0 % of its weight"), "{late}");

    let share = ADVERSARIAL.replace("weight=0.1,start=0,", "weight=0.1,start=\"50%\",ramp=1,");
    let whole = said(&workplace, &format!("train-vqvae --out longer {share}"));
    assert!(!whole.contains("count"), "{whole}");
    let longer = "train-vqvae --out longer --resume --set stage_1.training.steps=20";
    let moved = said(&workplace, longer);
    assert!(
        moved.contains("counted from step 2 on") && moved.contains("until step 10"),
        "{moved}"
    );
}

#[test]
fn weights_that_are_not_there_are_named_with_their_key() {
    let workplace = workplace();
    for (network, advice) in [
        ("classifier", "train-classifier"),
        ("lpips-alexnet", "downloads"),
    ] {
        let perceptual = format!(
            "--set stage_1.perceptual={{weight=1.0,network=\"{network}\",weights=\"lost\"}}"
        );
        let sentence = workplace.fail(&format!(
            "train-vqvae --config experiment.toml --out run {perceptual}"
        ));
        let words = ["no lost", "stage_1.perceptual.weights", advice];
        assert!(
            words.iter().all(|words| sentence.contains(words)),
            "{sentence}"
        );
    }
}

/// Distances between sets need many images. The other figures do not.
#[test]
fn a_first_stage_of_few_images_is_evaluated() {
    let workplace = workplace();
    train(&workplace, "train-vqvae --out run");
    let evaluate = "evaluate --first-stage --model run --config experiment.toml --json";
    let output = workplace.run(evaluate);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("at least 65"),
        "{said}"
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["rows"][0].to_string().contains("PSNR"), "{report}");
    let asked_for = workplace.fail(&format!("{evaluate} --features 6c"));
    assert!(asked_for.contains("at least 65"), "{asked_for}");
}

#[test]
fn a_set_that_goes_below_a_single_value_says_what_to_write() {
    let workplace = workplace();
    let weight =
        "--set stage_1.adversarial.weight=0.5 --set stage_1.adversarial.weight.balanced=3.0";
    let sentence = workplace.fail(&format!("train-vqvae --config experiment.toml {weight}"));
    assert!(
        sentence.contains("--set 'stage_1.adversarial.weight={balanced=3.0}'"),
        "{sentence}"
    );
}

#[test]
fn a_size_of_samples_that_is_not_the_images_is_refused() {
    let workplace = workplace();
    let arguments = "train-vqvae --config experiment.toml --set vqvae.sample_size=32";
    let sentence = workplace.fail(arguments);
    assert!(sentence.contains("the images are 8x8"), "{sentence}");
}
