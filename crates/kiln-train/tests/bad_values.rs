//! For any error in a config's key, one sentence names the key and shows a valid value.

use std::collections::{BTreeMap, BTreeSet};

use kiln_diffusion::ScheduleKind;
use kiln_train::{ClassifierExperiment, Experiment};
use toml::{Table, Value};

/// Every key, with a valid value.
const EXAMPLE: &str = include_str!("../src/experiment/example.toml");
const CONFIG: &str = include_str!("../../../configs/mnist-quick.toml");

/// Tables whose keys depend on their kind.
const OF_KINDS: [&str; 6] = [
    "schedule",
    "vqvae.quantizer",
    "stage_2.loss_weight",
    "stage_2.noise_levels",
    "stage_2.distillation",
    "sampling.sampler",
];

/// With the other kind of first stage.
const CONFIG_KL: &str = include_str!("../../../configs/flowers.toml");

fn refusal(overrides: &[&str]) -> Option<String> {
    refusal_in(CONFIG, overrides)
}

fn refusal_in(config: &str, overrides: &[&str]) -> Option<String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let refused = Experiment::parse(config, "my.toml", &overrides).err()?;
    Some(refused.to_string())
}

/// The names of all keys with a value, and of all tables.
fn names(table: &Table, above: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut tables) = (Vec::new(), vec![above.trim_end_matches('.').to_owned()]);
    for (key, value) in table {
        let name = format!("{above}{key}");
        match value {
            Value::Table(inner) if !OF_KINDS.contains(&name.as_str()) => {
                let (inner_keys, inner_tables) = names(inner, &format!("{name}."));
                keys.extend(inner_keys);
                tables.extend(inner_tables);
            }
            _ => keys.push(name),
        }
    }
    (keys, tables)
}

fn example() -> Table {
    toml::from_str(EXAMPLE).unwrap()
}

