//! Turns serde's errors about a config into a sentence with the key, its value, and a valid one.

use std::sync::LazyLock;

use kiln_diffusion::ScheduleKind;
use kiln_pipeline::suggestion;
use serde::de::Unexpected;
use serde_path_to_error::{Path, Segment};
use toml::de::{DeTable, Error};
use toml::{Table, Value};

/// Every key of an [`Experiment`](super::Experiment), with a valid value.
static OF_MODELS: LazyLock<Table> = LazyLock::new(|| {
    // A test checks that this is TOML. Without the examples, sentences are only shorter.
    let mut example: Table = toml::from_str(include_str!("example.toml")).unwrap_or_default();
    if let Some(Value::Table(schedule)) = example.get_mut("schedule") {
        for kind in ScheduleKind::ALL {
            let own = Table::try_from(kind).unwrap_or_default();
            for (key, value) in own {
                schedule.entry(key).or_insert(value);
            }
        }
    }
    example
});

/// The same for a [`ClassifierExperiment`](super::ClassifierExperiment).
static OF_THE_CLASSIFIER: LazyLock<Table> = LazyLock::new(|| {
    let own = "augmentation = { shift = 0.7, rotation = 5.0, scale = 0.05, colour = 0.1, cutout = 0.25 }\n\
        classifier = { block_out_channels = [32, 64, 128], layers_per_block = 1, norm_num_groups = 8 }";
    let mut example: Table = toml::from_str(own).unwrap_or_default();
    let shared = ["seed", "overrides", "data"].map(|key| (key, OF_MODELS.get(key)));
    let training = OF_MODELS
        .get("stage_2")
        .and_then(|stage| stage.get("training"));
    for (key, value) in shared.into_iter().chain([("training", training)]) {
        example.extend(value.map(|value| (key.to_owned(), value.clone())));
    }
    example
});

/// The kind of experiment that a config describes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Described {
    /// An [`Experiment`](super::Experiment).
    Models,
    /// A [`ClassifierExperiment`](super::ClassifierExperiment).
    Classifier,
}

impl Described {
    /// All its keys.
    fn example(self) -> &'static Table {
        match self {
            Self::Models => &OF_MODELS,
            Self::Classifier => &OF_THE_CLASSIFIER,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Models => Self::Classifier,
            Self::Classifier => Self::Models,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Models => "a VQ-VAE or diffusion model",
            Self::Classifier => "a classifier (`kiln train-classifier`)",
        }
    }
}

/// A sentence cuts longer values.
const SHOWN: usize = 60;

/// The keys whose value determines which other keys a table has.
const TAGS: [&str; 2] = ["kind", "method"];

/// A place in a config: the path of keys to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place(Vec<String>);

/// The error in the `table` of a config, and its place.
pub(super) fn explain(
    error: &serde_path_to_error::Error<Error>,
    table: &Table,
    described: Described,
) -> (Place, String) {
    let place = Place::of(error.path());
    let message = error.inner().message();
    let quoted = |start: &str| message.strip_prefix(start)?.split('`').next();
    if let Some(key) = quoted("unknown field `") {
        let known = &backquoted(message)[1..];
        let is_own = place.0.last().is_some_and(|last| last == key);
        let tag = place.tag_in(table).filter(|_| !is_own);
        let sentence = match (known, tag) {
            ([kind, known @ ..], _) if message.contains("` of the kind `") => {
                place.no_such_setting(("kind", kind), key, known)
            }
            (_, Some(tag)) => place.no_such_setting(tag, key, known),
            (_, None) => place.no_such_key(key, known, described),
        };
        (place.child(key), sentence)
    } else if let Some(value) = quoted("unknown variant `") {
        let known = &backquoted(message)[1..];
        let here = found(table, &place.0).and_then(Value::as_table);
        let is_meant = |tag: &&str| {
            let of_tag = here.and_then(|here| here.get(*tag));
            of_tag.is_some_and(|of_tag| unexpected(of_tag) == Unexpected::Str(value).to_string())
        };
        let place = match TAGS.into_iter().find(is_meant) {
            Some(tag) => place.child(tag),
            None => place,
        };
        let sentence = place.no_such_value(value, known);
        (place, sentence)
    } else if let Some(key) = quoted("missing field `") {
        let sentence = place.missing(key, described);
        (place.child(key), sentence)
    } else {
        let place = place.value_in(table).narrowed(message, table);
        let sentence = place.wrong_value(message, table, described);
        (place, sentence)
    }
}

/// The words between backquotes.
fn backquoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

