//! The commands that train an experiment, as they are typed.

use std::path::Path;

use super::training::default_run_folder;

/// What an experiment trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A first stage, then a U-Net on its latents.
    LatentDiffusion,
    /// A U-Net in pixel space.
    Diffusion,
    /// A student of a trained model.
    Distillation,
    /// A classifier.
    Classifier,
}

impl Kind {
    /// Its name in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::LatentDiffusion => "latent diffusion",
            Self::Diffusion => "diffusion in pixel space",
            Self::Distillation => "distillation",
            Self::Classifier => "a classifier",
        }
    }

    /// The commands that train the experiment in `config` with these further `arguments`, and draw with the model.
    pub fn commands(self, config: &Path, arguments: &[String]) -> Vec<String> {
        let names: &[&str] = match self {
            Self::LatentDiffusion => &["train-vqvae", "train-latent-diffusion"],
            Self::Diffusion => &["train-diffusion"],
            Self::Distillation => &["distill"],
            Self::Classifier => &["train-classifier"],
        };
        let trainings = names.iter().map(|name| {
            let words = [*name, "--config"].map(str::to_owned);
            let config = config.display().to_string();
            let words: Vec<String> = words.into_iter().chain([config]).collect();
            command_line(&[&words, arguments].concat())
        });
        let model = default_run_folder(config).join("model");
        let model = model.display().to_string();
        let sample = ["sample", "--model", &model].map(str::to_owned);
        let draws = (self != Self::Classifier).then(|| command_line(&sample));
        trainings.chain(draws).collect()
    }
}

/// A command of kiln with these words.
pub fn command_line(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("kiln {}", words.join(" "))
}

/// A word of a command line, as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-./:=@%+,".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed_as_they_are() {
        let set = ["--set".to_owned(), "stage_2={a=1}".to_owned()];
        assert_eq!(
            Kind::LatentDiffusion.commands(Path::new("my set/it's.toml"), &set),
            [
                r"kiln train-vqvae --config 'my set/it'\''s.toml' --set 'stage_2={a=1}'",
                r"kiln train-latent-diffusion --config 'my set/it'\''s.toml' --set 'stage_2={a=1}'",
                r"kiln sample --model 'runs/it'\''s/model'",
            ]
        );
        assert_eq!(
            Kind::Classifier.commands(Path::new("c.toml"), &[]),
            ["kiln train-classifier --config c.toml"]
        );
    }
}
