//! Selects the files of a repository that a model needs.

use std::collections::BTreeSet;

use kiln_checkpoint::layout::{
    CONFIG, GUIDANCE, GUIDE, INDEX, SCHEDULER_CONFIG, WEIGHTS, forms, shard_names,
};
use serde_json::{Map, Value};

use crate::TransportError;

/// The parts of a model that kiln uses; others, such as a safety checker, are not fetched.
const NETWORKS: [&str; 3] = ["unet", "vqvae", "vae"];

/// The part of a repository that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The model: all parts of a pipeline, or the only network.
    Model,
    /// The VQ-VAE of a pipeline, or the only network.
    FirstStage,
}

/// A repository, or its part in the cache: names of files, and the contents of small ones.
pub(crate) struct Selection<'a> {
    /// The repository, for errors.
    pub(crate) repository: &'a str,
    /// All its files.
    pub(crate) files: &'a BTreeSet<String>,
    /// The text of one of them.
    pub(crate) read: &'a mut dyn FnMut(&str) -> Result<String, TransportError>,
}

impl Selection<'_> {
    /// The files of `wanted`, the small ones first.
    pub(crate) fn of(mut self, wanted: Wanted) -> Result<Vec<String>, TransportError> {
        let mut selected = Vec::new();
        if !self.files.contains(INDEX) {
            // A network in its own repository.
            if !self.files.contains(CONFIG) {
                return Err(TransportError::NotAModel {
                    repository: self.repository.to_owned(),
                });
            }
            self.network("", &mut selected)?;
            return Ok(selected);
        }
        if wanted == Wanted::FirstStage {
            let folder = ["vqvae/", "vae/"].into_iter().find(|folder| {
                let config = format!("{folder}{CONFIG}");
                self.files.contains(&config)
            });
            let folder = folder.ok_or_else(|| self.incomplete("a VQ-VAE"))?;
            self.network(folder, &mut selected)?;
            return Ok(selected);
        }
        selected.push(INDEX.to_owned());
        let index = self.json(INDEX)?;
        let is_part = |part: &&str| index.get(*part).is_some_and(|value| !value[1].is_null());
        let scheduler = format!("{}{SCHEDULER_CONFIG}", self.folder("scheduler"));
        if is_part(&"scheduler") {
            self.require(scheduler, &mut selected)?;
        }
        for part in NETWORKS.iter().filter(|part| is_part(part)) {
            self.network(&self.folder(part), &mut selected)?;
        }
        // kiln's own part, which is not in the index.
        if self.files.contains(&format!("{GUIDE}{CONFIG}")) {
            self.require(format!("{GUIDE}{GUIDANCE}"), &mut selected)?;
            self.network(GUIDE, &mut selected)?;
        }
        selected.sort_by_key(|file| !file.ends_with(".json"));
        Ok(selected)
    }

    /// The folder of a model's part, or the repository's root, where the first pipelines, such as those of DDPM's
    /// authors, have everything.
    fn folder(&self, part: &str) -> String {
        let folder = format!("{part}/");
        let has_folder = self.files.iter().any(|file| file.starts_with(&folder));
        if has_folder { folder } else { String::new() }
    }

    /// Adds a network's options and weights.
    fn network(&mut self, folder: &str, selected: &mut Vec<String>) -> Result<(), TransportError> {
        self.require(format!("{folder}{CONFIG}"), selected)?;
        let forms = forms().into_iter();
        let mut forms = forms.map(|form| (format!("{folder}{}", form.file), form.is_index));
        let found = forms.find(|(file, _)| self.files.contains(file));
        let (file, is_index) = found.ok_or_else(|| {
            self.incomplete(&format!("{folder}{WEIGHTS}, or weights in another form"))
        })?;
        selected.push(file.clone());
        if is_index {
            let text = (self.read)(&file)?;
            for shard in shard_names(&text, format!("{file} of {}", self.repository))? {
                self.require(format!("{folder}{shard}"), selected)?;
            }
        }
        Ok(())
    }

    fn require(&self, file: String, selected: &mut Vec<String>) -> Result<(), TransportError> {
        if !self.files.contains(&file) {
            return Err(self.incomplete(&file));
        }
        selected.push(file);
        Ok(())
    }

    fn json(&mut self, file: &str) -> Result<Map<String, Value>, TransportError> {
        let text = (self.read)(file)?;
        serde_json::from_str(&text).map_err(|problem| TransportError::Damaged {
            repository: self.repository.to_owned(),
            file: file.to_owned(),
            problem: problem.to_string(),
        })
    }

    fn incomplete(&self, missing: &str) -> TransportError {
        TransportError::Incomplete {
            repository: self.repository.to_owned(),
            missing: missing.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFETENSORS: &str = "diffusion_pytorch_model.safetensors";

    /// The selection from `files`, where every file that is read contains `text`.
    fn select(wanted: Wanted, files: &[&str], text: &str) -> Result<Vec<String>, String> {
        let files = files.iter().map(|&file| file.to_owned()).collect();
        let selection = Selection {
            repository: "a/b",
            files: &files,
            read: &mut |_| Ok(text.to_owned()),
        };
        selection.of(wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn a_model_is_its_index_and_its_parts_each_with_the_best_weights() {
        let index = r#"{"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"],
            "vqvae": ["diffusers", "VQModel"], "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [null, null]}"#;
        let files = [
            "README.md",
            "model_index.json",
            "safety_checker/config.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.safetensors",
            "vqvae/config.json",
            "vqvae/diffusion_pytorch_model.fp16.safetensors",
        ];
        let expected = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "vqvae/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vqvae/diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(select(Wanted::Model, &files, index).unwrap(), expected);
        let first_stage = select(Wanted::FirstStage, &files, index).unwrap();
        assert_eq!(first_stage, ["vqvae/config.json", expected[5]]);
    }

    #[test]
    fn a_guide_comes_with_its_model() {
        let index = r#"{"unet": ["diffusers", "UNet2DModel"]}"#;
        let files = [
            "guide/config.json",
            "guide/diffusion_pytorch_model.safetensors",
            "guide/guidance.json",
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ];
        let mut selected = select(Wanted::Model, &files, index).unwrap();
        selected.sort();
        assert_eq!(selected, files);
        let without = files.map(|file| file.replace("guidance.json", "other.json"));
        let without: Vec<&str> = without.iter().map(String::as_str).collect();
        let message = select(Wanted::Model, &without, index).unwrap_err();
        assert!(message.contains("lacks guide/guidance.json"), "{message}");
    }

    #[test]
    fn the_first_pipelines_have_everything_in_one_folder() {
        let index = r#"{"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}"#;
        let files = [
            "config.json",
            "diffusion_pytorch_model.bin",
            "model_index.json",
            "scheduler_config.json",
        ];
        let mut selected = select(Wanted::Model, &files, index).unwrap();
        selected.sort();
        assert_eq!(selected, files);
    }

    #[test]
    fn a_network_alone_is_its_options_and_weights() {
        for wanted in [Wanted::Model, Wanted::FirstStage] {
            let selected = select(wanted, &["README.md", "config.json", SAFETENSORS], "").unwrap();
            assert_eq!(selected, ["config.json", SAFETENSORS]);
        }
    }

    #[test]
    fn divided_weights_are_all_their_pieces_once() {
        let index = "diffusion_pytorch_model.safetensors.index.json";
        let text = r#"{"metadata": {}, "weight_map": {"x": "p-1.safetensors", "y": "p-2.safetensors", "z": "p-1.safetensors"}}"#;
        let files = ["config.json", index, "p-1.safetensors", "p-2.safetensors"];
        assert_eq!(select(Wanted::Model, &files, text).unwrap(), files);
        let message = select(Wanted::Model, &files[..3], text).unwrap_err();
        assert!(message.contains("lacks p-2.safetensors"), "{message}");
        for text in [
            r#"{"weight_map": {"x": "../../etc/passwd"}}"#,
            r#"{"weight_map": {"x": 3}}"#,
            r#"{"weight_map": []}"#,
            "{}",
            "[]",
            "",
        ] {
            let message = select(Wanted::Model, &files, text).unwrap_err();
            assert!(
                message.contains(index) && message.contains("a/b"),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let index = r#"{"unet": ["diffusers", "UNet2DModel"]}"#;
        for (wanted, files, expected) in [
            (
                Wanted::Model,
                &["README.md"][..],
                "neither model_index.json nor config.json",
            ),
            (
                Wanted::Model,
                &["config.json"],
                "lacks diffusion_pytorch_model.safetensors",
            ),
            (
                Wanted::Model,
                &["model_index.json", "unet/x"],
                "lacks unet/config.json",
            ),
            (
                Wanted::FirstStage,
                &["model_index.json", "unet/config.json"],
                "lacks a VQ-VAE",
            ),
        ] {
            let message = select(wanted, files, index).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
