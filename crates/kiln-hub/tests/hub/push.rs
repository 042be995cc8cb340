//! Tests the result of `push` on the Hub, and its messages if the Hub refuses.

use std::fs;

use kiln_data::NoProgress;
use kiln_hub::{HubSettings, Pushed, push};

use crate::server::{Fault, Files, Hub};
use crate::{model_files, settings};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// An empty Hub, a folder to push, and settings.
struct Scene {
    hub: Hub,
    folder: tempfile::TempDir,
    settings: HubSettings,
}

impl Scene {
    fn new() -> Self {
        let hub = Hub::start();
        hub.know("hf_right");
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in model_files() {
            let path = folder.path().join("model").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::write(folder.path().join("model/.hidden"), "secret").unwrap();
        let mut settings = settings(&hub, folder.path());
        settings.token = Some("hf_right".to_owned());
        Self {
            hub,
            folder,
            settings,
        }
    }

    fn push(&self, name: &str, is_private: bool) -> Result<Pushed, String> {
        let name = name.parse().map_err(|error| format!("{error}"))?;
        let folder = self.folder.path().join("model");
        push(&folder, &name, is_private, &self.settings, &NoProgress)
            .map_err(|error| error.to_string())
    }

    /// The Hub's files now, without the files that it adds itself.
    fn files(&self, revision: &str) -> Files {
        let mut files = self.hub.files("a/b", revision).unwrap();
        files.remove(".gitattributes");
        files
    }

    fn requests(&self, part: &str) -> usize {
        self.hub
            .requests()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

#[test]
fn a_folder_becomes_one_commit_with_the_large_files_in_git_lfs() {
    let scene = Scene::new();
    let pushed = scene.push("a/b", true).unwrap();
    assert!(scene.files("main") == model_files());
    assert!(scene.files(&pushed.commit) == model_files());
    assert_eq!(pushed.files, model_files().into_keys().collect::<Vec<_>>());
    assert_eq!(pushed.url, format!("{}/a/b", scene.hub.url));
    assert!(scene.hub.is_private("a/b"));
    let requests = scene.hub.requests();
    let count = |part: &str| {
        requests
            .iter()
            .filter(|line| line.starts_with(part))
            .count()
    };
    assert_eq!(
        [
            count("PUT /lfs/"),
            count("POST /lfs-verify"),
            count("POST /api/models/a/b/commit/main")
        ],
        [3, 3, 1]
    );
}

#[test]
fn pushing_again_sends_only_what_changed() {
    let scene = Scene::new();
    scene.push("a/b", false).unwrap();
    assert!(!scene.hub.is_private("a/b"));
    scene.hub.requests();
    fs::write(
        scene.folder.path().join("model").join(UNET),
        "other weights",
    )
    .unwrap();
    scene.push("a/b", false).unwrap();
    assert_eq!(scene.requests("PUT /lfs/"), 1);
    assert_eq!(scene.files("main")[UNET], b"other weights");
}

#[test]
fn a_branch_is_made_when_it_is_pushed_to() {
    let scene = Scene::new();
    scene.push("a/b@draft/one", false).unwrap();
    assert!(scene.files("draft/one") == model_files());
    assert!(scene.files("main").is_empty());
    scene.push("a/b@draft/one", false).unwrap();
}

#[test]
fn what_was_pushed_can_be_pulled() {
    let scene = Scene::new();
    let pushed = scene.push("a/b", true).unwrap();
    let name = "a/b".parse().unwrap();
    let pulled =
        kiln_hub::pull(&name, kiln_hub::Wanted::Model, &scene.settings, &NoProgress).unwrap();
    assert_eq!(pulled.commit, pushed.commit);
    assert!(fs::read(pulled.folder.join(UNET)).unwrap() == model_files()[UNET]);
}

#[test]
fn large_files_go_in_parts_where_the_hub_asks_for_parts() {
    let scene = Scene::new();
    scene.hub.divide_uploads(100_000);
    scene.push("a/b", false).unwrap();
    assert!(scene.files("main") == model_files());
    assert_eq!(scene.requests("PUT /part/"), 9);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let scene = Scene::new();
    for part in [
        "PUT /lfs/",
        "POST /api/models/a/b/commit",
        "POST /a/b.git/info/lfs",
        "preupload",
    ] {
        scene.hub.misbehave(part, Fault::Status(503, &[]), 2);
    }
    scene.push("a/b", false).unwrap();
    assert!(scene.files("main") == model_files());
}

#[test]
fn every_refusal_is_a_sentence_and_leaves_the_repository_as_it_was() {
    for (part, fault, words) in [
        (
            "POST /api/repos/create",
            Fault::Status(403, &[]),
            "does not let this token write to a/b",
        ),
        (
            "POST /api/repos/create",
            Fault::Status(429, &[]),
            "asks for fewer requests",
        ),
        (
            "POST /api/models/a/b/preupload",
            Fault::Page,
            "does not answer as a Hugging Face Hub",
        ),
        (
            "POST /api/models/a/b/preupload",
            Fault::Body(b"{}".to_vec()),
            "does not answer as a Hugging Face Hub",
        ),
        (
            "POST /a/b.git/info/lfs",
            Fault::Status(403, &[]),
            "does not let this token write",
        ),
        (
            "POST /a/b.git/info/lfs",
            Fault::Body(b"{}".to_vec()),
            "its answer has no `objects`",
        ),
        (
            "PUT /lfs/",
            Fault::Status(500, &[]),
            "has a problem (HTTP status 500)",
        ),
        (
            "PUT /lfs/",
            Fault::Status(403, &[]),
            "does not let this token write",
        ),
        (
            "PUT /lfs/",
            Fault::Status(404, &[]),
            "diffusion_pytorch_model.safetensors (HTTP status 404)",
        ),
        (
            "POST /lfs-verify",
            Fault::Status(422, &[]),
            "HTTP status 422: as told",
        ),
        (
            "POST /api/models/a/b/commit",
            Fault::Status(412, &[]),
            "HTTP status 412: as told",
        ),
        (
            "POST /api/models/a/b/commit",
            Fault::Body(b"{}".to_vec()),
            "its answer has no `commitOid`",
        ),
    ] {
        let scene = Scene::new();
        scene.hub.misbehave(part, fault, 20);
        let sentence = scene.push("a/b", false).unwrap_err();
        assert!(
            sentence.contains(words) && !sentence.contains('\n'),
            "{part}: {words:?} in {sentence}"
        );
        let has_model = scene
            .hub
            .files("a/b", "main")
            .is_some_and(|files| files.contains_key(UNET));
        assert!(!has_model || part.ends_with("commit"), "{part}");
    }
}

#[test]
fn without_a_token_or_a_network_nothing_is_tried() {
    let mut scene = Scene::new();
    scene.settings.token = Some("hf_wrong".to_owned());
    assert!(
        scene
            .push("a/b", false)
            .unwrap_err()
            .contains("does not accept the token")
    );
    scene.hub.requests();
    scene.settings.token = None;
    assert!(
        scene
            .push("a/b", false)
            .unwrap_err()
            .contains("set HF_TOKEN, or run `hf auth login`")
    );
    scene.settings.offline = true;
    assert!(
        scene
            .push("a/b", false)
            .unwrap_err()
            .contains("nothing can be pushed offline")
    );
    assert_eq!(scene.requests(""), 0);
}
