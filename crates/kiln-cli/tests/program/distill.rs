//! `kiln distill`: from a teacher to a student that draws in few steps.

use std::fs;

use crate::{Workplace, training};

const FEW_STEPS: &str = r#"
[stage_2.distillation]
method = "consistency-distillation"
teacher_steps = 10

[stage_2.training]
steps = 4
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 2
"#;

/// A workplace with a trained model in `run/`, and its student's config.
fn workplace() -> Workplace {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae --out run");
    let velocity = "--set stage_2.prediction=velocity";
    training::train(
        &workplace,
        &format!("train-latent-diffusion --out run {velocity}"),
    );
    fs::write(workplace.path("few-steps.toml"), FEW_STEPS).unwrap();
    workplace
}

fn distil(workplace: &Workplace, arguments: &str) -> String {
    let output = workplace.run(&format!("distill {arguments}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "kiln distill {arguments}: {said}");
    said
}

#[test]
fn a_student_draws_in_four_steps_unless_told_otherwise() {
    let workplace = workplace();
    let said = distil(&workplace, "--model run --config few-steps.toml");
    assert!(said.contains("distillation: 4 steps"), "{said}");
    let student = "runs/few-steps/model";
    let drawn = workplace.json(&format!("sample --model {student} --count 2 --json"));
    assert_eq!(drawn["grids"][0]["steps"], 4, "{drawn}");
    let draw =
        |arguments: &str| workplace.draw(&format!("--model {student} --count 4 {arguments}"));
    let by_default = draw("--out one");
    assert_eq!(
        draw("--steps 4 --sampler consistency --batch 1 --out two"),
        by_default
    );
    assert_ne!(draw("--steps 1 --out three"), by_default);
    assert_ne!(draw("--sampler ddim --out four"), by_default);

    let again = workplace.run(&format!(
        "distill --model {student} --config few-steps.toml --out again"
    ));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && said.contains("itself distilled"),
        "{said}"
    );

    let info = workplace.succeed(&format!("model info {student}"));
    assert!(info.contains("consistency-distillation"), "{info}");
    workplace.succeed(&format!("push {student} somebody/student --dry-run card"));
    let card = fs::read_to_string(workplace.path("card/README.md")).unwrap();
    assert!(card.contains("consistency-distillation"), "{card}");
    // The card's own model draws the same.
    assert_eq!(
        workplace.draw("--model card --count 4 --out five"),
        by_default
    );
}

#[test]
fn the_doctor_compares_a_student_with_its_teacher() {
    let workplace = workplace();
    distil(&workplace, "--model run --config few-steps.toml --out one");
    let progressive = r#"{method="progressive",first_steps=4,last_steps=2}"#;
    distil(
        &workplace,
        &format!(
            "--model run --config few-steps.toml --out two --set stage_2.distillation={progressive}"
        ),
    );
    for (student, steps) in [("one", "in 1 step "), ("two", "in 2 steps ")] {
        let said = workplace.succeed(&format!("doctor {student}/model --teacher run"));
        assert!(
            said.contains(steps) && said.contains("times as far from its teacher's"),
            "{said}"
        );
    }
    let said = workplace.succeed("doctor one/model");
    assert!(!said.contains("times as far"), "{said}");
    let sentence = workplace.fail("doctor one/model --teacher nowhere");
    assert!(sentence.contains("nowhere"), "{sentence}");
    // A model of other images.
    let said = workplace.succeed("doctor one/model --teacher model");
    assert!(
        said.contains("WARNING: the student cannot be compared with this teacher"),
        "{said}"
    );
}

#[test]
fn a_checkpoint_is_a_teacher_too() {
    let workplace = workplace();
    distil(
        &workplace,
        "--model run/diffusion/checkpoints/step-0000002 --config few-steps.toml --out early",
    );
    workplace.succeed("sample --model early/model --count 1 --out drawn");
}

#[test]
fn a_killed_student_goes_on_without_its_teacher() {
    let workplace = workplace();
    distil(
        &workplace,
        "--model run/model --config few-steps.toml --out whole --set stage_2.training.steps=6",
    );
    distil(
        &workplace,
        "--model run/model --config few-steps.toml --out parts",
    );
    fs::rename(workplace.path("run"), workplace.path("gone")).unwrap();
    distil(
        &workplace,
        "--out parts --resume --set stage_2.training.steps=6",
    );
    let weights = |run: &str| {
        let file = format!("{run}/model/unet/diffusion_pytorch_model.safetensors");
        fs::read(workplace.path(&file)).unwrap()
    };
    // The learning rates differ, because the first part was to end after 4 steps. But both are students of one teacher.
    assert_eq!(weights("whole").len(), weights("parts").len());
    workplace.succeed("doctor parts/diffusion/checkpoints/step-0000006");
}

#[test]
fn a_student_goes_on_with_its_own_teacher_alone() {
    let workplace = workplace();
    distil(&workplace, "--model run --config few-steps.toml --out few");
    // What its training began with is put in the teacher's place.
    let start = "few/diffusion/start/unet/diffusion_pytorch_model.safetensors";
    let teacher = fs::read(workplace.path(start)).unwrap();
    let student = "few/model/unet/diffusion_pytorch_model.safetensors";
    fs::copy(workplace.path(student), workplace.path(start)).unwrap();
    let more = "distill --out few --resume --set stage_2.training.steps=6";
    let sentence = workplace.fail(more);
    assert!(
        sentence.contains("the teacher in") && sentence.contains("is not the one"),
        "{sentence}"
    );
    fs::write(workplace.path(start), teacher).unwrap();
    distil(
        &workplace,
        "--out few --resume --set stage_2.training.steps=6",
    );
    // The teacher may be named again.
    distil(
        &workplace,
        "--model run --out few --resume --set stage_2.training.steps=8",
    );
}

#[test]
fn a_record_that_cannot_be_read_stays() {
    let workplace = workplace();
    distil(&workplace, "--model run --config few-steps.toml --out few");
    for folder in ["diffusion/checkpoints", "model"] {
        fs::remove_dir_all(workplace.path("few").join(folder)).unwrap();
    }
    let record = workplace.path("few/diffusion/begun-with.json");
    fs::write(&record, b"\xff\xfe{").unwrap();
    let output = workplace.run("distill --out few --resume");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("begun-with.json"),
        "{said}"
    );
    assert_eq!(fs::read(&record).unwrap(), b"\xff\xfe{");
}

