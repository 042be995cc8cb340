//! `kiln model guide`, and drawing with a guide.

use crate::{Workplace, tiny};

/// The tiny model in `model`, and a worse version of it in `worse`.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    tiny::worse()
        .save(&workplace.path("worse"), Default::default())
        .unwrap();
    workplace
}

#[test]
fn a_model_with_its_guide_draws_as_the_two_of_them_do() {
    let workplace = workplace();
    let draw = |options: &str| workplace.draw(&format!("--steps 5 --count 4 {options}"));
    let outcome = workplace.json(
        "model guide model --by worse --to guided --guidance 1.5 --guidance-interval 0.1-1 --json",
    );
    assert_eq!(outcome["guidance"]["scale"], 1.5);
    let by_default = draw("--model guided");
    let by_hand = "--model model --guide worse --guidance 1.5 --guidance-interval 0.1-1";
    assert_eq!(by_default, draw(by_hand));
    assert_eq!(draw("--model guided --guidance 1"), draw("--model model"));
    assert_ne!(draw("--model guided --guidance 1"), by_default);

    let info = workplace.json("model info guided --json");
    assert_eq!(info["guide"]["guidance"]["interval"][0], 0.1);
    let said = workplace.succeed("model info guided");
    assert!(said.contains("1.5 at noise rates 0.1 to 1"), "{said}");
    // A guide is pushed with its model.
    workplace.succeed("push guided somebody/guided --dry-run card");
    let card = std::fs::read_to_string(workplace.path("card/README.md")).unwrap();
    assert!(
        card.contains("--guidance 1") && card.contains("Guide:"),
        "{card}"
    );
    assert_eq!(draw("--model card"), by_default);
}

#[test]
fn images_are_inverted_without_the_guide() {
    let workplace = workplace();
    workplace.succeed("model guide model --by worse --to guided");
    image::GrayImage::from_fn(6, 6, |x, y| image::Luma([(20 * x + 10 * y) as u8]))
        .save(workplace.path("image.png"))
        .unwrap();
    let noise_of = |arguments: &str| {
        let outcome = workplace.json(&format!("invert image.png --steps 4 {arguments} --json"));
        std::fs::read(workplace.path(outcome["noise"].as_str().unwrap())).unwrap()
    };
    let unguided = noise_of("--model model");
    assert_eq!(noise_of("--model guided"), unguided);
    assert_ne!(noise_of("--model guided --guidance 2"), unguided);
    workplace
        .succeed("interpolate --images image.png image.png --model guided --steps 2 --frames 2");
}

#[test]
fn what_is_no_guide_of_a_model_is_refused() {
    let workplace = workplace();
    tiny::conditional()
        .save(&workplace.path("shapes"), Default::default())
        .unwrap();
    for (arguments, words) in [
        ("model guide model --by shapes --to guided", "classes"),
        ("model guide model --by nowhere --to guided", "nowhere"),
    ] {
        let sentence = workplace.fail(arguments);
        assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
        assert!(!workplace.path("guided").exists());
    }
    let said = workplace.refuse("model guide model --by worse --to guided --guidance=-2");
    assert!(said.contains("of at least 0, such as 2"), "{said}");
}
