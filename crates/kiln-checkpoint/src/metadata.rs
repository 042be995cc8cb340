//! Facts about a network without a key in diffusers, stored in the header of its safetensors file.

use std::collections::{BTreeMap, HashMap};

use kiln_diffusion::Guidance;

use crate::CheckpointError;

// diffusers ignores names that it does not know.
const BORDER: &str = "kiln.border";
const CLASS_NAMES: &str = "kiln.class_names";
const VQVAE_HASH: &str = "kiln.vqvae_hash";
const SAMPLING_STEPS: &str = "kiln.sampling_steps";
const SAMPLING_COUNT: &str = "kiln.sampling_count";
const TRAINING: &str = "kiln.training.";
/// The fact of [`Metadata::training`] that identifies the network whose features a first stage was trained to keep.
pub const PERCEPTUAL_NETWORK: &str = "perceptual_network";
/// The fact about a U-Net that says by which method it was distilled, if it was.
pub const DISTILLED_BY: &str = "distilled_by";
/// The fact about a U-Net distilled in several segments that says in how many.
const SEGMENTS: &str = "distilled_in_segments";
/// The facts about a distilled U-Net that say how much its teacher was guided, and between which noise rates.
const GUIDANCE_LEARNT: &str = "guidance_learnt";
const GUIDANCE_LEARNT_BETWEEN: &str = "guidance_learnt_between";
/// The largest number of images in a picture.
const MAX_COUNT: usize = 4096;

/// Facts about a network without a key in its `config.json`.
///
/// They are strings in the header of its weights, so that `config.json` stays exactly diffusers' own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Pixels of padding on each side of an image, which are cropped from samples.
    pub border: usize,
    /// Names of the data set's classes in the order of their labels; empty if it has none.
    pub class_names: Vec<String>,
    /// For a U-Net: the [hash](crate::vqvae_hash) of the VQ-VAE whose latents it was trained on.
    pub vqvae_hash: Option<String>,
    /// For a U-Net: the default number of denoising steps.
    pub sampling_steps: Option<usize>,
    /// For a U-Net: the default number of images in a picture.
    pub sampling_count: Option<usize>,
    /// How the network was trained, for display: `dataset`, `seed`, `steps`, `version` and other facts of the trainer.
    pub training: BTreeMap<String, String>,
}

impl Metadata {
    /// Notes among the facts about a distilled U-Net how its teacher was guided.
    pub fn note_guidance_learnt(facts: &mut BTreeMap<String, String>, guidance: Guidance) {
        let [from, to] = guidance.interval();
        facts.insert(GUIDANCE_LEARNT.to_owned(), guidance.scale().to_string());
        facts.insert(
            GUIDANCE_LEARNT_BETWEEN.to_owned(),
            format!("{from} and {to}"),
        );
    }

    /// Notes among the facts about a distilled U-Net that it learnt in so many segments.
    pub(crate) fn note_segments(&mut self, segments: usize) {
        (self.training).insert(SEGMENTS.to_owned(), segments.to_string());
    }

    /// The [segments](kiln_diffusion::sampler::consistency()) of a distilled U-Net, if it learnt in more than one.
    pub(crate) fn segments(&self) -> Option<usize> {
        let segments = self.training.get(SEGMENTS)?.parse().ok();
        segments.filter(|&segments| segments > 1)
    }

    /// By which method a U-Net was distilled, if it was.
    pub fn distilled_by(&self) -> Option<&str> {
        self.training.get(DISTILLED_BY).map(String::as_str)
    }

    /// How the teacher of a distilled U-Net was guided, if that was noted.
    pub fn guidance_learnt(&self) -> Option<Guidance> {
        let scale = self.training.get(GUIDANCE_LEARNT)?.parse().ok()?;
        let between = self.training.get(GUIDANCE_LEARNT_BETWEEN);
        let between = between.and_then(|rates| rates.split_once(" and "));
        let [from, to] = between.map_or(["0", "1"], |(from, to)| [from, to]);
        Guidance::new(scale, [from.parse().ok()?, to.parse().ok()?]).ok()
    }

