//! The figures of an evaluation: a table to read, and files for other programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kiln::SampleOptions;
use kiln::pictures::{Album, Picture};
use kiln::plots::{QualityCurve, quality_svg};
use kiln_diffusion::sampler::Sampler;
use kiln_eval::Figure;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::table::Table;

/// An evaluation: the model, the images it is compared with, and all figures.
#[derive(Clone, Debug)]
pub struct Report {
    /// The source of the model.
    pub model: String,
    /// The real images.
    pub against: String,
    /// The judge.
    pub judge: String,
    /// The seed of all noise.
    pub seed: u64,
    /// Landmarks first, then one row for each way to sample.
    pub rows: Vec<Row>,
    /// Pictures beside the table, under their files' names.
    pub pictures: Vec<(&'static str, Picture)>,
}

/// One set of images.
#[derive(Clone, Debug)]
pub struct Row {
    /// A description of the images.
    pub name: String,
    /// How they were sampled; `None` for landmarks.
    pub sampling: Option<Sampling>,
    /// How many there are.
    pub images: usize,
    /// The seconds for drawing them.
    pub seconds: Option<f64>,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// How images were sampled.
#[derive(Clone, Debug, Serialize)]
pub struct Sampling {
    /// The sampler with its settings.
    pub sampler: Sampler,
    /// The spacing of the timesteps; `None` if they were listed.
    pub spacing: Option<kiln_diffusion::Spacing>,
    /// The timesteps that were listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timesteps: Option<Vec<f64>>,
    /// Denoising steps.
    pub steps: usize,
    /// Scale of the guidance; 1 is no guidance.
    pub guidance: f64,
    /// The lowest and the highest noise rate at which there is guidance.
    pub guidance_interval: [f64; 2],
    /// Network calls per image.
    pub evaluations: usize,
    /// The length of the average of the weights, if it was chosen after training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
}

impl Row {
    /// A row for images sampled with `options`, without figures yet.
    pub(super) fn of(options: &SampleOptions) -> Self {
        let sampling = Sampling {
            sampler: options.sampler,
            spacing: options
                .timesteps
                .is_none()
                .then_some(options.levels.spacing),
            timesteps: options.timesteps.clone(),
            steps: options.steps,
            guidance: options.guidance.scale(),
            guidance_interval: options.guidance.interval(),
            evaluations: options.calls(),
            average: None,
        };
        Self {
            name: sampling.name(&[]),
            sampling: Some(sampling),
            images: 0,
            seconds: None,
            figures: Vec::new(),
        }
    }
}

impl Row {
    /// Of a model whose average of the weights has this length, which was chosen after training.
    pub fn with_average(mut self, length: Option<f64>) -> Self {
        if let Some(sampling) = &mut self.sampling {
            sampling.average = length;
            self.name = sampling.name(&[]);
        }
        self
    }
}

impl Sampling {
    /// All settings except the steps, as the name of a curve in the plot.
    fn way(&self) -> String {
        self.settings().join(", ")
    }

    /// All settings as text, except those that are `said` elsewhere.
    fn name(&self, said: &[String]) -> String {
        let mut words = self.settings();
        words.retain(|setting| !said.contains(setting));
        words.push(match self.listed() {
            Some(timesteps) => format!("steps at {timesteps}"),
            None => format!("steps {}", self.steps),
        });
        words.join(", ")
    }

    /// The timesteps that were listed, as text.
    fn listed(&self) -> Option<String> {
        let timesteps = self.timesteps.as_ref()?.iter().map(f64::to_string);
        Some(timesteps.collect::<Vec<_>>().join(" "))
    }

    /// The sampler first, then the settings that several samplers have.
    fn settings(&self) -> Vec<String> {
        let mut words = self.sampler.name().to_owned();
        if let Some(eta) = self.sampler.eta().filter(|&eta| eta != 0.0) {
            let _ = write!(words, " eta {eta}");
        }
        let spacing = self.spacing.map(|spacing| spacing.name().to_owned());
        let mut settings: Vec<String> = [words].into_iter().chain(spacing).collect();
        if self.guidance != 1.0 {
            let mut words = format!("guidance {}", self.guidance);
            if self.guidance_interval != [0.0, 1.0] {
                let [from, to] = self.guidance_interval;
                let _ = write!(words, " at {from}-{to}");
            }
            settings.push(words);
        }
        settings.extend(self.average.map(|length| format!("average {length}")));
        settings
    }
}

impl Report {
    /// The names of all figures, in order of appearance.
    fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for figure in self.rows.iter().flat_map(|row| &row.figures) {
            if !columns.contains(&figure.name.as_str()) {
                columns.push(&figure.name);
            }
        }
        columns
    }

    /// Settings other than the sampler that all sampled images have in common.
    fn common_settings(&self) -> Vec<String> {
        let mut all = (self.rows.iter()).filter_map(|row| Some(row.sampling.as_ref()?.settings()));
        let Some(first) = all.next() else {
            return Vec::new();
        };
        let mut common = first[1..].to_vec();
        for settings in all {
            common.retain(|setting| settings.contains(setting));
        }
        common
    }

