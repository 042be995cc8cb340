//! Tests what `pull` fetches and refuses, and what is on disk afterwards.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kiln_data::NoProgress;
use kiln_hub::{HubSettings, Pulled, Wanted, pull};

use crate::server::{Fault, Hub, pointer, sha256};
use crate::{model_files, settings, weights};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const NEEDED: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vqvae/config.json",
    UNET,
    "vqvae/diffusion_pytorch_model.safetensors",
];

/// A Hub with the model `a/b`, an empty cache, and settings.
struct Scene {
    hub: Hub,
    commit: String,
    folder: tempfile::TempDir,
    settings: HubSettings,
}

impl Scene {
    fn new() -> Self {
        let hub = Hub::start();
        let commit = hub.publish("a/b", &model_files());
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&hub, folder.path());
        Self {
            hub,
            commit,
            folder,
            settings,
        }
    }

    fn pull(&self, name: &str) -> Result<Pulled, String> {
        self.pull_part(name, Wanted::Model)
    }

    fn pull_part(&self, name: &str, wanted: Wanted) -> Result<Pulled, String> {
        let name = name.parse().map_err(|error| format!("{error}"))?;
        pull(&name, wanted, &self.settings, &NoProgress).map_err(|error| error.to_string())
    }

    /// Pulls `a/b`, which must fail with one sentence that contains `words`; nothing wrong is left under a final name.
    fn fails(&self, words: &str) {
        let sentence = self.pull("a/b").unwrap_err();
        assert!(sentence.contains(words), "{words:?} in {sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
        let snapshot = self.repository().join("snapshots").join(&self.commit);
        assert!(!snapshot.join(UNET).exists());
        assert!(!self.content(&weights(2)).exists());
    }

    fn repository(&self) -> std::path::PathBuf {
        self.folder.path().join("cache/models--a--b")
    }

    fn content(&self, bytes: &[u8]) -> std::path::PathBuf {
        self.repository().join("blobs").join(sha256(bytes))
    }

    /// The requests for files since the last call, without those that only announce them.
    fn transfers(&self) -> Vec<String> {
        let requests = self.hub.requests().into_iter();
        requests
            .filter(|line| line.contains("GET /cdn/") || line.contains("GET /a/b/resolve/"))
            .collect()
    }
}

fn assert_whole(pulled: &Pulled) {
    let files = model_files();
    assert_eq!(pulled.files, NEEDED);
    for name in NEEDED {
        assert!(
            fs::read(pulled.folder.join(name)).unwrap() == files[name],
            "{name}"
        );
    }
    let bytes: usize = NEEDED.iter().map(|name| files[*name].len()).sum();
    assert_eq!(pulled.bytes, bytes as u64);
}