#[test]
fn the_example_has_a_valid_value_for_every_key_there_is() {
    for other in [&["autoencoder_kl"][..], &["vqvae", "codebook"]] {
        let mut of_one_kind = example();
        of_one_kind.retain(|table, _| !other.contains(&table));
        of_one_kind
            .try_into::<Experiment>()
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let (keys, tables) = names(&example(), "");
    for table in tables {
        let mut with_another = example();
        let mut place = &mut with_another;
        for key in table.split('.').filter(|key| !key.is_empty()) {
            place = place[key].as_table_mut().unwrap();
        }
        let there: BTreeSet<String> = place.keys().cloned().collect();
        place.insert("no_such_key".to_owned(), Value::Integer(1));
        let refused = with_another.try_into::<Experiment>().unwrap_err();
        // "unknown field `no_such_key`, expected one of `a`, `b`"
        let known = refused
            .message()
            .split('`')
            .skip(3)
            .step_by(2)
            .map(str::to_owned);
        assert_eq!(
            known.collect::<BTreeSet<_>>(),
            there,
            "src/experiment/example.toml lacks a key of [{table}]"
        );
    }
    assert!(keys.len() > 100);
}

/// Values of every type, most of them wrong for most keys.
const VALUES: [&str; 11] = [
    "-1",
    "0",
    "1.5",
    "-0.5",
    "nan",
    "true",
    "nonsense",
    "[]",
    "[-1,2]",
    "{}",
    "1979-05-27",
];

#[test]
fn every_key_with_every_kind_of_bad_value_is_named_in_a_plain_sentence() {
    // Optional tables, with the keys that they need.
    let tables = [
        "stage_2.evaluation={features=\"digits\"}",
        "stage_1.adversarial={weight=0.5,discriminator={layers=1}}",
        "stage_1.perceptual={weight=1.0,network=\"lpips-vgg16\"}",
    ];
    assert_eq!(refusal(&tables), None);
    let (mut keys, _) = names(&example(), "");
    let of_its_kind: BTreeMap<String, String> = (ScheduleKind::ALL.into_iter())
        .flat_map(|kind| {
            let own = Table::try_from(&kind).unwrap().into_iter();
            let keys = own.map(|(key, _)| format!("schedule.{key}"));
            let set = format!("schedule.kind={}", kind.name());
            keys.map(move |key| (key, set.clone())).collect::<Vec<_>>()
        })
        .collect();
    let distillation = |method: &str, keys: &[&str]| -> Vec<(String, String)> {
        let set = format!("stage_2.distillation={{method=\"{method}\"}}");
        let named = keys.iter().map(|key| format!("stage_2.distillation.{key}"));
        named.map(|key| (key, set.clone())).collect()
    };
    let guidance = ["guidance", "guidance_interval", "teacher_steps", "segments"];
    let steps = ["first_steps", "last_steps", "halve_every"];
    let of_its_kind: BTreeMap<String, String> = (of_its_kind.into_iter())
        .chain(distillation("consistency-distillation", &guidance))
        .chain(distillation("progressive", &steps))
        .collect();
    keys.retain(|key| key != "schedule");
    let common = ["num_train_timesteps", "continuous", "zero_terminal_snr"];
    keys.extend(common.map(|key| format!("schedule.{key}")));
    keys.extend(of_its_kind.keys().cloned());
    for key in keys {
        let mut refused = 0;
        let config = match key.starts_with("autoencoder_kl.") || key == "stage_1.kl" {
            true => CONFIG_KL,
            false => CONFIG,
        };
        for value in VALUES {
            let set = format!("{key}={value}");
            let kind = of_its_kind.get(&key).map(String::as_str);
            let tables = tables.into_iter().chain(kind).chain([set.as_str()]);
            let Some(sentence) = refusal_in(config, &tables.collect::<Vec<_>>()) else {
                continue;
            };
            println!("{set:45} {sentence}");
            refused += 1;
            let last = key.rsplit('.').next().unwrap();
            let spelt = sentence.to_lowercase().replace('-', "_");
            assert!(spelt.contains(last), "{set}: {sentence}");
            for word in [
                "usize", "u64", "f64", "struct", "untagged", "variant", "invalid", "map", "\n",
                "sequence",
            ] {
                let words = || sentence.split(|letter: char| !letter.is_alphanumeric());
                let is_there =
                    words().any(|found| found == word) || word == "\n" && sentence.contains(word);
                assert!(!is_there, "{set}: {word} in: {sentence}");
            }
        }
        assert!(refused > 2, "{key} takes nearly anything");
    }
}

#[test]
fn sentences_show_what_would_do() {
    for (set, words) in [
        (
            "stage_2.training.steps=-5",
            "--set: `stage_2.training.steps = -5` cannot work: it must be a whole number, 0 or more, as in `stage_2.training.steps = 1600`",
        ),
        (
            "stage_2.training.steps=many",
            "`stage_2.training.steps = \"many\"` cannot work: it must be a whole number",
        ),
        (
            "data.horizontal_flip=1",
            "true or false, as in `data.horizontal_flip = false`",
        ),
        (
            "data.path=2024",
            "text in quotes, as in `data.path = \"photos\"`",
        ),
        (
            "unet.block_out_channels=64",
            "a list in brackets, as in `unet.block_out_channels = [48, 96]`",
        ),
        (
            "unet.block_out_channels=[64,-1]",
            "`unet.block_out_channels = [64, -1]` cannot work",
        ),
        ("unet=3", "it must be a table, [unet]"),
        (
            "stage_2.noise_levels=logit-normal",
            "as in `stage_2.noise_levels = { logit-normal = {",
        ),
        (
            "sampling.sampler=ddmi",
            "there is no sampler `ddmi`; did you mean `ddim`?",
        ),
        ("sampling.sampler={kind=\"ddmi\"}", "did you mean `ddim`?"),
        (
            "sampling.sampler={kind=\"ddim\",etta=1}",
            "no key `sampling.sampler.etta`; did you mean `sampling.sampler.eta`?",
        ),
        (
            "sampling.sampler=3",
            "as in `sampling.sampler = { eta = 0.0, kind = \"ddim\" }`",
        ),
        // Keys.
        (
            "stage_2.training.stepz=5",
            "there is no key `stage_2.training.stepz`; did you mean `stage_2.training.steps`?",
        ),
        (
            "stage_2.training.batchsize=5",
            "did you mean `stage_2.training.batch_size`?",
        ),
        (
            "stage_3.training.steps=5",
            "there is no key `stage_3`; did you mean `stage_2`?",
        ),
        (
            "steps=5",
            "did you mean `sampling.steps`, `stage_1.training.steps` or `stage_2.training.steps`?",
        ),
        (
            "unet.colour=5",
            "there is no key `unet.colour`; [unet] has sample_size, in_channels",
        ),
        ("sead=5", "did you mean `seed`?"),
        // Values.
        (
            "schedule.kind=linaer",
            "`linaer` is not a value of `schedule.kind`; did you mean `linear`? It can be linear, scaled-linear",
        ),
        ("data.dataset=mnst", "did you mean `mnist`?"),
        ("stage_2.prediction=epsilom", "did you mean `epsilon`?"),
        (
            "stage_2.loss=quartic",
            "`quartic` is not a value of `stage_2.loss`, which can be mse, l1, mae",
        ),
        (
            "unet.down_block_types=[\"DownBlock2\",\"DownBlock2D\"]",
            "did you mean `DownBlock2D`?",
        ),
        ("stage_2.training.learning_rate=-1", "such as 1e-3"),
        // The override itself.
        (
            "data.size.x=1",
            "`size` is not a table here, so it has no keys of its own: set all of it, as in --set 'data.size={x=1}'",
        ),
        ("shedule.kind=cosine", "did you mean `schedule`?"),
        ("schedule.knd=linear", "did you mean `schedule.kind`?"),
        ("=1", "the key is empty"),
        ("seed", "write it as table.key=value"),
    ] {
        let sentence = refusal(&[set]).unwrap_or_else(|| panic!("{set} is accepted"));
        assert!(sentence.contains(words), "{set}: {sentence}");
    }
}

#[test]
fn a_sampler_may_be_named_alone() {
    let overrides = ["sampling.sampler=heun".to_owned()];
    let experiment = Experiment::parse(CONFIG, "my.toml", &overrides).unwrap();
    assert_eq!(experiment.sampling.sampler.name(), "heun");
    let again = Experiment::parse(&experiment.to_toml().unwrap(), "again", &[]).unwrap();
    assert_eq!(again.sampling.sampler, experiment.sampling.sampler);
}

#[test]
fn the_line_is_that_of_the_key_within_a_table_of_a_kind() {
    let line = |text: &str, start: &str| {
        1 + text
            .lines()
            .position(|line| line.starts_with(start))
            .unwrap()
    };
    for (wrong, start) in [
        ("kind = \"cosin\"", "kind"),
        ("kind = \"cosine\"\ntau = 1.0", "tau"),
        ("kind = \"sigmoid\"\ntau = \"much\"", "tau"),
        ("kind = \"cosine\"\nknd = 1", "knd"),
    ] {
        let text = CONFIG.replace("kind = \"cosine\"", wrong);
        let refused = Experiment::parse(&text, "my.toml", &[]).unwrap_err();
        let expected = format!("my.toml, line {}: ", line(&text, start));
        assert!(refused.to_string().starts_with(&expected), "{refused}");
    }
}

#[test]
fn what_is_missing_is_not_blamed_on_another_override() {
    let overrides = ["data.path=x".to_owned()];
    let refused = Experiment::parse(
        "[data]\ndataset = \"folder\"\nsize = 8\nchannels = 1",
        "my.toml",
        &overrides,
    );
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.starts_with("my.toml: the table ["), "{sentence}");
}