#[test]
fn what_cannot_be_distilled_is_refused_in_a_sentence() {
    let workplace = workplace();
    let distil = "distill --model run --config";
    for (arguments, words) in [
        ("distill --model nowhere --config few-steps.toml".to_owned(), "nowhere"),
        (format!("{distil} experiment.toml"), "[stage_2.distillation]"),
        (
            format!("{distil} few-steps.toml --set stage_2.distillation.guidance=2"),
            "kiln model guide",
        ),
        (
            format!("{distil} few-steps.toml --set stage_2.distillation.method=magic"),
            "consistency-tuning",
        ),
        (
            format!("{distil} few-steps.toml --set stage_2.distillation.method=progressive"),
            "`teacher_steps` does nothing in [stage_2.distillation] of the method `progressive`, which has first_steps, last_steps",
        ),
        (
            format!("{distil} few-steps.toml --set unet.block_out_channels=[16]"),
            "block_out_channels",
        ),
        (
            format!("{distil} few-steps.toml --set sampling.spacing=leading"),
            "sampling.spacing",
        ),
        (
            format!("{distil} few-steps.toml --set vqvae.layers_per_block=2"),
            "keeps the first stage of its teacher, and [vqvae]",
        ),
        (
            format!("{distil} few-steps.toml --set stage_2.distillation.guidance_interval=[0.2,0.8]"),
            "guidance_interval does nothing",
        ),
        (format!("{distil} few-steps.toml --set stage_2.distillation.segments=0"), "distillation.segments"),
        (format!("{distil} few-steps.toml --set stage_2.loss=huber"), "`stage_2.loss` does nothing"),
        (
            "distill --config few-steps.toml --out run --resume".to_owned(),
            "--model",
        ),
        (
            "train-latent-diffusion --config run/config.toml --vqvae run --out other --set stage_2.distillation.method=progressive".to_owned(),
            "kiln distill --model",
        ),
    ] {
        let sentence = workplace.fail(&arguments);
        assert!(sentence.contains(words), "{arguments}: {sentence}");
    }
    let said = workplace.refuse("distill --config few-steps.toml");
    assert!(said.contains("--model"), "{said}");
}
