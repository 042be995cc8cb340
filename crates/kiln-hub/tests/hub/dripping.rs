//! Servers that send a little now and then, forever: every part of a conversation has a limit.
//!
//! The bounds are short here. A slow machine sends less in the same time, so no test depends on how fast it is.

use std::fs;
use std::time::Duration;

use kiln_data::{NoProgress, Pace};
use kiln_hub::{HubSettings, Wanted, pull, push};

use crate::server::{Fault, Hub, sha256};
use crate::{model_files, settings, weights};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A server that sends one byte every few milliseconds never reaches this pace.
const SHORT: Pace = Pace {
    bytes: 10_000,
    window: Duration::from_secs(1),
};

/// The result of pulling `a/b` from a Hub that is `told` to misbehave, with `changed` settings.
fn pulled(
    told: impl FnOnce(&Hub),
    changed: impl FnOnce(&mut HubSettings),
) -> Result<Vec<u8>, String> {
    let hub = Hub::start();
    hub.publish("a/b", &model_files());
    told(&hub);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub, folder.path());
    changed(&mut settings);
    let name = "a/b".parse().unwrap();
    let pulled = pull(&name, Wanted::Model, &settings, &NoProgress);
    let pulled = pulled.map_err(|error| error.to_string())?;
    Ok(fs::read(pulled.folder.join(UNET)).unwrap())
}

#[test]
fn dripping_answers_are_cut_off_by_their_pace() {
    for part in ["GET /api/models/a/b/revision", "GET /api/models/a/b/tree"] {
        let sentence = pulled(
            |hub| hub.misbehave(part, Fault::Dripping, 9),
            |settings| settings.pace = SHORT,
        );
        let sentence = sentence.unwrap_err();
        assert!(
            sentence.contains("it sends too slowly: ") && sentence.contains(" bytes in 1 s"),
            "{sentence}"
        );
    }
}

#[test]
fn dripping_headers_are_cut_off() {
    // The limit of an answer is its total time; the limit of a file is the patience with a silent server.
    let answer = pulled(
        |hub| hub.misbehave("GET /api/models/a/b/revision", Fault::DrippingHeaders, 9),
        |settings| settings.longest_answer = Duration::from_millis(300),
    );
    assert!(answer.unwrap_err().contains("its answer has no end"));
    for part in ["HEAD /a/b/resolve", "GET /cdn/"] {
        let file = pulled(
            |hub| hub.misbehave(part, Fault::DrippingHeaders, 99),
            |settings| settings.patience = Duration::from_secs(2),
        );
        let sentence = file.unwrap_err();
        assert!(
            sentence.contains("cannot reach") && sentence.contains("timeout"),
            "{sentence}"
        );
    }
}

#[test]
fn a_dripping_file_is_given_up_and_its_beginning_kept() {
    let sentence = pulled(
        |hub| hub.misbehave("GET /cdn/", Fault::DrippingBody, 99),
        |settings| settings.pace = SHORT,
    );
    let sentence = sentence.unwrap_err();
    for part in [
        UNET,
        "too slowly, ",
        " of 300000 bytes are kept",
        "run this again",
    ] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
}

#[test]
fn what_dripped_is_not_asked_for_again() {
    let hub = Hub::start();
    hub.publish("a/b", &model_files());
    hub.misbehave("GET /cdn/", Fault::DrippingBody, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub, folder.path());
    settings.pace = SHORT;
    let name = "a/b".parse().unwrap();
    assert!(pull(&name, Wanted::Model, &settings, &NoProgress).is_err());
    settings.pace = Pace::MODEM;
    let pulled = pull(&name, Wanted::Model, &settings, &NoProgress).unwrap();
    assert!(fs::read(pulled.folder.join(UNET)).unwrap() == weights(2));
    let asked = hub.requests();
    let rest = asked
        .iter()
        .filter(|line| line.starts_with("GET /cdn/") && line.contains(" from "));
    assert_eq!(rest.count(), 1, "{asked:?}");
}

#[test]
fn the_body_of_a_redirect_is_not_waited_for() {
    let hub = Hub::start();
    hub.publish("a/b", &model_files());
    let api = format!("{}/api/models/a/b/revision/main?there", hub.url);
    let cdn = format!("{}/cdn/{}?there", hub.url, sha256(&weights(2)));
    for (part, there) in [
        ("GET /api/models/a/b/revision/main", api),
        ("GET /cdn/", cdn),
    ] {
        hub.misbehave(part, Fault::DrippingRedirect(there), 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&hub, folder.path());
    let name = "a/b".parse().unwrap();
    let pulled = pull(&name, Wanted::Model, &settings, &NoProgress).unwrap();
    assert!(fs::read(pulled.folder.join(UNET)).unwrap() == weights(2));
    let there = hub
        .requests()
        .into_iter()
        .filter(|line| line.ends_with("?there"));
    assert_eq!(there.count(), 2);
}

#[test]
fn an_upload_that_is_answered_by_drops_ends() {
    for part in [
        "POST /api/repos/create",
        "POST /api/models/a/b/preupload",
        "POST /api/models/a/b/commit",
    ] {
        let hub = Hub::start();
        hub.know("hf_ada");
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        hub.misbehave(part, Fault::Dripping, 9);
        let mut settings = settings(&hub, folder.path());
        settings.token = Some("hf_ada".to_owned());
        settings.pace = SHORT;
        let name = "a/b".parse().unwrap();
        let pushed = push(&model, &name, false, &settings, &NoProgress);
        let sentence = pushed.unwrap_err().to_string();
        assert!(sentence.contains("too slowly"), "{part}: {sentence}");
    }
}
