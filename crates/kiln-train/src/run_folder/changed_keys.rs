//! The keys of an experiment that have changed since its run began, and those that may change.

use std::fmt;

use toml::{Table, Value};

use crate::error::TrainError;

/// The tables of an experiment that belong only to stage 1.
pub(crate) const ONLY_OF_STAGE_1: &[&str] = &["vqvae", "autoencoder_kl", "codebook", "stage_1"];
/// The tables that belong only to stage 2.
pub(crate) const ONLY_OF_STAGE_2: &[&str] = &["unet", "schedule", "stage_2", "sampling"];

/// The tables of an experiment that determine what stage 1 learns.
pub(crate) const OF_STAGE_1: &[&str] = &[
    "seed",
    "data",
    "vqvae",
    "autoencoder_kl",
    "codebook",
    "stage_1",
];
/// The tables of stage 2. Its VQ-VAE is identified by its hash.
pub(crate) const OF_STAGE_2: &[&str] = &["seed", "data", "unet", "schedule", "stage_2"];
/// The tables of a classifier.
pub(crate) const OF_THE_CLASSIFIER: &[&str] =
    &["seed", "data", "classifier", "augmentation", "training"];

/// Keys that may change when a run is resumed. They determine the place of the data, the length of a training, and what
/// is kept, measured and drawn. A fingerprint identifies the data itself. All other keys determine what is learnt.
///
/// `training` stands for the table of any stage. docs/diffusion.md lists the keys.
const FREE: [&str; 14] = [
    "overrides",
    "data.dataset",
    "data.path",
    "data.max_undecodable",
    "data.stream",
    "data.cache",
    "training.steps",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.pictures_every",
    "training.validation_images",
    "stage_1.perceptual.weights",
    "stage_2.evaluation",
    "sampling",
];

/// Keys that may change together with the number of devices, as long as a step sees the same number of images.
const STEP_SIZE: [&str; 2] = ["training.batch_size", "training.accumulate"];

/// Refuses the experiment `now` if it differs from `before` in a key of `tables` that determines what is learnt. Both
/// are TOML.
///
/// # Errors
/// Names the keys, both values, and what to do.
pub(crate) fn require_same_keys(
    tables: &[&str],
    before: &str,
    now: &str,
) -> Result<(), TrainError> {
    let all = differences(tables, before, now)?;
    let fixed: Vec<&Difference> = all
        .iter()
        .filter(|difference| !difference.is_step_size())
        .collect();
    let Some(first) = fixed.first() else {
        return Ok(());
    };
    let words: Vec<String> = fixed.iter().map(ToString::to_string).collect();
    Err(TrainError::Run(format!(
        "{} when this run began: a run goes on as it began, so {}",
        words.join("; "),
        first.remedy()
    )))
}

/// Refuses a second stage whose images have another size or other channels than those of the run's own first stage. Both
/// experiments are TOML.
///
/// # Errors
/// Names the key, both values, and what to do.
pub(crate) fn require_same_images(before: &str, now: &str) -> Result<(), TrainError> {
    let found = differences(&["data"], before, now)?;
    let is_of_images = |found: &&Difference| ["data.size", "data.channels"].contains(&&*found.key);
    match found.iter().find(is_of_images) {
        None => Ok(()),
        Some(found) => Err(TrainError::Run(format!(
            "{found} when this run's first stage was trained: {}, or name a first stage with --vqvae",
            found.remedy()
        ))),
    }
}

/// A key with a changed value.
#[derive(Debug, PartialEq)]
pub(crate) struct Difference {
    key: String,
    before: Option<Value>,
    now: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (&self.now, &self.before) {
            (Some(now), Some(before)) => write!(formatter, "`{key}` is {now}, and was {before}"),
            (Some(now), None) => write!(formatter, "`{key}` is {now}, and was not set"),
            (None, Some(before)) => write!(formatter, "`{key}` is not set, and was {before}"),
            (None, None) => Ok(()),
        }
    }
}

impl Difference {
    pub(crate) fn is_step_size(&self) -> bool {
        STEP_SIZE.iter().any(|known| names(known, &self.key))
    }

    pub(crate) fn remedy(&self) -> String {
        let key = &self.key;
        let back = match &self.before {
            None => "leave it out".to_owned(),
            Some(Value::String(word)) => format!("set it back by --set {key}={word}"),
            Some(Value::Table(_) | Value::Array(_)) => "set it back".to_owned(),
            Some(value) => format!("set it back by --set {key}={value}"),
        };
        format!("{back}, or choose another --out")
    }
}

/// Whether `key` is `known`, in the table of any stage, or a part of it.
fn names(known: &str, key: &str) -> bool {
    let parts = |key: &str| key.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (known, key) = (parts(known), parts(key));
    key.starts_with(&known) || key.get(1..).is_some_and(|rest| rest.starts_with(&known))
}

