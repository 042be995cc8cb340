//! `kiln web`: a page for any web server. `web/tests` opens it in a browser.

use std::fs;

use crate::Workplace;

#[test]
fn a_page_has_all_files_that_it_asks_for() {
    let workplace = Workplace::new();
    let said = workplace.json("web --out site --json");
    assert_eq!(said["models"][0], "digits", "{said}");
    let text = fs::read_to_string(workplace.path("site/models.json")).unwrap();
    let models: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = models[0]["files"].as_array().unwrap();
    assert!(files.len() > 5, "{text}");
    for file in files {
        let file = format!("site/models/digits/{}", file.as_str().unwrap());
        assert!(workplace.path(&file).is_file(), "{file}");
    }
    let wasm = fs::read(workplace.path("site/engine.wasm")).unwrap();
    assert_eq!(&wasm[..4], b"\0asm");
    for file in [
        "index.html",
        "page.js",
        "page.css",
        "worker.js",
        "engine.js",
    ] {
        assert!(workplace.path(&format!("site/{file}")).is_file(), "{file}");
    }

    // It draws what the program draws: its model is the same.
    let drawn = |arguments: &str| workplace.draw(&format!("--count 2 {arguments}"));
    assert_eq!(
        drawn("--model site/models/digits --out one"),
        drawn("--out two")
    );

    // Its own page is replaced, and nothing else.
    workplace.succeed("web site/models/digits --out site");
    fs::write(workplace.path("site/notes.txt"), "mine").unwrap();
    assert!(workplace.fail("web --out site").contains("notes.txt"));
    // A model is no page that may be replaced.
    assert!(workplace.fail("web --out model").contains("is a model"));
    assert!(workplace.path("model/unet").is_dir());
    let said = workplace.fail("play --port 0 --data nowhere");
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn two_models_of_one_name_are_refused() {
    let workplace = Workplace::new();
    workplace.succeed("web --out site");
    let said = workplace.fail("web site/models/digits site/models/digits --out other");
    assert!(said.contains("digits"), "{said}");
    assert!(!workplace.path("other").exists());
}

#[test]
fn a_model_whose_folder_gives_no_name_for_an_address_gets_one() {
    let workplace = Workplace::new();
    workplace.succeed("web --out site");
    fs::rename(workplace.path("site/models/digits"), workplace.path("...")).unwrap();
    let written = workplace.json("web ... --out other --json");
    let name = written["models"][0].as_str().unwrap();
    let model = workplace.path(&format!("other/models/{name}/unet"));
    assert!(!name.is_empty() && model.is_dir(), "{written}");
}
