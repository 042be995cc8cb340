//! `kiln sample` with a model that has classes.

use crate::{Workplace, gray, tiny};

fn workplace() -> Workplace {
    let workplace = Workplace::new();
    tiny::conditional()
        .save(&workplace.path("shapes"), Default::default())
        .unwrap();
    workplace
}

#[test]
fn every_class_has_a_row() {
    let workplace = workplace();
    let outcome = workplace.json("sample --model shapes --steps 3 --count 4 --json");
    assert_eq!(outcome["classes"], serde_json::json!(tiny::CLASSES));
    let all = gray(&workplace.path("samples/steps-0003.png"));
    assert_eq!(all.dimensions(), (4 * 8 + 2, 3 * 8 + 2));

    let outcome = workplace.json("sample --model shapes --steps 3 --count 4 --class star,1 --json");
    assert_eq!(outcome["classes"], serde_json::json!(["star", "square"]));
    let two = gray(&workplace.path("samples/steps-0003-2.png"));
    assert_eq!(two.dimensions(), (4 * 8 + 2, 2 * 8 + 2));
    let pairs = two
        .rows()
        .take(9)
        .flatten()
        .zip(all.rows().skip(16).flatten());
    let largest = pairs
        .map(|(one, other)| one.0[0].abs_diff(other.0[0]))
        .max();
    assert!(largest <= Some(1), "stars are stars: {largest:?}");

    let said = workplace.succeed("sample --model shapes --steps 1");
    assert!(
        said.contains("24 images") && said.contains("circle, square, star"),
        "{said}"
    );
}

#[test]
fn one_class_fills_the_grid() {
    let workplace = workplace();
    workplace.succeed("sample --model shapes --steps 2 --count 9 --class 0 --guidance 2.5");
    let grid = gray(&workplace.path("samples/steps-0002.png"));
    assert_eq!(grid.dimensions(), (3 * 8 + 2, 3 * 8 + 2));
}

#[test]
fn guidance_acts_in_its_interval() {
    let workplace = workplace();
    let draw = |options: &str| {
        workplace.draw(&format!(
            "--model shapes --steps 6 --count 6 --class 1 {options}"
        ))
    };
    let plain = draw("");
    assert_eq!(draw("--guidance 1"), plain);
    assert_eq!(draw("--guidance 4 --guidance-interval 0-0.000001"), plain);
    assert_ne!(draw("--guidance 4"), plain);
}

#[test]
fn images_are_changed_within_a_class_or_without_one() {
    let workplace = workplace();
    image::GrayImage::new(6, 6)
        .save(workplace.path("image.png"))
        .unwrap();
    for arguments in [
        "invert image.png --class star",
        "invert image.png",
        "interpolate --seeds 1,2 --frames 2 --class 2 --guidance 2",
        "inpaint image.png --mask image.png --class 0,1",
        "sample --from image.png --count 2",
    ] {
        workplace.succeed(&format!("{arguments} --model shapes --steps 2"));
    }
}

#[test]
fn impossible_classes_are_refused_in_a_sentence() {
    let workplace = workplace();
    image::GrayImage::new(6, 6)
        .save(workplace.path("image.png"))
        .unwrap();
    for (arguments, words) in [
        ("sample --model shapes --class 3", "`3`"),
        ("sample --model shapes --class triangle", "`triangle`"),
        ("sample --model shapes --class 01", "no class `01`"),
        ("sample --model shapes --class +1", "no class `+1`"),
        ("sample --model shapes --class 1 --class all", "goes alone"),
        ("sample --model shapes --class all,star", "goes alone"),
        ("sample --model model --class 0", "without class labels"),
        ("sample --model model --guidance 2", "cannot be guided"),
        (
            "sample --model shapes --guidance-interval 0.2-0.8",
            "--guidance",
        ),
        ("sample --model model --guide shapes", "classes"),
        ("sample --model model --guide nowhere", "nowhere"),
        (
            "invert image.png --model shapes --class 0,1 --steps 2",
            "one class at a time",
        ),
    ] {
        let sentence = workplace.fail(arguments);
        assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
    }
    for (arguments, words) in [
        ("--guidance=-1", "of at least 0, such as 2"),
        ("--guidance nan", "of at least 0, such as 2"),
        ("--guidance 2 --guidance-interval 0.8-0.2", "0.2-0.8"),
    ] {
        let said = workplace.refuse(&format!("sample --model shapes {arguments}"));
        assert!(said.contains(words), "{arguments}: {said}");
    }
}

#[test]
fn names_with_commas_can_be_asked_for() {
    let workplace = Workplace::new();
    let mut model = tiny::conditional();
    model.metadata.class_names = ["red", "red,round", "all"].map(str::to_owned).into();
    let folder = workplace.path("fruit");
    model.save(&folder, Default::default()).unwrap();
    let drawn = |arguments: &str| {
        let outcome = format!("sample --model fruit --steps 1 --count 1 --json {arguments}");
        let classes = workplace.json(&outcome)["classes"].clone();
        serde_json::from_value::<Vec<String>>(classes).unwrap()
    };
    assert_eq!(drawn("--class red,round"), ["red,round"]);
    assert_eq!(drawn("--class red,red,round"), ["red", "red,round"]);
    assert_eq!(drawn("--class red,round,red"), ["red,round", "red"]);
    assert_eq!(drawn("--class red,2,1"), ["red", "all", "red,round"]);
    assert_eq!(drawn("--class red --class red,round"), ["red", "red,round"]);
    // A class with that name; the other classes are not included.
    assert_eq!(drawn("--class all"), ["all"]);
    let sentence = workplace.fail("sample --model fruit --class round");
    assert!(sentence.contains("no class `round`"), "{sentence}");
    let said = |list: &str| {
        let arguments = format!("sample --model fruit --steps 1 --count 1 --class {list}");
        let output = workplace.run(&arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!said("red,round").contains("several meanings"));
    let ambiguous = said("0,red,round,red");
    assert!(!ambiguous.contains("several meanings"), "{ambiguous}");
    model.metadata.class_names = ["red", "round", "red,round"].map(str::to_owned).into();
    model.save(&folder, Default::default()).unwrap();
    let ambiguous = said("red,round");
    assert!(ambiguous.contains("taken as `red,round`"), "{ambiguous}");
    let mut spaced = crate::program(
        &workplace.path(""),
        "sample --model fruit --steps 1 --json --count 1",
    );
    let output = spaced.args(["--class", "red, red,round"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