/// The keys of `tables` that are not free and differ between `before` and `now`. Both experiments are TOML.
pub(crate) fn differences(
    tables: &[&str],
    before: &str,
    now: &str,
) -> Result<Vec<Difference>, TrainError> {
    let (mut before, mut now) = (read(before)?, read(now)?);
    let mut found = Vec::new();
    for &table in tables {
        compare(table, before.remove(table), now.remove(table), &mut found);
    }
    let is_free = |key: &str| FREE.iter().any(|known| names(known, key));
    found.retain(|difference| !is_free(&difference.key));
    Ok(found)
}

/// The experiment `now`, but with the `tables` of `before` and their overrides. All are TOML.
///
/// # Errors
/// If one of them is not TOML.
pub(crate) fn with_tables_of(
    before: &str,
    now: &str,
    tables: &[&str],
) -> Result<String, TrainError> {
    let (mut before, mut now) = (read(before)?, read(now)?);
    let mut overrides = overrides_in(&before);
    overrides.retain(|text| is_of(text, tables));
    let own = overrides_in(&now);
    overrides.extend(own.into_iter().filter(|text| !is_of(text, tables)));
    now.insert("overrides".to_owned(), Value::from(overrides));
    for &table in tables {
        now.remove(table);
        now.extend(before.remove_entry(table));
    }
    Ok(now.to_string())
}

/// Prints which overrides of `now` are ignored because the experiment stays as in `stay`, and `why`. Both experiments
/// are TOML.
///
/// # Errors
/// If one of them is not TOML.
pub(crate) fn say_what_stays(why: &str, stay: &str, now: &str) -> Result<(), TrainError> {
    let (mut stay, now) = (read(stay)?, read(now)?);
    let set = overrides_in(&now);
    let mut found = Vec::new();
    for (table, now) in now {
        compare(&table, stay.remove(&table), Some(now), &mut found);
    }
    let was_set = |difference: &&Difference| {
        (set.iter()).any(|text| is_along(text, &difference.key)) && difference.key != "data.path"
    };
    let stays: Vec<String> = (found.iter().filter(was_set))
        .map(|Difference { key, before, now }| {
            let word = |value: &Option<Value>| {
                (value.as_ref()).map_or_else(|| "unset".to_owned(), Value::to_string)
            };
            format!("`{key}` stays {}, not {}", word(before), word(now))
        })
        .collect();
    if !stays.is_empty() {
        tracing::warn!("{why}: {}", stays.join("; "));
    }
    Ok(())
}

/// An experiment as a table.
fn read(text: &str) -> Result<Table, TrainError> {
    toml::from_str::<Table>(text)
        .map_err(|error| TrainError::Run(format!("the run's experiment is damaged: {error}")))
}

/// The overrides of an experiment's keys, as `table.key=value`.
fn overrides_in(experiment: &Table) -> Vec<String> {
    let overrides = experiment.get("overrides").and_then(Value::as_array);
    let texts = overrides.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Whether `table.key=value` sets a key of one of the `tables`.
fn is_of(text: &str, tables: &[&str]) -> bool {
    tables.iter().any(|table| is_along(text, table))
}

/// Whether `table.key=value` sets `key`, or a key above or below it.
fn is_along(text: &str, key: &str) -> bool {
    let set = text.split('=').next().unwrap_or_default().trim();
    set.split('.')
        .zip(key.split('.'))
        .all(|(one, other)| one == other)
}

fn compare(key: &str, before: Option<Value>, now: Option<Value>, found: &mut Vec<Difference>) {
    if before == now {
        return;
    }
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(mut now)))
            if !are_variants(&before, &now) =>
        {
            let mut only_now = now.clone();
            for (name, before) in before {
                only_now.remove(&name);
                compare(
                    &format!("{key}.{name}"),
                    Some(before),
                    now.remove(&name),
                    found,
                );
            }
            for (name, now) in only_now {
                compare(&format!("{key}.{name}"), None, Some(now), found);
            }
        }
        (before, now) => found.push(Difference {
            key: key.to_owned(),
            before,
            now,
        }),
    }
}

