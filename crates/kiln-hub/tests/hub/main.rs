//! Pulls from and pushes to a Hub on this machine that behaves like the real one, or misbehaves on purpose.

mod data_set;
mod dripping;
mod pull;
mod push;
mod server;
mod strangers;
mod stream;
mod tables;

use std::path::Path;
use std::time::Duration;

use kiln_data::Pace;
use kiln_hub::HubSettings;
use server::{Files, Hub};

/// Settings for `hub`, with a cache in `folder`. Busy servers are tried again almost at once.
fn settings(hub: &Hub, folder: &Path) -> HubSettings {
    HubSettings {
        endpoint: hub.url.clone(),
        token: None,
        cache: folder.join("cache"),
        offline: false,
        patience: Duration::from_secs(20),
        longest_answer: Duration::from_secs(60),
        pace: Pace::MODEM,
        pauses: vec![Duration::from_millis(1); 2],
    }
}

/// Bytes that look like weights: they do not repeat.
fn weights(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..300_000).map(|_| next()).collect()
}

/// A repository with a latent model, and some things that it does not need.
fn model_files() -> Files {
    let index = r#"{
        "_class_name": "LDMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "VQModel"]
    }"#;
    let files = [
        ("README.md", b"# digits".to_vec()),
        ("model_index.json", index.as_bytes().to_vec()),
        ("scheduler/scheduler_config.json", b"{}".to_vec()),
        ("unet/config.json", b"{\"unet\": 1}".to_vec()),
        ("unet/diffusion_pytorch_model.bin", weights(1)),
        ("unet/diffusion_pytorch_model.safetensors", weights(2)),
        ("vqvae/config.json", b"{\"vqvae\": 1}".to_vec()),
        ("vqvae/diffusion_pytorch_model.safetensors", weights(3)),
    ];
    files.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}