impl Place {
    fn of(path: &Path) -> Self {
        let keys = path.iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            // A list is shown as a whole.
            Segment::Seq { .. } | Segment::Unknown => None,
        });
        Self(keys.collect())
    }

    /// The place of `table.key=value` from the command line.
    pub(super) fn of_override(text: &str) -> Self {
        let (path, _) = text.split_once('=').unwrap_or((text, ""));
        Self(path.trim().split('.').map(str::to_owned).collect())
    }

    /// The place of a path of keys.
    pub(super) fn of_keys(keys: &[&str]) -> Self {
        Self(keys.iter().map(|&key| key.to_owned()).collect())
    }

    /// Whether this place equals `other`, or is above or below it.
    pub(super) fn is_along(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }

    /// The line, counted from one, of the key in the text of a config, or of the innermost existing table above it.
    pub(super) fn line_in(&self, text: &str) -> Option<usize> {
        let parsed = DeTable::parse(text).ok()?;
        let mut table = parsed.get_ref();
        let mut start = None;
        for key in &self.0 {
            let Some((key, value)) = table.iter().find(|(name, _)| name.get_ref() == key) else {
                break;
            };
            start = Some(key.span().start);
            match value.get_ref().as_table() {
                Some(inner) => table = inner,
                None => break,
            }
        }
        let before = text.get(..start?)?;
        Some(before.matches('\n').count() + 1)
    }

    /// This place, or the place above it where `table` has a value instead of a table. For example, `noise_levels` may
    /// be a name where it should be a table, and then there is no variant below it.
    fn value_in(&self, table: &Table) -> Self {
        let mut inner = Some(table);
        let keys = self.0.iter().take_while(|key| {
            let value = inner.and_then(|table| table.get(*key));
            inner = value.and_then(Value::as_table);
            value.is_some()
        });
        Self(keys.cloned().collect())
    }

    fn child(&self, key: &str) -> Self {
        // An unknown key is the last of its own path, except in a table that serde had to read twice.
        match self.0.last() {
            Some(last) if last == key => self.clone(),
            _ => Self(self.0.iter().cloned().chain([key.to_owned()]).collect()),
        }
    }

    fn parent(&self) -> &[String] {
        &self.0[..self.0.len().saturating_sub(1)]
    }

    fn name(&self) -> String {
        self.0.join(".")
    }

    fn no_such_key(&self, key: &str, known: &[&str], described: Described) -> String {
        let place = self.child(key);
        let name = place.name();
        let table = place.parent().join(".");
        let beside = suggestion(key, known.iter().copied());
        if let Some(meant) = beside {
            let table = if table.is_empty() { table } else { table + "." };
            return format!("there is no key `{name}`; did you mean `{table}{meant}`?");
        }
        // The key exists in another table.
        let elsewhere = keys_named(key, described);
        if !elsewhere.is_empty() {
            return format!(
                "there is no key `{name}`; did you mean {}?",
                either(&elsewhere)
            );
        }
        // The key exists in another kind of experiment.
        let other = described.other();
        if found(other.example(), &place.0).is_some() {
            return format!(
                "`{name}` belongs in an experiment of {}, but this is one of {}, which has {}",
                other.in_words(),
                described.in_words(),
                known.join(", ")
            );
        }
        let holder = if table.is_empty() {
            "the config".to_owned()
        } else {
            format!("[{table}]")
        };
        match known {
            [] => format!("there is no key `{name}`; {holder} has none"),
            _ => format!(
                "there is no key `{name}`; {holder} has {}",
                known.join(", ")
            ),
        }
    }

    /// The key of the table at this place that determines its other keys, and its value.
    fn tag_in<'a>(&self, table: &'a Table) -> Option<(&'static str, &'a str)> {
        let here = found(table, &self.0)?.as_table()?;
        TAGS.iter()
            .find_map(|&tag| Some((tag, here.get(tag)?.as_str()?)))
    }

    fn no_such_setting(&self, (tag, kind): (&str, &str), key: &str, known: &[&str]) -> String {
        let table = self.name();
        match suggestion(key, known.iter().copied().chain([tag])) {
            Some(meant) => {
                format!("there is no key `{table}.{key}`; did you mean `{table}.{meant}`?")
            }
            None if known.is_empty() => {
                format!(
                    "`{key}` does nothing in [{table}] of the {tag} `{kind}`, which has no settings"
                )
            }
            None => format!(
                "`{key}` does nothing in [{table}] of the {tag} `{kind}`, which has {}: leave it out, or set the whole table, as in --set '{table}={{{tag}=\"{kind}\"}}'",
                known.join(", ")
            ),
        }
    }

    /// The place below this one whose value `message` quotes. serde loses the place in a table that it has to read
    /// twice.
    fn narrowed(self, message: &str, table: &Table) -> Self {
        fn collect(place: &Place, table: &Table, quoted: &str, places: &mut Vec<Place>) {
            for (key, value) in table {
                let place = place.child(key);
                if unexpected(value) == quoted {
                    places.push(place.clone());
                }
                if let Value::Table(inner) = value {
                    collect(&place, inner, quoted, places);
                }
            }
        }
        let quoted = (message.strip_prefix("invalid type: "))
            .or_else(|| message.strip_prefix("invalid value: "))
            .and_then(|rest| rest.split_once(", expected "));
        let here = found(table, &self.0).and_then(Value::as_table);
        let (Some((quoted, _)), Some(here)) = (quoted, here) else {
            return self;
        };
        let mut places = Vec::new();
        collect(&self, here, quoted, &mut places);
        match <[Self; 1]>::try_from(places) {
            Ok([place]) => place,
            Err(_) => self,
        }
    }

    fn no_such_value(&self, value: &str, known: &[&str]) -> String {
        let name = self.name();
        let list = known.join(", ");
        match suggestion(value, known.iter().copied()) {
            Some(meant) => format!(
                "`{value}` is not a value of `{name}`; did you mean `{meant}`? It can be {list}"
            ),
            None => format!("`{value}` is not a value of `{name}`, which can be {list}"),
        }
    }

    fn missing(&self, key: &str, described: Described) -> String {
        let place = Self(self.0.iter().cloned().chain([key.to_owned()]).collect());
        let name = place.name();
        match place.example(described) {
            Some(Value::Table(_)) => format!("the table [{name}] is missing"),
            Some(example) => format!(
                "`{name}` is missing; add it, as in `{name} = {}`",
                shown(example)
            ),
            None => format!("`{name}` is missing"),
        }
    }

    fn wrong_value(&self, message: &str, table: &Table, described: Described) -> String {
        let name = self.name();
        let example = self.example(described);
        let as_in = match example {
            Some(Value::Table(_)) if is_of_struct(message) => {
                format!("it must be a table, [{name}]")
            }
            Some(example) => format!("as in `{name} = {}`", shown(example)),
            None => String::new(),
        };
        let Some(found) = found(table, &self.0) else {
            return format!("`{name}`: {message}");
        };
        let problem = match message.split_once(", expected ") {
            Some((_, expected)) => expected_in_words(expected),
            None if message.contains("untagged enum") || message.contains("exactly 1 element") => {
                None
            }
            None => Some(message.to_owned()),
        };
        let advice = match problem {
            Some(problem) if as_in.is_empty() => problem,
            Some(problem) => format!("{problem}, {as_in}"),
            None if as_in.starts_with("as in") => format!("write it {as_in}"),
            None => as_in,
        };
        format!("`{name} = {}` cannot work: {advice}", shown(found))
    }

    /// A valid value for this place.
    fn example(&self, described: Described) -> Option<&'static Value> {
        found(described.example(), &self.0)
    }
}