/// Whether two tables are different choices of one key, such as `{ min-snr = { .. } }` and `{ edm = { .. } }`.
fn are_variants(before: &Table, now: &Table) -> bool {
    before.len() == 1 && now.len() == 1 && before.keys().ne(now.keys())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{ClassifierExperiment, Experiment};

    /// Both stages, with the keys that are absent by default.
    fn experiment() -> String {
        let text = include_str!("../../../../configs/mnist.toml");
        let overrides = [
            "data.path=x",
            "stage_1.training.ema.decay=0.9",
            "unet.num_class_embeds=11",
            "schedule.kind=linear",
            "schedule.beta_start=1e-4",
            "schedule.continuous=true",
            "stage_2.loss_on=noise",
            "stage_2.loss_weight.min-snr.gamma=5.0",
            "stage_2.label_dropout=0.1",
            "stage_2.training.ema.decay=0.9",
            "stage_2.evaluation.feature_weights=x",
            "sampling.clip=1.0",
        ];
        let experiment = Experiment::parse(text, "mnist", &overrides.map(str::to_owned));
        experiment.unwrap().to_toml().unwrap()
    }

    /// One with the other kind of first stage.
    fn with_kl() -> String {
        let text = include_str!("../../../../configs/flowers.toml");
        let overrides = ["autoencoder_kl.shift_factor=0.1".to_owned()];
        let experiment = Experiment::parse(text, "flowers", &overrides);
        experiment.unwrap().to_toml().unwrap()
    }

    fn classifier() -> String {
        let text = include_str!("../../../../configs/mnist-classifier.toml");
        let overrides = [
            "training.ema.decay=0.9",
            "data.path=\"x\"",
            "classifier.layers_per_block=2",
        ];
        let overrides = overrides.map(str::to_owned);
        let experiment = ClassifierExperiment::parse(text, "mnist-classifier", &overrides);
        experiment.unwrap().to_toml().unwrap()
    }

    /// The dotted keys of all values, including the ones in nested tables.
    fn keys(table: &Table, prefix: &str, found: &mut Vec<String>) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(table) => keys(table, &format!("{key}."), found),
                _ => found.push(key),
            }
        }
    }

    /// `text` with another value under `key`.
    fn changed(text: &str, key: &str) -> String {
        let mut root: Value = toml::from_str(text).unwrap();
        let mut value = &mut root;
        for part in key.split('.') {
            value = value.get_mut(part).unwrap();
        }
        *value = match value {
            Value::Integer(number) => Value::Integer(*number + 1),
            Value::Float(number) => Value::Float(*number + 0.5),
            Value::Boolean(yes) => Value::Boolean(!*yes),
            Value::Array(_) => Value::Array(Vec::new()),
            _ => Value::String("changed".to_owned()),
        };
        toml::to_string(&root).unwrap()
    }

    #[test]
    fn every_key_is_compared_by_a_stage_or_in_the_list_of_free_ones() {
        for (text, stages) in [
            (experiment(), &[OF_STAGE_1, OF_STAGE_2][..]),
            (with_kl(), &[OF_STAGE_1, OF_STAGE_2]),
            (classifier(), &[OF_THE_CLASSIFIER]),
        ] {
            let mut all = Vec::new();
            keys(&toml::from_str(&text).unwrap(), "", &mut all);
            assert!(all.len() > 20, "{all:?}");
            for key in all {
                let changed = changed(&text, &key);
                let refusals: Vec<String> = stages
                    .iter()
                    .flat_map(|tables| differences(tables, &text, &changed).unwrap())
                    .map(|difference| difference.key)
                    .collect();
                let is_free = FREE.iter().any(|free| names(free, &key));
                assert_eq!(refusals.is_empty(), is_free, "{key}: {refusals:?}");
                assert!(
                    refusals.iter().all(|refused| *refused == key),
                    "{key}: {refusals:?}"
                );
            }
        }
    }

    #[test]
    fn the_documentation_lists_the_free_keys() {
        let documentation = include_str!("../../../../docs/diffusion.md");
        let (_, section) = documentation.split_once("## Going on").unwrap();
        let section = section.split("\n## ").next().unwrap();
        for key in FREE
            .iter()
            .chain(&STEP_SIZE)
            .filter(|&&key| key != "overrides")
        {
            let word = key.strip_prefix("training.").unwrap_or(key);
            assert!(section.contains(&format!("`{word}`")), "{key}");
        }
    }

    fn refusal(before: &str, now: &str) -> String {
        let error = require_same_keys(OF_STAGE_2, before, now).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_refusal_names_the_key_both_values_and_the_way_back() {
        let before = "seed = 1\n[stage_2]\nprediction = 'noise'\nloss_weight = 'none'\n";
        for (now, words) in [
            (
                before.replace("noise", "velocity"),
                "--set stage_2.prediction=noise",
            ),
            (
                before.replace("seed = 1", "seed = 2"),
                "`seed` is 2, and was 1",
            ),
            (
                before.replace("'none'", "{ edm = { sigma_data = 0.5 } }"),
                "`stage_2.loss_weight` is { edm = { sigma_data = 0.5 } }, and was \"none\"",
            ),
            (
                before.to_owned() + "[stage_2.training]\nema = { decay = 0.9 }",
                "`stage_2.training` is",
            ),
        ] {
            let sentence = refusal(before, &now);
            assert!(sentence.contains(words), "{sentence}");
        }
        let ema = "[stage_2.training]\nsteps = 1\nema = { decay = 0.9 }";
        let none = "[stage_2.training]\nsteps = 1";
        let sentence = refusal(none, ema);
        assert!(sentence.contains("`stage_2.training.ema`") && sentence.contains("leave it out"));
        let sentence = refusal(ema, none);
        assert!(
            sentence.contains("`stage_2.training.ema` is not set"),
            "{sentence}"
        );
    }

    #[test]
    fn another_choice_of_a_key_is_one_difference() {
        let before = "[stage_2]\nloss_weight = { min-snr = { gamma = 5.0 } }";
        let now = "[stage_2]\nloss_weight = { edm = { sigma_data = 0.5 } }";
        let found = differences(OF_STAGE_2, before, now).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key, "stage_2.loss_weight");
        let other = "[stage_2]\nloss_weight = { min-snr = { gamma = 4.0 } }";
        let found = differences(OF_STAGE_2, before, other).unwrap();
        assert_eq!(found[0].key, "stage_2.loss_weight.min-snr.gamma");
    }
}
