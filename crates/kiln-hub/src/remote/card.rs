//! The page of a model on the Hub: `README.md`, with facts for machines in YAML at its head.
//!
//! The facts are those of <https://huggingface.co/docs/hub/model-cards>.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::Metadata;

/// Data sets that the Hub has, under kiln's names for them.
const DATA_SETS: [(&str, &str); 4] = [
    ("mnist", "ylecun/mnist"),
    ("mnist-10k", "ylecun/mnist"),
    ("cifar-10", "uoft-cs/cifar10"),
    ("flowers-102", "huggan/flowers-102-categories"),
];
/// A part of a model and how it was trained.
pub(crate) struct Part {
    /// "U-Net", "VQ-VAE", "VAE", "Guide".
    pub(crate) title: &'static str,
    /// Facts about it beyond those of its training: names and values.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// How it was trained, and facts about its data.
    pub(crate) metadata: Metadata,
}

/// All that the page says.
pub(crate) struct Card<'a> {
    /// `ORG/REPO`, or `ORG/REPO@BRANCH`.
    pub(crate) repository: &'a str,
    /// One of the Hub's names for licenses, such as `apache-2.0`.
    pub(crate) license: &'a str,
    /// diffusers' class that loads it: a pipeline, or a network alone.
    pub(crate) class: &'a str,
    /// The U-Net first.
    pub(crate) parts: &'a [Part],
    /// Name of the file with drawn images.
    pub(crate) grid: Option<&'a str>,
    /// Titles and files of loss curves.
    pub(crate) curves: &'a [(&'static str, String)],
    /// The experiment that was run, in TOML.
    pub(crate) config: Option<&'a str>,
    /// What `kiln evaluate` found: its results.json.
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
                "A {} trained with [kiln](https://crates.io/crates/kiln), in the layout of diffusers.\n",
                self.description()
            ),
        );
        if let Some(grid) = self.grid {
            add(
                &mut page,
                &format!("![Images drawn by this model]({grid})\n"),
            );
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
            // A fence that is longer than any in the config.
            let fence = "`".repeat(3 + config.matches("```").count());
            add(
                &mut page,
                &format!(
                    "The experiment:\n\n{fence}toml\n{}\n{fence}",
                    config.trim_end()
                ),
            );
        }
        page
    }

    fn front_matter(&self, metrics: &BTreeSet<&str>) -> String {
        let mut lines = vec![
            "---".to_owned(),
            format!("license: {}", quoted(self.license)),
            "library_name: diffusers".to_owned(),
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
        let load = format!(
            "{}.from_pretrained({}{revision})",
            self.class,
            quoted(repository)
        );
        let python = if self.has_unet() {
            format!(
                "from diffusers import {0}\n\npipeline = {load}\nimages = pipeline(batch_size=8, num_inference_steps=50).images",
                self.class
            )
        } else {
            format!(
                "from diffusers import {0}\n\nautoencoder = {load}",
                self.class
            )
        };
        let program = if self.has_unet() {
            format!("kiln sample --model {} --steps 50", self.repository)
        } else {
            format!(
                "kiln reconstruct --model {} --data photos/",
                self.repository
            )
        };
        add(
            page,
            &format!("```python\n{python}\n```\n\n```\n{program}\n```\n"),
        );
        let Some(part) = self.parts.first() else {
            return;
        };
        if part.metadata.border > 0 {
            add(
                page,
                &format!(
                    "Images have {} pixels of padding on each side, which kiln cuts away and diffusers leaves.\n",
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
        if part.facts.iter().any(|(name, _)| *name == "classes") {
            add(
                page,
                &format!(
                    "The U-Net takes `class_labels`{}; kiln draws a row of each, or `--class NAME`. diffusers' pipeline passes none, so call its `unet` yourself there.\n",
                    if names.is_empty() {
                        String::new()
                    } else {
                        format!(": {}", cell(&names.join(", ")))
                    }
                ),
            );
        }
    }

    fn description(&self) -> String {
        let data = self
            .data_set()
            .map_or_else(String::new, |data| format!(" of {}", cell(data)));
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

/// A string that YAML and Python read alike: JSON's form of it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Text that stays inside its cell of a table.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}

/// What was measured of one set of images, in an evaluation: a number under each name.
type Figures = Map<String, Value>;

/// What a set of images is, how many there were, and what was measured of them.
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

/// An evaluation as a table, under a line that says what it is of.
fn table(evaluation: &Value) -> String {
    let rows = rows(evaluation);
    let metrics = metrics(&rows);
    let words = |key: &str| cell(evaluation[key].as_str().unwrap_or_default());
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
            class: "DiffusionPipeline",
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
            "| ddim \\| 10 steps | 64 |  | 0.0123 ± 0.0010 |\n| real | 10 | 3.5000 |  |\n",
            "| steps | 100 |",
            "2 pixels of padding",
            "circle, a \\| b",
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
            "<script>",
            "\n# <",
        ] {
            assert!(!page.contains(absent), "{absent:?} in {page}");
        }
        assert!(
            page.contains("A VQ-VAE of my: \"photos\" --- # &lt;script>"),
            "{page}"
        );
    }
}
