//! Malicious answers of a Hub, or of another server in its place: tokens do not leak, nothing runs without end, and the
//! content of the cache is not trusted.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kiln_data::{NoProgress, Progress, ProgressUnit};
use kiln_hub::{HubSettings, Pulled, Wanted, pull, push};

use crate::server::{Fault, Files, Hub, sha256};
use crate::{model_files, settings, weights};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A Hub with the model `a/b` and a known user, another server on the same host that has the model, too, and an empty
/// cache.
struct Scene {
    hub: Hub,
    stranger: Hub,
    folder: tempfile::TempDir,
    settings: HubSettings,
}

impl Scene {
    fn new() -> Self {
        let (hub, stranger) = (Hub::start(), Hub::start());
        hub.know("hf_ada");
        for server in [&hub, &stranger] {
            server.publish("a/b", &model_files());
        }
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&hub, folder.path());
        settings.token = Some("hf_ada".to_owned());
        Self {
            hub,
            stranger,
            folder,
            settings,
        }
    }

    fn pull(&self) -> Result<Pulled, String> {
        let name = "a/b".parse().unwrap();
        pull(&name, Wanted::Model, &self.settings, &NoProgress).map_err(|error| error.to_string())
    }

    /// Asserts that the model is pulled completely, and that the stranger got requests but no token.
    fn comes_without_telling_the_stranger(&self) {
        let pulled = self.pull().unwrap();
        assert!(fs::read(pulled.folder.join(UNET)).unwrap() == weights(2));
        assert_ne!(self.stranger.requests(), [""; 0]);
        assert_eq!(self.stranger.requests_with_token(), [""; 0]);
        assert_ne!(self.hub.requests_with_token(), [""; 0]);
    }

    fn content(&self, bytes: &[u8]) -> PathBuf {
        let blobs = self.folder.path().join("cache/models--a--b/blobs");
        blobs.join(sha256(bytes))
    }
}

#[test]
fn a_list_that_goes_on_elsewhere_does_not_take_the_token_along() {
    let scene = Scene::new();
    let commit = scene.stranger.publish("a/b", &model_files());
    // The Hub itself has only the first page.
    let first: Files = model_files().into_iter().take(4).collect();
    let of_hub = scene.hub.publish("a/b", &first);
    let next = format!("{}/api/models/a/b/tree/{commit}", scene.stranger.url);
    scene.hub.misbehave("/tree/", Fault::NextPage(next), 1);
    scene.hub.publish("a/b", &model_files());
    let pinned = format!("a/b@{of_hub}").parse().unwrap();
    let listed = pull(&pinned, Wanted::Model, &scene.settings, &NoProgress);
    // The stranger's list was accepted as the rest, but the Hub has no such files.
    let sentence = listed.unwrap_err().to_string();
    assert!(sentence.contains("does not have"), "{sentence}");
    assert_eq!(scene.stranger.requests().len(), 1);
    assert_eq!(scene.stranger.requests_with_token(), [""; 0]);
    assert_ne!(scene.hub.requests_with_token(), [""; 0]);
}

#[test]
fn a_redirect_to_another_port_does_not_take_the_token_along() {
    let file = format!("cdn/{}", sha256(&weights(2)));
    for status in [301, 302, 307, 308] {
        for (part, path) in [
            (
                "GET /api/models/a/b/revision",
                "api/models/a/b/revision/main",
            ),
            ("GET /cdn/", &*file),
            ("GET /a/b/resolve/", "a/b/resolve/main/model_index.json"),
        ] {
            let scene = Scene::new();
            let address = format!("{}/{path}", scene.stranger.url);
            scene
                .hub
                .misbehave(part, Fault::Redirect(status, address), 1);
            scene.comes_without_telling_the_stranger();
        }
    }
}

