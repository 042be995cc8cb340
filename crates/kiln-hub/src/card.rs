//! The page of a model on the Hub: `README.md`, with machine-readable facts in YAML at the top.
//!
//! The facts follow <https://huggingface.co/docs/hub/model-cards>.

use std::collections::BTreeSet;
use std::fmt::Write;

use kiln_checkpoint::Metadata;
use kiln_data::is_unprintable;
use serde_json::{Map, Value};

use crate::markdown::{cell, fence, inline};

/// Data sets on the Hub, by kiln's names.
const DATA_SETS: [(&str, &str); 4] = [
    ("mnist", "ylecun/mnist"),
    ("mnist-10k", "ylecun/mnist"),
    ("cifar-10", "uoft-cs/cifar10"),
    ("flowers-102", "huggan/flowers-102-categories"),
];
/// A part of a model and its training.
pub(crate) struct Part {
    /// "U-Net", "VQ-VAE", "VAE", "Guide".
    pub(crate) title: &'static str,
    /// Facts about it besides its training: names and values.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// How it was trained, and facts about its data.
    pub(crate) metadata: Metadata,
}

/// The content of the page.
pub(crate) struct Card<'a> {
    /// `ORG/REPO`, or `ORG/REPO@BRANCH`.
    pub(crate) repository: &'a str,
    /// One of the Hub's names for licenses, such as `apache-2.0`.
    pub(crate) license: &'a str,
    /// diffusers' class that loads it and draws with it, a pipeline or a network alone; or the reason if there is none.
    pub(crate) class: Result<&'a str, &'a str>,
    /// The parts, with the U-Net first.
    pub(crate) parts: &'a [Part],
    /// Name of the file with drawn images, or with reconstructions.
    pub(crate) grid: Option<&'a str>,
    /// Titles and files of loss curves.
    pub(crate) curves: &'a [(&'static str, String)],
    /// The experiment that was run, in TOML.
    pub(crate) config: Option<&'a str>,
    /// The results.json of `kiln evaluate`.
    pub(crate) evaluation: Option<&'a Value>,
}