#[test]
fn a_model_lies_in_the_cache_as_python_would_put_it() {
    let scene = Scene::new();
    let pulled = scene.pull("a/b").unwrap();
    assert_whole(&pulled);
    assert_eq!(pulled.commit, scene.commit);
    let repository = scene.repository();
    assert_eq!(
        pulled.folder,
        repository.join("snapshots").join(&scene.commit)
    );
    assert_eq!(
        fs::read_to_string(repository.join("refs/main")).unwrap(),
        scene.commit
    );
    // Contents under their checksums, and links to them: nothing else.
    let mut contents: Vec<_> = names(&repository.join("blobs"));
    contents.sort();
    let mut links: Vec<_> = NEEDED
        .iter()
        .map(|name| {
            let link = fs::read_link(pulled.folder.join(name)).unwrap();
            assert!(link.is_relative() && link.parent().unwrap().ends_with("blobs"));
            link.file_name().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    links.sort();
    assert_eq!(contents, links);
    assert!(contents.contains(&sha256(&weights(2))));
    assert!(
        !pulled.folder.join("README.md").exists(),
        "what the model does not need stays away"
    );
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let scene = Scene::new();
    scene.pull("a/b").unwrap();
    assert_eq!(
        scene.transfers().len(),
        NEEDED.len() * 3 / 2 - 1,
        "4 small files, and 2 large ones by a redirect"
    );
    assert_whole(&scene.pull("a/b").unwrap());
    assert_eq!(scene.transfers(), [""; 0]);
    // A commit cannot change, so no request is needed.
    assert_whole(&scene.pull(&format!("a/b@{}", scene.commit)).unwrap());
    assert_eq!(scene.hub.requests(), [""; 0]);
    // Another commit with the same weights needs only the new files.
    let mut files = model_files();
    files.insert("unet/config.json".to_owned(), b"{\"unet\": 2}".to_vec());
    let second = scene.hub.publish("a/b", &files);
    let pulled = scene.pull("a/b").unwrap();
    assert_eq!(
        (pulled.commit.as_str(), scene.transfers().len()),
        (second.as_str(), 1)
    );
    assert_whole(&scene.pull(&format!("a/b@{}", scene.commit)).unwrap());
}

#[test]
fn the_first_stage_comes_alone() {
    let scene = Scene::new();
    let pulled = scene.pull_part("a/b", Wanted::FirstStage).unwrap();
    assert_eq!(pulled.files, [NEEDED[3], NEEDED[5]]);
    assert!(!pulled.folder.join(UNET).exists());
}

#[test]
fn offline_the_cache_alone_is_asked() {
    let mut scene = Scene::new();
    scene.settings.offline = true;
    let sentence = scene.pull("a/b").unwrap_err();
    assert!(
        sentence.contains("does not have anything of a/b") && sentence.contains("`kiln pull a/b`"),
        "{sentence}"
    );
    scene.settings.offline = false;
    let pulled = scene.pull("a/b").unwrap();
    scene.hub.requests();
    scene.settings.offline = true;
    assert_whole(&scene.pull("a/b").unwrap());
    assert!(
        scene
            .pull("a/b@other")
            .unwrap_err()
            .contains("of a/b@other")
    );
    fs::remove_file(pulled.folder.join(UNET)).unwrap();
    assert!(scene.pull("a/b").unwrap_err().contains(UNET));
    assert_eq!(scene.hub.requests(), [""; 0]);
}

#[test]
fn when_the_hub_is_out_of_reach_the_cache_will_do() {
    let mut scene = Scene::new();
    scene.pull("a/b").unwrap();
    // Nothing listens on port 1, and the system never assigns it as a free port.
    scene.settings.endpoint = "http://127.0.0.1:1".to_owned();
    let pulled = scene.pull("a/b").unwrap();
    assert_whole(&pulled);
    assert!(
        pulled
            .unreachable
            .unwrap()
            .contains("cannot reach http://127.0.0.1:1")
    );
    let sentence = scene.pull("c/d").unwrap_err();
    assert!(
        sentence.contains("cannot reach") && sentence.contains("--offline"),
        "{sentence}"
    );
}

#[test]
fn a_transfer_that_stops_goes_on_where_it_stopped() {
    let scene = Scene::new();
    scene
        .hub
        .misbehave("GET /cdn/", Fault::CutAfter(100_000), 2);
    assert_whole(&scene.pull("a/b").unwrap());
    let ranges: Vec<_> = scene
        .transfers()
        .into_iter()
        .filter(|line| line.contains("/cdn/") && line.contains("from"))
        .collect();
    assert!(
        ranges.len() == 2
            && ranges[0].ends_with("from 100000")
            && ranges[1].ends_with("from 200000"),
        "{ranges:?}"
    );
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let scene = Scene::new();
    scene.hub.misbehave("GET /cdn/", Fault::CutAfter(50_000), 1);
    scene
        .hub
        .misbehave("from 50000", Fault::Status(404, &[]), 1);
    scene.fails("does not have");
    scene.transfers();
    assert_whole(&scene.pull("a/b").unwrap());
    assert!(
        scene
            .transfers()
            .iter()
            .any(|line| line.contains("from 50000"))
    );
    assert!(
        !names(&scene.repository().join("blobs"))
            .iter()
            .any(|name| name.contains("incomplete"))
    );
}

#[test]
fn a_server_that_falls_silent_is_asked_for_the_rest() {
    let mut scene = Scene::new();
    scene.settings.patience = Duration::from_secs(2);
    scene
        .hub
        .misbehave("GET /cdn/", Fault::StallAfter(120_000), 1);
    assert_whole(&scene.pull("a/b").unwrap());
    assert!(
        scene
            .transfers()
            .iter()
            .any(|line| line.contains("from 120000"))
    );
}

#[test]
fn a_busy_server_is_asked_again() {
    let scene = Scene::new();
    let busy = [("Retry-After", "0")];
    scene.hub.misbehave("GET /api/", Fault::Status(429, &[]), 1);
    scene
        .hub
        .misbehave("HEAD /a/b/resolve", Fault::Status(503, &[]), 2);
    scene.hub.misbehave(
        "GET /cdn/",
        Fault::Status(429, Box::leak(Box::new(busy))),
        2,
    );
    assert_whole(&scene.pull("a/b").unwrap());
}

#[test]
fn files_that_are_not_the_right_ones_are_refused() {
    let cdn = "GET /cdn/";
    for (fault, words) in [
        (Fault::Corrupt, "has a wrong checksum"),
        (Fault::Page, "sent something else instead of unet/diffusion"),
        (
            Fault::Body(weights(9)[..5000].to_vec()),
            "with 5000 bytes, but lists it with 300000",
        ),
        (
            Fault::Body(pointer(&weights(2))),
            "sent the Git LFS pointer of unet/diffusion",
        ),
        (Fault::CutAfter(0), "stopped after 0 of 300000 bytes"),
    ] {
        let scene = Scene::new();
        scene.hub.misbehave(cdn, fault, 1);
        scene.fails(words);
        assert_whole(&scene.pull("a/b").unwrap());
    }
    // Small files, too.
    let scene = Scene::new();
    scene.hub.misbehave("GET /a/b/resolve", Fault::Corrupt, 1);
    scene.fails("model_index.json has a wrong checksum");
    let scene = Scene::new();
    scene.hub.misbehave("GET /a/b/resolve", Fault::Page, 1);
    scene.fails("instead of model_index.json");
}

#[test]
fn every_refusal_is_a_sentence_that_says_what_to_do() {
    let (api, head, cdn) = ("GET /api/", "HEAD /a/b/resolve", "GET /cdn/");
    let gated: &[(&str, &str)] = &[
        ("X-Error-Code", "GatedRepo"),
        ("X-Error-Message", "Access is restricted"),
    ];
    let no_entry: &[(&str, &str)] = &[("X-Error-Code", "EntryNotFound")];
    for (part, fault, words) in [
        (
            api,
            Fault::Status(403, gated),
            "refuses access to a/b (Access is restricted); request access at",
        ),
        (api, Fault::Status(429, &[]), "asks for fewer requests"),
        (
            api,
            Fault::Status(503, &[]),
            "has a problem (HTTP status 503)",
        ),
        (api, Fault::Status(418, &[]), "HTTP status 418: as told"),
        (api, Fault::Page, "does not answer as a Hugging Face Hub"),
        (
            api,
            Fault::Body(b"[]".to_vec()),
            "does not answer as a Hugging Face Hub",
        ),
        (
            head,
            Fault::Status(404, no_entry),
            "does not have model_index.json of a/b",
        ),
        (
            head,
            Fault::Status(401, &[]),
            "no repository a/b that the public may see",
        ),
        (
            head,
            Fault::Status(500, &[]),
            "has a problem (HTTP status 500)",
        ),
        (cdn, Fault::Status(403, &[]), "refuses access"),
        (cdn, Fault::Status(404, &[]), "does not have unet/diffusion"),
        (
            cdn,
            Fault::Status(429, &[("Retry-After", "7200")]),
            "asks for fewer requests",
        ),
        (
            cdn,
            Fault::Status(502, &[]),
            "has a problem (HTTP status 502)",
        ),
    ] {
        let scene = Scene::new();
        scene.hub.misbehave(part, fault, 20);
        scene.fails(words);
    }
}

#[test]
fn without_a_checksum_large_files_are_refused_and_small_ones_go_by_the_listing() {
    let scene = Scene::new();
    scene
        .hub
        .misbehave("HEAD /a/b/resolve", Fault::Body(Vec::new()), 20);
    scene.fails("names no checksum for unet/diffusion");
    assert!(
        scene
            .repository()
            .join("snapshots")
            .join(&scene.commit)
            .join("model_index.json")
            .exists()
    );
}

#[test]
fn repositories_that_are_missing_or_hidden_are_told_from_bad_tokens() {
    let mut scene = Scene::new();
    let expect = |scene: &Scene, name: &str, words: &str| {
        let sentence = scene.pull(name).unwrap_err();
        assert!(sentence.contains(words), "{words:?} in {sentence}");
    };
    expect(&scene, "a/c", "no repository a/c that the public may see");
    expect(&scene, "a/b@v2", "a/b has no revision `v2`");
    expect(&scene, "a/b/c", "write ORG/REPO");
    scene.hub.hide("a/b", "hf_right");
    expect(&scene, "a/b", "if it is private set HF_TOKEN");
    scene.settings.token = Some("hf_wrong".to_owned());
    expect(&scene, "a/b", "does not accept the token");
    scene.settings.token = Some("hf_right".to_owned());
    expect(&scene, "a/c", "no repository a/c that your token may see");
    assert_whole(&scene.pull("a/b").unwrap());
}

#[test]
fn what_is_no_address_or_no_hub_is_said_to_be_so() {
    let mut scene = Scene::new();
    for (endpoint, words) in [
        ("not an address".to_owned(), "set HF_ENDPOINT"),
        (
            format!("{}/elsewhere", scene.hub.url),
            "does not answer as a Hugging Face Hub",
        ),
    ] {
        scene.settings.endpoint = endpoint;
        let sentence = scene.pull("a/b").unwrap_err();
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn models_of_another_kind_are_refused_before_their_weights_come() {
    let scene = Scene::new();
    let mut files = model_files();
    files.insert(
        "model_index.json".to_owned(),
        b"{\"_class_name\": \"WuerstchenPipeline\", \"unet\": [\"a\", \"b\"]}".to_vec(),
    );
    scene.hub.publish("a/b", &files);
    assert!(
        scene
            .pull("a/b")
            .unwrap_err()
            .contains("WuerstchenPipeline")
    );
    assert_eq!(scene.transfers().len(), 1);
    scene
        .hub
        .publish("a/b", &[("README.md".to_owned(), Vec::new())].into());
    assert!(
        scene
            .pull("a/b")
            .unwrap_err()
            .contains("neither model_index.json nor config.json")
    );
}

#[test]
fn a_full_disk_is_a_sentence() {
    let mut scene = Scene::new();
    let file = scene.folder.path().join("file");
    fs::write(&file, "").unwrap();
    scene.settings.cache = file.join("cache");
    let sentence = scene.pull("a/b").unwrap_err();
    assert!(
        sentence.contains("cannot use the cache at") && sentence.contains("HF_HUB_CACHE"),
        "{sentence}"
    );
}