#[test]
fn a_redirect_within_the_hub_keeps_the_token() {
    let scene = Scene::new();
    scene.hub.hide("a/b", "hf_ada");
    let moved = format!("{}/api/models/a/b/revision/main?moved", scene.hub.url);
    let redirect = Fault::Redirect(307, moved);
    scene
        .hub
        .misbehave("GET /api/models/a/b/revision", redirect, 1);
    scene.pull().unwrap();
    let asked = scene.hub.requests_with_token();
    assert!(
        asked.iter().any(|line| line.ends_with("?moved")),
        "{asked:?}"
    );
}

#[test]
fn what_is_pushed_goes_to_the_hub_alone() {
    for (part, path) in [
        ("POST /api/repos/create", "/api/repos/create"),
        ("POST /api/models/a/b/commit", "/api/models/a/b/commit/main"),
    ] {
        let scene = Scene::new();
        let redirect = Fault::Redirect(307, format!("{}{path}", scene.stranger.url));
        scene.hub.misbehave(part, redirect, 9);
        let model = scene.folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        let name = "a/b".parse().unwrap();
        let pushed = push(&model, &name, false, &scene.settings, &NoProgress);
        let sentence = pushed.unwrap_err().to_string();
        assert!(sentence.contains("HTTP status 307"), "{sentence}");
        assert_eq!(scene.stranger.requests(), [""; 0]);
    }
}

/// Records the progress.
#[derive(Default)]
struct Heard {
    tasks: Mutex<Vec<String>>,
    bytes: AtomicU64,
}

impl Progress for Heard {
    fn begin(&self, task: &str, _unit: ProgressUnit, _total: Option<u64>) {
        self.tasks.lock().unwrap().push(task.to_owned());
    }

    fn advance(&self, amount: u64) {
        self.bytes.fetch_add(amount, Ordering::Relaxed);
    }

    fn end(&self) {}
}

#[test]
fn answers_without_an_end_are_cut_off() {
    for (part, fault, words) in [
        ("/revision/", Fault::Endless(b" "), "its answer is too long"),
        (
            "/tree/",
            Fault::Endless(b"[{\"a\": 1}, "),
            "its answer is too long",
        ),
        ("/revision/", Fault::Dripping, "its answer has no end"),
        ("/tree/", Fault::Dripping, "its answer has no end"),
        ("/tree/", Fault::AnotherPage, "too many pages"),
    ] {
        let mut scene = Scene::new();
        let is_short = matches!(fault, Fault::Dripping);
        if is_short {
            scene.settings.longest_answer = Duration::from_millis(200);
        }
        if let Fault::Endless(body) = fault {
            // A few bytes at a time would take too long.
            let body: &'static [u8] = Box::leak(body.repeat(100_000).into_boxed_slice());
            scene.hub.misbehave(part, Fault::Endless(body), 9);
        } else {
            scene.hub.misbehave(part, fault, 100_000);
        }
        let heard = Heard::default();
        let name = "a/b".parse().unwrap();
        let refused = pull(&name, Wanted::Model, &scene.settings, &heard);
        let sentence = refused.unwrap_err().to_string();
        assert!(sentence.contains(words), "{words:?} in {sentence}");
        // The progress was visible while waiting.
        assert!(is_short || heard.bytes.into_inner() > 0);
        let tasks = heard.tasks.into_inner().unwrap();
        assert!(
            tasks.iter().all(|task| task == "a/b: what it holds"),
            "{tasks:?}"
        );
    }
    // Pages that link to each other.
    let scene = Scene::new();
    let commit = scene.hub.publish("a/b", &model_files());
    let tree = format!(
        "{}/api/models/a/b/tree/{commit}?recursive=true",
        scene.hub.url
    );
    let second = format!("{tree}&second");
    scene.hub.misbehave("&second", Fault::NextPage(tree), 9);
    scene.hub.misbehave("/tree/", Fault::NextPage(second), 9);
    let sentence = scene.pull().unwrap_err();
    assert!(sentence.contains("has no end"), "{sentence}");
}

