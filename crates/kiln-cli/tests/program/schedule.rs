//! `kiln schedule`.

use std::fs;

use crate::{Workplace, tiny, training::EXPERIMENT};

/// A workplace with two experiments: DDPM's betas over 200 and over 1000 timesteps.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    let short = EXPERIMENT.replace("[schedule]", "[schedule]\nnum_train_timesteps = 200");
    fs::write(workplace.path("short.toml"), short).unwrap();
    fs::write(workplace.path("long.toml"), EXPERIMENT).unwrap();
    workplace
}

#[test]
fn schedules_of_configs_and_models_are_compared() {
    let workplace = workplace();
    let shown = workplace.json(
        "schedule --config short.toml --config long.toml --model model --steps 10 --plot s.png --json",
    );
    let names: Vec<_> = (0..3)
        .map(|index| shown["schedules"][index]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["short", "long", "model"]);
    for (index, timesteps) in [200, 1000, tiny::TIMESTEPS].into_iter().enumerate() {
        let schedule = &shown["schedules"][index];
        assert_eq!(schedule["num_train_timesteps"], timesteps);
        assert_eq!(schedule["visited"].as_array().unwrap().len(), 10);
        assert_eq!(schedule["warning"].is_string(), timesteps < 1000);
    }
    // The square root of the product of 1 - beta, computed by PyTorch in f64.
    let terminal = shown["schedules"][0]["terminal_signal_rate"].as_f64();
    assert!((terminal.unwrap() - 0.364).abs() < 1e-3, "{terminal:?}");
    let picture = image::open(workplace.path("s.png")).unwrap();
    assert_eq!(picture.width(), 1280);
    // The panels, and the legend below them.
    assert!(picture.height() > 456, "{}", picture.height());
    fs::write(workplace.path("mine.svg"), "mine").unwrap();
    for _ in 0..2 {
        let shown = workplace.json("schedule --config short.toml --plot mine.svg --json");
        assert_eq!(shown["plot"], "mine-2.svg");
    }
    assert_eq!(fs::read(workplace.path("mine.svg")).unwrap(), b"mine");
}

#[test]
fn keys_of_the_configs_can_be_overridden() {
    let workplace = workplace();
    let cosine =
        "schedule --config short.toml --config long.toml --set schedule.kind=cosine --json";
    let shown = workplace.json(cosine);
    for index in 0..2 {
        assert_eq!(shown["schedules"][index]["kind"], "cosine");
    }
}

#[test]
fn words_list_the_steps_and_the_warning() {
    let workplace = workplace();
    let said = workplace.succeed("schedule --config short.toml --steps 4 --spacing trailing");
    for words in [
        "short",
        "linear",
        "200",
        "0.364",
        "warning",
        "199 149 99 49",
    ] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_in_a_sentence() {
    let workplace = workplace();
    for (arguments, words) in [
        ("--config nowhere.toml", "nowhere.toml"),
        ("--model nowhere", "holds no schedule"),
        ("--config long.toml --steps 1001", "from 1 to 1000"),
        ("--config long.toml --plot s.pdf", ".svg or .png"),
        ("--config long.toml --plot long.toml/s.svg", "long.toml"),
    ] {
        let sentence = workplace.fail(&format!("schedule {arguments}"));
        assert!(sentence.contains(words), "schedule {arguments}: {sentence}");
    }
    for (arguments, words) in [
        ("", "--config"),
        ("--config a --spacing wide", "trailing"),
        ("--config a --steps 0", "such as 50"),
    ] {
        let said = workplace.refuse(&format!("schedule {arguments}"));
        assert!(said.contains(words), "schedule {arguments}: {said}");
    }
}

#[test]
fn columns_line_up_whatever_the_names() {
    let workplace = workplace();
    let long = EXPERIMENT.replace("[schedule]", "[schedule]\nkind = \"noise-power-cosine\"");
    fs::write(workplace.path("one-with-a-long-name.toml"), long).unwrap();
    let said = workplace.succeed("schedule --config short.toml --config one-with-a-long-name.toml");
    let table: Vec<&str> = said.lines().take(3).collect();
    let widths: Vec<_> = table.iter().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|&width| width == widths[0]), "{said}");
    let kind = table[0].find("kind").unwrap();
    assert!(table[1][kind..].starts_with("linear"), "{said}");
    assert!(table[2][kind..].starts_with("noise-power-cosine"), "{said}");
}
