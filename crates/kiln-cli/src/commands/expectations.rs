//! What a training will be like, in words.

use burn::tensor::Device;
use kiln_data::Datasets;
use kiln_train::{Outlook, counted};
use serde::Serialize;

use super::fact_table::{FactTable, shape, thousands};
use crate::terminal::size_in_words;

/// What a training will be like: its images and its stages, and the commands that start it.
#[derive(Serialize)]
pub struct Expected {
    pub images: ImagesOutlook,
    /// Bytes; absent if the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    pub stages: Vec<StageOutlook>,
    /// The commands that train it.
    pub commands: Vec<String>,
    #[serde(skip)]
    pub is_on_processor: bool,
}

impl Expected {
    /// Adds its sections to `table`.
    pub fn add_to(&self, table: &mut FactTable) {
        if let Some(free) = self.free_memory {
            table.row("free memory", size_in_words(free));
        }
        self.images.add_to(table);
        for stage in &self.stages {
            stage.add_to(table, self.is_on_processor);
        }
    }

    /// How long all steps take, if all stages were measured.
    pub fn time_in_words(&self) -> Option<String> {
        let seconds = self.stages.iter().map(|stage| stage.outlook.seconds());
        seconds.sum::<Option<f64>>().map(time_in_words)
    }

    /// The commands, a line each.
    pub fn command_lines(&self) -> String {
        let lines = self.commands.iter().map(|command| format!("  {command}\n"));
        lines.collect()
    }
}

/// A stage, with the time that it takes.
#[derive(Serialize)]
pub struct StageOutlook {
    #[serde(flatten)]
    pub outlook: Outlook,
    /// Of all steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_per_pass: Option<f64>,
}

impl StageOutlook {
    pub fn of(outlook: Outlook) -> Self {
        Self {
            seconds: outlook.seconds(),
            seconds_per_pass: outlook.seconds_per_pass(),
            outlook,
        }
    }

    /// This one with the speed that was measured for `other`.
    pub fn with_pace_of(mut self, other: &Self) -> Self {
        self.outlook.pace = other.outlook.pace;
        Self::of(self.outlook)
    }

    /// Adds its section to `table`.
    pub fn add_to(&self, table: &mut FactTable, is_on_processor: bool) {
        let outlook = &self.outlook;
        table.section(outlook.stage);
        for network in &outlook.networks {
            let weights = format!("{} weights", thousands(network.parameters));
            table.row(network.name, weights);
        }
        match (outlook.memory, is_on_processor) {
            (Some(bytes), _) => table.row("memory", about(bytes)),
            (None, true) => table.row("memory", "little"),
            (None, false) => table.row("memory", "not known on this device"),
        }
        let images = counted(outlook.step_images, "image");
        let steps = match outlook.steps {
            1 => "1 step".to_owned(),
            steps => format!("{} steps", thousands(steps)),
        };
        table.row("training", format!("{steps} of {images}"));
        table.row("a pass", steps_in_words(outlook.steps_per_pass));
        table.row("passes", rounded(outlook.passes));
        if let (Some(pace), Some(seconds), Some(pass)) =
            (outlook.pace, self.seconds, self.seconds_per_pass)
        {
            let words = format!(
                "{}: {} a step, {} a pass (mean of {})",
                time_in_words(seconds),
                time_in_words(pace.seconds_per_step),
                time_in_words(pass),
                counted(pace.steps, "measured step"),
            );
            table.row("time", words);
        }
    }
}

/// The images of a training.
#[derive(Serialize)]
pub struct ImagesOutlook {
    name: String,
    train: usize,
    validation: usize,
    /// `[channels, height, width]`
    shape: [usize; 3],
    /// The names of the classes; empty without classes.
    classes: Vec<String>,
    /// Whether the network is told an image's class, or learns to tell it.
    uses_classes: bool,
    /// Bytes of the decoded images if they are kept in memory, and absent if they are read while training.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<usize>,
}

impl ImagesOutlook {
    /// Of these sets, for a training that uses their classes or not.
    pub fn of(datasets: &Datasets, uses_classes: bool) -> Self {
        let Datasets { train, validation } = datasets;
        let shape = train.shape();
        let bytes = (train.len() + validation.len()) * shape.elements();
        Self {
            name: train.name().to_owned(),
            train: train.len(),
            validation: validation.len(),
            shape: [shape.channels, shape.height, shape.width],
            classes: train.class_names().to_vec(),
            uses_classes,
            memory: train.is_decoded().then_some(bytes),
        }
    }

    /// Adds its section to `table`.
    pub fn add_to(&self, table: &mut FactTable) {
        table.section("images");
        table.row("data set", &self.name);
        table.row("to train on", thousands(self.train));
        table.row("held out", thousands(self.validation));
        table.row("shape", shape(self.shape));
        match self.classes.as_slice() {
            [] => table.row("classes", "none"),
            classes => {
                let unused = match self.uses_classes {
                    true => "",
                    false => " (not used: unet.num_class_embeds is not set)",
                };
                let names = some_names(classes);
                table.row("classes", format!("{}: {names}{unused}", classes.len()));
            }
        }
        table.row(
            "kept",
            match self.memory {
                Some(bytes) => format!("in memory, {}", size_in_words(bytes as u64)),
                None => "in their files, and read while the training goes on".to_owned(),
            },
        );
    }
}

/// Whether a device is this machine's processor.
pub fn is_processor(device: &Device) -> bool {
    *device == Device::flex()
}

fn about(bytes: f64) -> String {
    format!(
        "at most about {}, without the images",
        size_in_words(bytes as u64)
    )
}

/// "cat, dog and 5 more".
pub fn some_names(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// "937.5 steps" or "less than one step".
fn steps_in_words(steps: f64) -> String {
    match steps {
        ..1.0 => format!(
            "less than one step: a step sees each image {} times",
            rounded(1.0 / steps)
        ),
        _ => format!("{} steps", rounded(steps)),
    }
}

/// With one digit after the point, and none for large numbers.
pub fn rounded(number: f64) -> String {
    match number {
        ..99.95 => format!("{number:.1}"),
        _ => thousands(number.round() as usize),
    }
}

/// "0.021 s", "45 s", "12 min", "3 h 20 min", "2 days 4 h".
pub fn time_in_words(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        ..0.1 => format!("{seconds:.3} s"),
        ..10.0 => format!("{seconds:.2} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7170.0 => format!("{minutes} min"),
        ..172_800.0 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} days {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let words = [0.0213, 1.234, 45.0, 725.0, 7199.0, 12_000.0, 200_000.0].map(time_in_words);
        let expected = [
            "0.021 s",
            "1.23 s",
            "45 s",
            "12 min",
            "2 h 0 min",
            "3 h 20 min",
            "2 days 7 h",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn passes_and_names_read_well() {
        assert_eq!(steps_in_words(937.54), "938 steps");
        assert_eq!(steps_in_words(6.25), "6.2 steps");
        assert!(steps_in_words(0.25).ends_with("each image 4.0 times"));
        let names = |count: usize| (0..count).map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(some_names(&names(3)), "0, 1, 2");
        assert_eq!(some_names(&names(8)), "0, 1, 2, 3, 4, 5 and 2 more");
    }
}