    /// A Markdown table with aligned columns, under a line that describes it and lists the settings that all rows
    /// share. If it would be wider than `width` characters, it becomes several tables below each other.
    pub fn to_markdown(&self, width: usize) -> String {
        let Self {
            model,
            against,
            judge,
            seed,
            ..
        } = self;
        let columns = self.columns();
        let header = ["images", "count", "calls"].into_iter();
        let header = header.chain(columns.iter().copied()).chain(["seconds"]);
        let mut table = Table::new(header.map(str::to_owned));
        let common = self.common_settings();
        for row in &self.rows {
            let sampling = row.sampling.as_ref();
            let name = sampling.map_or_else(|| row.name.clone(), |sampling| sampling.name(&common));
            let calls = sampling.map(|sampling| sampling.evaluations.to_string());
            let figures = columns
                .iter()
                .map(|column| row.figure(column).map(in_words));
            let seconds = row.seconds.map(|seconds| format!("{seconds:.1}"));
            let cells = [Some(name), Some(row.images.to_string()), calls]
                .into_iter()
                .chain(figures)
                .chain([seconds]);
            table.push(cells.map(Option::unwrap_or_default).collect());
        }
        let table = table.without_empty_columns().to_markdown(width);
        let calls = match self.rows.iter().any(|row| row.sampling.is_some()) {
            true => " Calls are those of the network for an image.",
            false => "",
        };
        let settings: String = common
            .iter()
            .map(|setting| format!("{setting}, "))
            .collect();
        format!("{model} against {against}, {settings}seed {seed}; {judge}.{calls}\n\n{table}")
    }

    /// One line per row, with a column for each figure and one for its error, if it has one.
    pub fn to_csv(&self) -> String {
        let columns = self.columns();
        let mut text =
            "images,count,sampler,eta,spacing,guidance,steps,network calls,seconds".to_owned();
        for column in &columns {
            let _ = write!(text, ",{column},{column} error");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "\"{}\",{}", row.name, row.images);
            match &row.sampling {
                Some(sampling) => {
                    let eta = sampling.sampler.eta();
                    let eta = eta.map(|eta| eta.to_string()).unwrap_or_default();
                    let spacing = sampling.spacing.map(|spacing| spacing.name().to_owned());
                    let spacing = spacing.or_else(|| sampling.listed()).unwrap_or_default();
                    let Sampling {
                        sampler,
                        guidance,
                        steps,
                        evaluations,
                        ..
                    } = sampling;
                    let name = sampler.name();
                    let _ = write!(
                        text,
                        ",{name},{eta},{spacing},{guidance},{steps},{evaluations}"
                    );
                }
                None => text.push_str(",,,,,,"),
            }
            let cell =
                |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let _ = write!(text, ",{}", cell(row.seconds));
            for column in &columns {
                let figure = row.figure(column);
                let _ = write!(
                    text,
                    ",{},{}",
                    cell(figure.map(|figure| figure.value)),
                    cell(figure.and_then(|figure| figure.error))
                );
            }
            text.push('\n');
        }
        text
    }

    /// The same as one JSON object.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let figures = row.figures.iter().map(|figure| {
                let value = match figure.error {
                    Some(error) => json!({ "value": figure.value, "standard_error": error }),
                    None => json!({ "value": figure.value }),
                };
                (figure.name.clone(), value)
            });
            json!({
                "images": row.name,
                "count": row.images,
                "sampling": row.sampling,
                "seconds": row.seconds,
                "figures": figures.collect::<Map<String, Value>>(),
            })
        });
        json!({
            "model": self.model,
            "against": self.against,
            "judge": self.judge,
            "seed": self.seed,
            "rows": rows.collect::<Vec<Value>>(),
        })
    }

    /// Writes `table.md`, `results.csv`, `results.json`, the pictures and, if images were sampled, `quality.svg` to a
    /// folder: the first figure over the number of network calls, a curve for each way to sample. Returns their paths.
    /// Existing files stay: see [`Album::save`].
    ///
    /// # Errors
    /// A file that cannot be written, a plot that cannot be drawn.
    pub fn write(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = vec![
            ("table.md", self.to_markdown(usize::MAX)),
            ("results.csv", self.to_csv()),
            ("results.json", format!("{:#}\n", self.to_json())),
        ];
        let curves = self.curves();
        if let (Some(&figure), false) = (self.columns().first(), curves.is_empty()) {
            let landmarks = self.rows.iter().filter(|row| row.sampling.is_none());
            let landmarks =
                landmarks.filter_map(|row| Some((row.name.clone(), row.figure(figure)?.value)));
            let svg = quality_svg(figure, &curves, &landmarks.collect::<Vec<_>>())?;
            files.push(("quality.svg", svg));
        }
        let names = files.iter().map(|(name, _)| *name);
        let pictures = self.pictures.iter().map(|(name, _)| *name);
        let names: Vec<&str> = names.chain(pictures).collect();
        let mut album = Album::default();
        for (name, text) in files {
            album.add_file(name, text.into_bytes());
        }
        for (name, picture) in &self.pictures {
            album.add_png(name, picture)?;
        }
        let saved = album.save(folder)?;
        Ok(names.into_iter().map(|name| saved.path(name)).collect())
    }

    /// The first figure of each way to sample, over the network calls.
    fn curves(&self) -> Vec<QualityCurve> {
        let mut curves: Vec<QualityCurve> = Vec::new();
        for row in &self.rows {
            let (Some(sampling), Some(figure)) = (&row.sampling, row.figures.first()) else {
                continue;
            };
            let (name, point) = (sampling.way(), (sampling.evaluations as f64, figure.value));
            match curves.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push(point),
                None => curves.push(QualityCurve {
                    name,
                    points: vec![point],
                }),
            }
        }
        curves
    }
}