/// serde's words for an unexpected value.
fn unexpected(value: &Value) -> String {
    let date = value.as_datetime().map(ToString::to_string);
    let unexpected = match value {
        Value::String(text) => Unexpected::Str(text),
        Value::Integer(number) => Unexpected::Signed(*number),
        Value::Float(number) => Unexpected::Float(*number),
        Value::Boolean(value) => Unexpected::Bool(*value),
        Value::Array(_) => Unexpected::Seq,
        Value::Datetime(_) => Unexpected::Str(date.as_deref().unwrap_or_default()),
        Value::Table(_) => Unexpected::Map,
    };
    unexpected.to_string()
}

/// The value at a place, or the innermost one above it that is not a table.
fn found<'a>(table: &'a Table, keys: &[String]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    match table.get(first)? {
        Value::Table(inner) if !rest.is_empty() => found(inner, rest),
        value => Some(value),
    }
}

/// The full names of all keys called `key`.
fn keys_named(key: &str, described: Described) -> Vec<String> {
    fn collect(table: &Table, above: &str, key: &str, names: &mut Vec<String>) {
        for (name, value) in table {
            let full = format!("{above}{name}");
            if name == key {
                names.push(full.clone());
            }
            if let Value::Table(inner) = value {
                collect(inner, &format!("{full}."), key, names);
            }
        }
    }
    let mut names = Vec::new();
    collect(described.example(), "", key, &mut names);
    names
}

/// "`a`, `b` or `c`".
fn either(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// A value in TOML's notation, on one line.
fn shown(value: &Value) -> String {
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

/// Whether a plain table was expected, as opposed to a variant. There are many such tables.
fn is_of_struct(message: &str) -> bool {
    message.contains("expected struct ") && !message.contains("struct variant")
}

/// The expectations of serde's visitors, in plain words.
fn expected_in_words(expected: &str) -> Option<String> {
    Some(match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "it must be a whole number, 0 or more".to_owned(),
        "f64" | "f32" => "it must be a number".to_owned(),
        "a boolean" => "it must be true or false".to_owned(),
        "a string" | "path string" | "string only" => "it must be text in quotes".to_owned(),
        "a sequence" => "it must be a list in brackets".to_owned(),
        // The example says it better: a table or a name.
        "string or map" | "map with a single key" => return None,
        _ if expected.contains("struct")
            || expected.contains("variant")
            || expected.contains("enum") =>
        {
            return None;
        }
        other => format!("it must be {other}"),
    })
}