impl Card<'_> {
    /// The page.
    pub(crate) fn to_markdown(&self) -> String {
        let metrics = self.evaluation.map(|evaluation| metrics(&rows(evaluation)));
        let metrics = metrics.unwrap_or_default();
        let mut page = self.front_matter(&metrics);
        let title = self
            .repository
            .rsplit('/')
            .next()
            .unwrap_or(self.repository);
        let title = title.split('@').next().unwrap_or(title);
        add(&mut page, &format!("\n# {title}\n"));
        add(
            &mut page,
            &format!(
                "A {}{}, in the layout of diffusers.\n",
                self.description(),
                if self.is_ours() {
                    " trained with kiln"
                } else {
                    ""
                },
            ),
        );
        if let Some(grid) = self.grid {
            let title = match self.has_unet() {
                true => "Images drawn by this model",
                false => "Images and their reconstructions",
            };
            add(&mut page, &format!("![{title}]({grid})\n"));
        }
        self.add_usage(&mut page);
        if let Some(evaluation) = self.evaluation.filter(|_| !metrics.is_empty()) {
            add(&mut page, "## Evaluation\n");
            add(&mut page, &table(evaluation));
        }
        add(&mut page, "## Training\n");
        for part in self.parts {
            add(&mut page, &format!("{}:\n", part.title));
            add(&mut page, "| | |\n| --- | --- |");
            let training = part.metadata.training.iter();
            let training = training.map(|(name, value)| (name.as_str(), value));
            for (name, value) in part
                .facts
                .iter()
                .map(|(name, value)| (*name, value))
                .chain(training)
            {
                add(&mut page, &format!("| {} | {} |", cell(name), cell(value)));
            }
            add(&mut page, "");
        }
        for (title, file) in self.curves {
            add(&mut page, &format!("![{title}]({file})\n"));
        }
        if let Some(config) = self.config {
            add(
                &mut page,
                &format!("The experiment:\n\n{}", fence("toml", config)),
            );
        }
        page
    }

    fn front_matter(&self, metrics: &BTreeSet<&str>) -> String {
        let mut lines = vec![
            "---".to_owned(),
            format!("license: {}", quoted(self.license)),
            // The Hub shows its own code for a library.
            format!(
                "library_name: {}",
                self.class.map_or("kiln", |_| "diffusers")
            ),
        ];
        if self.has_unet() {
            lines.push("pipeline_tag: unconditional-image-generation".to_owned());
        }
        lines.push("tags:".to_owned());
        lines.extend(self.tags().iter().map(|tag| format!("- {tag}")));
        let data_set = self.data_set();
        let known = DATA_SETS.iter().find(|(name, _)| data_set == Some(*name));
        if let Some((_, id)) = known {
            lines.push(format!("datasets:\n- {id}"));
        }
        if !metrics.is_empty() {
            lines.push("metrics:".to_owned());
            lines.extend(metrics.iter().map(|metric| format!("- {}", quoted(metric))));
        }
        lines.push("---\n".to_owned());
        lines.join("\n")
    }

    fn tags(&self) -> Vec<&'static str> {
        let mut tags = vec!["kiln"];
        if self.has_unet() {
            tags.push("diffusion");
        }
        if self.part("VQ-VAE").is_some() {
            tags.push("vq-vae");
        }
        if self.has_unet() && self.has_first_stage() {
            tags.push("latent-diffusion");
        }
        tags
    }

    fn add_usage(&self, page: &mut String) {
        let (repository, revision) = match self.repository.split_once('@') {
            Some((repository, revision)) => {
                (repository, format!(", revision={}", quoted(revision)))
            }
            None => (self.repository, String::new()),
        };
        match self.class {
            Ok(class) => {
                let load = format!("{class}.from_pretrained({}{revision})", quoted(repository));
                add(
                    page,
                    &format!("{}\n", fence("python", &self.python(class, &load))),
                );
            }
            Err(reason) => add(page, &format!("{reason}\n")),
        }
        let program = if self.has_unet() {
            format!(
                "kiln sample --model {} --steps {}",
                self.repository,
                self.steps()
            )
        } else {
            format!(
                "kiln reconstruct --model {} --data photos/",
                self.repository
            )
        };
        add(page, &format!("{}\n", fence("", &program)));
        let Some(part) = self.parts.first() else {
            return;
        };
        if part.metadata.border > 0 {
            add(
                page,
                &format!(
                    "Images have {} pixels of padding on each side, which kiln crops and diffusers keeps.\n",
                    part.metadata.border
                ),
            );
        }
        if self.part("Guide").is_some() {
            add(
                page,
                "A worse version of the U-Net guides it (autoguidance, [Karras et al. 2024](https://arxiv.org/abs/2406.02507)) in kiln, unless it is told `--guidance 1`. diffusers' pipeline draws without guidance.\n",
            );
        }
        let names = &part.metadata.class_names;
        if self.has_classes() {
            add(
                page,
                &format!(
                    "The U-Net takes `class_labels`{}; kiln draws a row of each, or `--class NAME`.\n",
                    if names.is_empty() {
                        String::new()
                    } else {
                        let names = names.iter().map(|name| inline(name));
                        format!(": {}", names.collect::<Vec<_>>().join(", "))
                    }
                ),
            );
        }
    }

    /// The denoising steps that the model takes by default.
    fn steps(&self) -> usize {
        let own = self.parts.first();
        own.and_then(|part| part.metadata.sampling_steps)
            .unwrap_or(50)
    }

    /// Python code that loads the model and draws eight images.
    fn python(&self, class: &str, load: &str) -> String {
        if !self.has_unet() {
            return format!("from diffusers import {class}\n\nautoencoder = {load}");
        }
        if !self.has_classes() {
            return format!(
                "from diffusers import {class}\n\npipeline = {load}\nimages = pipeline(batch_size=8, num_inference_steps={}).images",
                self.steps()
            );
        }
        let steps = self.steps();
        // diffusers' pipelines pass no class to their U-Net.
        let decode = match self.has_first_stage() {
            true => {
                "\nautoencoder = pipeline.vqvae\nimages = autoencoder.decode(sample / autoencoder.config.scaling_factor).sample"
            }
            false => "\nimages = sample",
        };
        format!(
            "import torch
from diffusers import {class}

pipeline = {load}
unet, scheduler = pipeline.unet, pipeline.scheduler
class_labels = torch.full([8], 0)
size = unet.config.sample_size
height, width = size if isinstance(size, (list, tuple)) else (size, size)
sample = torch.randn(8, unet.config.in_channels, height, width)
scheduler.set_timesteps({steps})
sample = sample * scheduler.init_noise_sigma
with torch.no_grad():
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        prediction = unet(scaled, timestep, class_labels=class_labels).sample
        sample = scheduler.step(prediction, timestep, sample).prev_sample{}",
            decode.replace('\n', "\n    ")
        )
    }

    fn description(&self) -> String {
        let data = self
            .data_set()
            .map_or_else(String::new, |data| format!(" of {}", inline(data)));
        let kind = match (self.has_unet(), self.has_first_stage()) {
            (true, false) => "pixel-space diffusion model",
            (true, true) => "latent diffusion model",
            (false, _) => self.parts.first().map_or("model", |part| part.title),
        };
        format!("{kind}{data}")
    }

    fn data_set(&self) -> Option<&str> {
        let part = self.parts.first()?;
        part.metadata.training.get("dataset").map(String::as_str)
    }

    /// Whether kiln trained it: kiln then recorded its version.
    fn is_ours(&self) -> bool {
        let part = self.parts.first();
        part.is_some_and(|part| part.metadata.training.contains_key("version"))
    }

    fn has_classes(&self) -> bool {
        let part = self.part("U-Net");
        part.is_some_and(|part| part.facts.iter().any(|(name, _)| *name == "classes"))
    }

    fn has_unet(&self) -> bool {
        self.part("U-Net").is_some()
    }

    fn has_first_stage(&self) -> bool {
        self.part("VQ-VAE").or(self.part("VAE")).is_some()
    }

    fn part(&self, title: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.title == title)
    }
}