    /// As strings for the header of a safetensors file.
    pub(crate) fn to_header(&self) -> BTreeMap<String, String> {
        let mut header = BTreeMap::new();
        if self.border > 0 {
            header.insert(BORDER.to_owned(), self.border.to_string());
        }
        if !self.class_names.is_empty() {
            let names = serde_json::Value::from(self.class_names.clone());
            header.insert(CLASS_NAMES.to_owned(), names.to_string());
        }
        if let Some(hash) = &self.vqvae_hash {
            header.insert(VQVAE_HASH.to_owned(), hash.clone());
        }
        for (key, number) in [
            (SAMPLING_STEPS, self.sampling_steps),
            (SAMPLING_COUNT, self.sampling_count),
        ] {
            if let Some(number) = number {
                header.insert(key.to_owned(), number.to_string());
            }
        }
        for (name, value) in &self.training {
            header.insert(format!("{TRAINING}{name}"), value.clone());
        }
        header
    }

    /// The facts in the header of a safetensors file, which errors call `file`.
    pub(crate) fn of_weights(
        header: &safetensors::tensor::Metadata,
        file: &str,
    ) -> Result<Self, CheckpointError> {
        let metadata = match header.metadata() {
            Some(header) => Self::from_header(header, file)?,
            None => Self::default(),
        };
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        match metadata.vqvae_hash {
            Some(hash) if hash.len() != 64 || !hash.bytes().all(is_digit) => {
                Err(CheckpointError::Metadata {
                    file: file.to_owned(),
                    key: VQVAE_HASH,
                    value: hash,
                    expected: "a SHA-256 of 64 digits",
                })
            }
            vqvae_hash => Ok(Self {
                vqvae_hash,
                ..metadata
            }),
        }
    }

    /// Checks that the border leaves something of images of `[height, width]` pixels.
    pub(crate) fn check_border(
        &self,
        image: [usize; 2],
        file: &str,
    ) -> Result<(), CheckpointError> {
        let least = image.into_iter().min().unwrap_or_default();
        match self.border < least.div_ceil(2) {
            true => Ok(()),
            false => Err(CheckpointError::Border {
                file: file.to_owned(),
                border: self.border,
                side: least,
            }),
        }
    }

    /// Checks that the class names fit a network with a table of so many classes, with or without the null class.
    pub(crate) fn check_classes(&self, rows: usize, file: &str) -> Result<(), CheckpointError> {
        let named = self.class_names.len();
        match named == 0 || named == rows || named + 1 == rows {
            true => Ok(()),
            false => Err(CheckpointError::ClassNames {
                file: file.to_owned(),
                named,
                rows,
            }),
        }
    }

