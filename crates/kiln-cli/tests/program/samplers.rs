//! Every sampler with its default settings draws digits, on a model that takes many steps.

use serde_json::Value;

use crate::Workplace;

/// The figure in the row of this sampler or landmark.
fn figure(row: &Value, name: &str) -> f64 {
    row["figures"][name]["value"].as_f64().unwrap()
}

#[test]
fn all_draw_digits_as_near_to_real_ones_as_ddim_does() {
    let workplace = Workplace::new();
    let samplers = "ddim,ddpm,euler,heun,second-order,adams-bashforth,pndm,dpm-solver,unipc";
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let line = format!(
        "evaluate --model {root}/pretrained/mnist-many-steps --config {root}/configs/mnist-quick.toml --steps 20 --samplers {samplers} --count 100 --real 1000 --json"
    );
    let outcome = workplace.json(&line);
    let drawn: Vec<_> = (outcome["rows"].as_array().unwrap().iter())
        .filter(|row| row["sampling"].is_object())
        .collect();
    assert_eq!(drawn.len(), samplers.split(',').count());
    let ddim = drawn[0];
    for row in &drawn {
        let distance = figure(row, "Frechet");
        let limit = 1.3 * figure(ddim, "Frechet");
        assert!(distance <= limit, "{distance} of {limit}: {row}");
        assert!(figure(row, "confident") > 0.85, "{row}");
    }
}

#[test]
fn what_a_distilled_model_did_not_learn_is_warned_of() {
    let workplace = Workplace::new();
    let digits = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../pretrained/mnist-classes"
    );
    let digits = format!("--model {digits} --class 3");
    let said = |settings: &str| {
        let line = format!("sample --count 1 --out drawn {settings}");
        let output = workplace.run(&line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        [
            said.contains("this model was distilled to draw in about 4,"),
            said.contains("this model was distilled with a guidance of"),
        ]
    };
    assert_eq!(said(&digits), [false, false]);
    assert_eq!(said(&format!("{digits} --steps 8")), [false, false]);
    assert_eq!(said(&format!("{digits} --steps 9")), [true, false]);
    assert_eq!(said(&format!("{digits} --guidance 2")), [false, true]);
    // This one was not distilled.
    let undistilled = "--model model --sampler consistency --segments 4 --steps 9";
    assert_eq!(said(undistilled), [false, false]);
}

#[test]
fn steps_where_nothing_is_to_be_seen_are_warned_of() {
    let workplace = Workplace::new();
    let warning = |line: &str| {
        let output = workplace.run(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        said.contains("steps lie where the signal rate is below 0.01")
    };
    assert!(warning(
        "sample --count 1 --steps 4 --spacing karras --out karras"
    ));
    assert!(!warning("sample --count 1 --steps 4 --out own"));
}