fn add(page: &mut String, line: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(page, "{line}");
}

/// A string that YAML and Python read in the same way: its JSON form, in one line.
fn quoted(text: &str) -> String {
    Value::from(text.replace(is_unprintable, " ")).to_string()
}

/// The figures of one set of images in an evaluation: a number for each name.
type Figures = Map<String, Value>;

/// A set's description, its number of images, and its figures.
type Row<'a> = (&'a str, u64, &'a Figures);

/// The rows of an evaluation that have figures.
fn rows(evaluation: &Value) -> Vec<Row<'_>> {
    let rows = evaluation["rows"].as_array().into_iter().flatten();
    rows.filter_map(row).collect()
}

fn row(row: &Value) -> Option<Row<'_>> {
    let count = row["count"].as_u64()?;
    Some((row["images"].as_str()?, count, row["figures"].as_object()?))
}

/// The names of all figures.
fn metrics<'a>(rows: &[Row<'a>]) -> BTreeSet<&'a str> {
    let names = rows.iter().flat_map(|(_, _, figures)| figures.keys());
    names.map(String::as_str).collect()
}

/// An evaluation as a table, under a line that describes it.
fn table(evaluation: &Value) -> String {
    let rows = rows(evaluation);
    let metrics = metrics(&rows);
    let words = |key: &str| inline(evaluation[key].as_str().unwrap_or_default());
    let mut text = format!(
        "Against {}; {}.\n\n| images | count |",
        words("against"),
        words("judge")
    );
    for metric in &metrics {
        text += &format!(" {} |", cell(metric));
    }
    text += &format!("\n| --- | ---: |{}\n", " ---: |".repeat(metrics.len()));
    for (images, count, figures) in rows {
        text += &format!("| {} | {count} |", cell(images));
        for metric in &metrics {
            let figure = figures.get(*metric);
            let number = |key: &str| figure?[key].as_f64();
            text += &match (number("value"), number("standard_error")) {
                (Some(value), Some(error)) => format!(" {value:.4} ± {error:.4} |"),
                (Some(value), None) => format!(" {value:.4} |"),
                _ => "  |".to_owned(),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn parts(data_set: &str) -> Vec<Part> {
        let metadata = Metadata {
            border: 2,
            class_names: vec!["circle".to_owned(), "a | b".to_owned()],
            training: BTreeMap::from([
                ("dataset".to_owned(), data_set.to_owned()),
                ("steps".to_owned(), "100".to_owned()),
                ("version".to_owned(), "0.1.0".to_owned()),
            ]),
            ..Metadata::default()
        };
        let facts = vec![("classes", "3".to_owned())];
        let unet = Part {
            title: "U-Net",
            facts,
            metadata: metadata.clone(),
        };
        let vqvae = Part {
            title: "VQ-VAE",
            facts: Vec::new(),
            metadata,
        };
        vec![unet, vqvae]
    }

    fn card<'a>(parts: &'a [Part], evaluation: Option<&'a Value>) -> Card<'a> {
        Card {
            repository: "ada/digits@draft",
            license: "apache-2.0",
            class: Ok("DiffusionPipeline"),
            parts,
            grid: Some("samples.png"),
            curves: &[],
            config: Some("# ```\nseed = 0\n"),
            evaluation,
        }
    }

    #[test]
    fn the_page_has_facts_for_machines_and_lines_to_copy() {
        let parts = parts("mnist");
        let evaluation = json!({"model": "x", "against": "10 held-out images", "judge": "a classifier", "rows": [
            {"images": "ddim | 10 steps", "count": 64, "figures": {"kid": {"value": 0.012345, "standard_error": 0.001}}},
            {"images": "real", "count": 10, "figures": {"fid": {"value": 3.5}}},
            {"images": "nothing"},
        ]});
        let page = card(&parts, Some(&evaluation)).to_markdown();
        let expected = "---\nlicense: \"apache-2.0\"\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation\n\
            tags:\n- kiln\n- diffusion\n- vq-vae\n- latent-diffusion\ndatasets:\n- ylecun/mnist\nmetrics:\n- \"fid\"\n- \"kid\"\n---\n\n# digits\n";
        assert!(page.starts_with(expected), "{page}");
        for part in [
            "from diffusers import DiffusionPipeline\n",
            "DiffusionPipeline.from_pretrained(\"ada/digits\", revision=\"draft\")",
            "kiln sample --model ada/digits@draft --steps 50",
            "![Images drawn by this model](samples.png)",
            "Against 10 held-out images; a classifier.\n\n| images | count | fid | kid |\n| --- | ---: | ---: | ---: |\n",
            "| `ddim \\| 10 steps` | 64 |  | 0.0123 ± 0.0010 |\n| real | 10 | 3.5000 |  |\n",
            "| steps | 100 |",
            "2 pixels of padding",
            "circle, `a | b`",
            "class_labels=class_labels",
            "pipeline.vqvae",
            "trained with kiln,",
            "\n````toml\n# ```\nseed = 0\n````",
        ] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
    }

    #[test]
    fn nothing_is_claimed_that_is_not_known() {
        let parts = parts("my: \"photos\"\n---\n# <script>");
        let page = card(&parts[1..], None).to_markdown();
        for absent in [
            "datasets:",
            "metrics:",
            "Evaluation",
            "pipeline_tag",
            "num_inference_steps",
            "\n# <",
            "crates.io",
        ] {
            assert!(!page.contains(absent), "{absent:?} in {page}");
        }
        assert!(
            page.contains("A VQ-VAE of `my: \"photos\" --- # <script>`"),
            "{page}"
        );
    }

    #[test]
    fn lines_are_shown_that_work() {
        let mut parts = parts("mnist");
        parts[0].facts.clear();
        parts[0].metadata.training.remove("version");
        let page = card(&parts, None).to_markdown();
        assert!(
            page.contains("pipeline(batch_size=8, num_inference_steps=50)"),
            "{page}"
        );
        assert!(!page.contains("trained with kiln"), "{page}");
        parts[0].metadata.sampling_steps = Some(4);
        let page = card(&parts, None).to_markdown();
        for steps in ["num_inference_steps=4)", "--steps 4\n"] {
            assert!(page.contains(steps), "{page}");
        }
        parts[0].metadata.sampling_steps = None;
        // diffusers has no such network.
        let of_kiln = Card {
            class: Err("diffusers does not load it."),
            ..card(&parts, None)
        };
        let page = of_kiln.to_markdown();
        assert!(page.contains("library_name: kiln\n"), "{page}");
        assert!(
            page.contains("kiln sample --model ada/digits@draft --steps 50"),
            "{page}"
        );
        for absent in ["python", "from_pretrained", "library_name: diffusers"] {
            assert!(!page.contains(absent), "{absent:?} in {page}");
        }
    }

    #[test]
    fn names_stay_names() {
        let hostile =
            "![x](https://e.org/x.png) <img src=x> | [a](b)\n\n```\n---\n# T `c` www.e.org";
        let mut parts = parts(hostile);
        for part in &mut parts {
            part.metadata.class_names = vec![hostile.to_owned(), "rose".to_owned()];
            part.metadata
                .training
                .insert(hostile.to_owned(), hostile.to_owned());
        }
        let evaluation = json!({"model": hostile, "against": hostile, "judge": hostile, "rows": [
            {"images": hostile, "count": 1, "figures": {hostile: {"value": 1.0}}},
        ]});
        let page = card(&parts, Some(&evaluation)).to_markdown();
        let (head, body) = page
            .strip_prefix("---\n")
            .unwrap()
            .split_once("\n---\n")
            .unwrap();
        assert!(
            head.lines()
                .all(|line| !line.contains("img") || line.starts_with("- \"")),
            "{head}"
        );
        // Nothing of it appears outside of code.
        let mut is_code = false;
        for line in body.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
                continue;
            }
            let mut rest = line;
            let mut outside = String::new();
            while let Some(begin) = rest.find('`').filter(|_| !is_code) {
                outside += &rest[..begin];
                let ticks = rest[begin..]
                    .bytes()
                    .take_while(|&byte| byte == b'`')
                    .count();
                let code = &rest[begin + ticks..];
                let end = code
                    .find(&rest[begin..begin + ticks])
                    .expect("an end of the code");
                rest = &code[end + ticks..];
            }
            outside += if is_code { "" } else { rest };
            for part in ["![x]", "<img", "](b)", "www."] {
                assert!(!outside.contains(part), "{part} in {line}");
            }
        }
        assert!(!is_code);
    }
}