    fn from_header(header: &HashMap<String, String>, file: &str) -> Result<Self, CheckpointError> {
        let invalid = |key, value: &String, expected| CheckpointError::Metadata {
            file: file.to_owned(),
            key,
            value: value.clone(),
            expected,
        };
        let number = |key, value: &String, largest: usize| {
            let number = value.parse().ok();
            let number = number.filter(|number| (1..=largest).contains(number));
            number.ok_or_else(|| invalid(key, value, "a number from 1 on"))
        };
        let mut metadata = Self::default();
        for (name, value) in header {
            match name.as_str() {
                BORDER => {
                    metadata.border = value
                        .parse()
                        .map_err(|_| invalid(BORDER, value, "a number of pixels"))?;
                }
                CLASS_NAMES => {
                    metadata.class_names = serde_json::from_str(value)
                        .map_err(|_| invalid(CLASS_NAMES, value, "a list of names"))?;
                }
                SAMPLING_STEPS => {
                    metadata.sampling_steps = Some(number(SAMPLING_STEPS, value, usize::MAX)?);
                }
                SAMPLING_COUNT => {
                    metadata.sampling_count = Some(number(SAMPLING_COUNT, value, MAX_COUNT)?);
                }
                VQVAE_HASH => metadata.vqvae_hash = Some(value.clone()),
                _ => {
                    if let Some(name) = name.strip_prefix(TRAINING) {
                        match name {
                            SEGMENTS => {
                                number("kiln.training.distilled_in_segments", value, usize::MAX)?;
                            }
                            GUIDANCE_LEARNT if !value.parse().is_ok_and(f64::is_finite) => {
                                let key = "kiln.training.guidance_learnt";
                                return Err(invalid(key, value, "a number"));
                            }
                            _ => {}
                        }
                        metadata.training.insert(name.to_owned(), value.clone());
                    }
                }
            }
        }
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(header: BTreeMap<String, String>) -> Result<Metadata, CheckpointError> {
        Metadata::from_header(&header.into_iter().collect(), "weights")
    }

    #[test]
    fn facts_survive() {
        let metadata = Metadata {
            border: 2,
            class_names: vec!["a \"quoted\" rose".to_owned(), "ü".to_owned()],
            vqvae_hash: Some("abc".to_owned()),
            sampling_steps: Some(20),
            sampling_count: Some(16),
            training: BTreeMap::from([("dataset".to_owned(), "mnist".to_owned())]),
        };
        assert_eq!(round_trip(metadata.to_header()).expect("facts"), metadata);
        let nothing = Metadata::default();
        assert!(nothing.to_header().is_empty());
        assert_eq!(round_trip(nothing.to_header()).expect("facts"), nothing);
    }

    #[test]
    fn the_guidance_that_a_student_learnt_survives() {
        let mut metadata = Metadata::default();
        assert_eq!(metadata.guidance_learnt(), None);
        let guidance = Guidance::new(2.5, [0.0, 0.99]).unwrap();
        Metadata::note_guidance_learnt(&mut metadata.training, guidance);
        let read = round_trip(metadata.to_header()).expect("facts");
        assert_eq!(read.guidance_learnt(), Some(guidance));
        // Students of kiln before it knew intervals have the scale alone.
        metadata.training.remove(GUIDANCE_LEARNT_BETWEEN);
        let everywhere = Guidance::new(2.5, [0.0, 1.0]).unwrap();
        assert_eq!(metadata.guidance_learnt(), Some(everywhere));
    }

    #[test]
    fn all_names_are_marked_as_ours() {
        let metadata = Metadata {
            border: 1,
            class_names: vec!["one".to_owned()],
            vqvae_hash: Some("abc".to_owned()),
            sampling_steps: Some(1),
            sampling_count: Some(1),
            training: BTreeMap::from([("seed".to_owned(), "1".to_owned())]),
        };
        for name in metadata.to_header().keys() {
            assert!(name.starts_with("kiln."), "{name}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_names_it() {
        for (key, value) in [
            (BORDER, "-1"),
            (BORDER, "wide"),
            (CLASS_NAMES, "{"),
            (SAMPLING_STEPS, "0"),
            (SAMPLING_COUNT, "99999999999"),
            ("kiln.training.distilled_in_segments", "abc"),
            ("kiln.training.distilled_in_segments", "0"),
            ("kiln.training.guidance_learnt", "much"),
        ] {
            let header = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let message = round_trip(header).expect_err(value).to_string();
            assert!(
                message.contains(key) && message.contains("weights"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_border_leaves_something_of_the_image() {
        let check = |border, image| {
            let metadata = Metadata {
                border,
                ..Metadata::default()
            };
            let checked = metadata.check_border(image, "weights");
            checked.map_err(|error| error.to_string())
        };
        for (border, image) in [(0, [1, 1]), (7, [16, 16]), (2, [5, 9]), (15, [64, 32])] {
            assert_eq!(check(border, image), Ok(()));
        }
        for (border, image) in [
            (8, [16, 16]),
            (3, [5, 9]),
            (16, [64, 32]),
            (usize::MAX, [16, 16]),
        ] {
            let sentence = check(border, image).unwrap_err();
            assert!(sentence.contains("`kiln.border`"), "{sentence}");
        }
    }

    #[test]
    fn class_names_are_as_many_as_classes() {
        let metadata = Metadata {
            class_names: vec!["cat".to_owned(), "dog".to_owned()],
            ..Metadata::default()
        };
        for (rows, is_right) in [(1, false), (2, true), (3, true), (4, false)] {
            assert_eq!(metadata.check_classes(rows, "weights").is_ok(), is_right);
        }
        assert!(Metadata::default().check_classes(7, "weights").is_ok());
    }
}