#[test]
fn the_line_of_a_file_is_named_whatever_is_overridden() {
    let text = CONFIG.replace("warmup_steps = 200", "warmup_stepz = 200");
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("warmup_stepz"))
        .unwrap();
    for overrides in [&[][..], &["seed=3".to_owned()]] {
        let refused = Experiment::parse(&text, "my.toml", overrides).unwrap_err();
        let expected = format!(
            "my.toml, line {line}: there is no key `stage_2.training.warmup_stepz`; did you"
        );
        assert!(refused.to_string().starts_with(&expected), "{refused}");
    }
    let missing = CONFIG.replace("batch_size = 64", "");
    let refused = Experiment::parse(&missing, "my.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("`stage_1.training.batch_size` is missing; add it, as in `stage_1.training.batch_size = 64`"), "{refused}");
    let refused = Experiment::parse("seed = 0", "my.toml", &[])
        .unwrap_err()
        .to_string();
    assert_eq!(refused, "my.toml: the table [data] is missing");
    let refused = Experiment::parse("seed = ", "my.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("my.toml, line 1: "), "{refused}");
}

#[test]
fn the_classifiers_config_is_explained_alike() {
    let text = include_str!("../../../configs/mnist-classifier.toml");
    for (set, words) in [
        ("training.stepz=1", "did you mean `training.steps`?"),
        ("training.steps=-1", "as in `training.steps = 1600`"),
        (
            "augmentation.shift=far",
            "`augmentation.shift = \"far\"` cannot work: it must be a number",
        ),
    ] {
        let refused = ClassifierExperiment::parse(text, "my.toml", &[set.to_owned()]).unwrap_err();
        assert!(refused.to_string().contains(words), "{set}: {refused}");
    }
}