impl Row {
    fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

/// Four digits, and the error if there is one.
fn in_words(figure: &Figure) -> String {
    let digits = |value: f64| match value.abs() {
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    match figure.error {
        Some(error) => format!("{} ± {}", digits(figure.value), digits(error)),
        None => digits(figure.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = |steps: usize, value: f64| Row {
            name: format!("ddim, trailing, steps {steps}"),
            sampling: Some(Sampling {
                sampler: "ddim".parse().unwrap_or_default(),
                spacing: Some(kiln_diffusion::Spacing::Trailing),
                timesteps: None,
                steps,
                guidance: 1.0,
                guidance_interval: [0.0, 1.0],
                evaluations: steps,
                average: None,
            }),
            images: 100,
            seconds: Some(1.5),
            figures: vec![
                Figure {
                    name: "KID".to_owned(),
                    value,
                    error: Some(0.01),
                },
                Figure::new("confident", 0.97),
            ],
        };
        Report {
            model: "a model".to_owned(),
            against: "10 images of mnist".to_owned(),
            judge: "features".to_owned(),
            seed: 3,
            pictures: Vec::new(),
            rows: vec![
                Row {
                    name: "real".to_owned(),
                    sampling: None,
                    images: 10,
                    seconds: None,
                    figures: vec![Figure::new("KID", 0.001)],
                },
                row(10, 0.5),
                row(50, 123.456),
            ],
        }
    }

    #[test]
    fn the_table_says_seed_and_counts_and_leaves_gaps_where_nothing_was_measured() {
        let text = report().to_markdown(usize::MAX);
        assert!(
            text.starts_with("a model against 10 images of mnist, trailing, seed 3; features. ")
        );
        let cells = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("| {name} ")));
            let line = line.unwrap_or_else(|| panic!("{name} is missing in {text}"));
            let cells = line.trim_matches('|').split('|').skip(1);
            cells.map(str::trim).collect::<Vec<_>>()
        };
        assert_eq!(cells("real"), ["10", "", "0.0010", "", ""]);
        assert_eq!(
            cells("ddim, steps 50"),
            ["100", "50", "123.5 ± 0.0100", "0.9700", "1.5"]
        );
    }

    #[test]
    fn settings_that_differ_stand_in_their_rows() {
        let mut report = report();
        if let Some(sampling) = &mut report.rows[1].sampling {
            sampling.spacing = Some(kiln_diffusion::Spacing::Karras);
            sampling.guidance = 2.0;
        }
        let text = report.to_markdown(usize::MAX);
        for name in [
            "ddim, karras, guidance 2, steps 10",
            "ddim, trailing, steps 50",
        ] {
            assert!(text.contains(&format!("| {name} ")), "{text}");
        }
        assert!(text.starts_with("a model against 10 images of mnist, seed 3;"));
    }

    #[test]
    fn listed_timesteps_stand_in_their_row() {
        let mut report = report();
        if let Some(sampling) = &mut report.rows[1].sampling {
            sampling.spacing = None;
            sampling.timesteps = Some(vec![999.0, 499.5]);
        }
        let text = report.to_markdown(usize::MAX);
        assert!(text.contains("| ddim, steps at 999 499.5 "), "{text}");
        assert!(report.to_csv().contains(",ddim,0,999 499.5,1,"));
    }

    #[test]
    fn every_line_of_the_csv_has_all_columns() {
        let text = report().to_csv();
        let cells = |line: &str| {
            let outside = line.split('"').step_by(2).collect::<String>();
            outside.matches(',').count()
        };
        let counts: Vec<usize> = text.lines().map(cells).collect();
        assert_eq!(counts, [12; 4], "{text}");
    }

    #[test]
    fn all_files_are_written_and_hold_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let report = report();
        let written = report.write(folder.path()).unwrap();
        assert_eq!(written.len(), 4);
        let json: Value = serde_json::from_slice(&std::fs::read(&written[2]).unwrap()).unwrap();
        assert_eq!(json["rows"][2]["figures"]["KID"]["standard_error"], 0.01);
        assert_eq!(json["rows"][1]["sampling"]["steps"], 10);
        let plot = std::fs::read_to_string(&written[3]).unwrap();
        assert!(
            plot.contains("ddim, trailing") && plot.contains("real"),
            "{plot}"
        );
    }
}