#[test]
fn a_list_of_several_pages_is_read_to_its_end() {
    let scene = Scene::new();
    let files = model_files();
    let (last, _) = files.last_key_value().unwrap();
    let first: Files = files
        .clone()
        .into_iter()
        .filter(|(name, _)| name != last)
        .collect();
    let rest = scene.hub.publish("a/b", &files);
    let part = scene.hub.publish("a/b", &first);
    let next = format!(
        "{}/api/models/a/b/tree/{rest}?recursive=true",
        scene.hub.url
    );
    let page: &'static str = Box::leak(format!("/tree/{part}").into_boxed_str());
    scene.hub.misbehave(page, Fault::NextPage(next), 1);
    // The second page's list names the last file, which the first page's commit does not have.
    let sentence = scene.pull().unwrap_err();
    assert!(
        sentence.contains(&format!("does not have {last}")),
        "{sentence}"
    );
}

#[cfg(unix)]
#[test]
fn links_in_place_of_partial_files_are_not_followed() {
    let scene = Scene::new();
    let precious = scene.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let content = scene.content(&weights(2));
    fs::create_dir_all(content.parent().unwrap()).unwrap();
    let mut partial = content.clone();
    partial.as_mut_os_string().push(".incomplete");
    let lock = scene.folder.path().join("cache/.locks/models--a--b");
    fs::create_dir_all(&lock).unwrap();
    let lock = lock.join(format!("{}.lock", sha256(&weights(2))));
    for link in [&partial, &lock] {
        std::os::unix::fs::symlink(&precious, link).unwrap();
    }
    scene.pull().unwrap();
    assert!(fs::read(&content).unwrap() == weights(2));
    assert!(fs::symlink_metadata(&content).unwrap().is_file());
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}

#[test]
fn a_changed_bit_in_the_cache_is_found() {
    let mut scene = Scene::new();
    scene.pull().unwrap();
    let change = |scene: &Scene| {
        let mut bytes = weights(2);
        bytes[1000] ^= 1;
        fs::write(scene.content(&weights(2)), bytes).unwrap();
    };
    change(&scene);
    scene.settings.offline = true;
    let sentence = scene.pull().unwrap_err();
    assert!(
        sentence.contains(UNET)
            && sentence.contains("is damaged")
            && sentence.contains("kiln pull a/b"),
        "{sentence}"
    );
    // The Hub still has it.
    scene.settings.offline = false;
    scene.hub.requests();
    let pulled = scene.pull().unwrap();
    assert!(fs::read(pulled.folder.join(UNET)).unwrap() == weights(2));
    let fetched = scene.hub.requests();
    assert_eq!(
        fetched
            .iter()
            .filter(|line| line.starts_with("GET /cdn/"))
            .count(),
        1
    );
    assert_eq!(pulled.unverified, [""; 0]);
    // A fixed commit is no exception.
    change(&scene);
    let name = format!("a/b@{}", pulled.commit).parse().unwrap();
    let pulled = pull(&name, Wanted::Model, &scene.settings, &NoProgress).unwrap();
    assert!(fs::read(pulled.folder.join(UNET)).unwrap() == weights(2));
}

#[test]
fn a_copy_is_compared_with_what_the_hub_says() {
    let mut scene = Scene::new();
    let pulled = scene.pull().unwrap();
    let path = pulled.folder.join(UNET);
    fs::remove_file(&path).unwrap();
    fs::write(&path, weights(2)).unwrap();
    scene.settings.offline = true;
    assert_eq!(scene.pull().unwrap().unverified, [UNET]);
    scene.settings.offline = false;
    assert_eq!(scene.pull().unwrap().unverified, [""; 0]);
    let mut bytes = weights(2);
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(scene.pull().unwrap().unverified, [""; 0]);
    assert!(fs::read(&path).unwrap() == weights(2));
}
