//! The keys in which the configs of runs differ.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// What a run's config says about itself and not about what it learns.
const OF_THE_FILE: &str = "overrides";

/// Keys with their value in each run; `None` where it is not set.
pub type Differences = BTreeMap<String, Vec<Option<String>>>;

/// The keys in which `configs` differ.
pub fn differences(configs: &[Table]) -> Differences {
    let mut keys = Differences::new();
    for (run, config) in configs.iter().enumerate() {
        let mut values = Vec::new();
        let mut config = config.clone();
        config.remove(OF_THE_FILE);
        flatten(None, &config, &mut values);
        for (key, value) in values {
            let of_key = keys.entry(key).or_insert_with(|| vec![None; configs.len()]);
            of_key[run] = Some(value);
        }
    }
    keys.retain(|_, values| values.iter().any(|value| value != &values[0]));
    keys
}

/// Adds the keys of a table, which is at `place`, and of its tables.
fn flatten(place: Option<&str>, table: &Table, values: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let key = match place {
            Some(place) => format!("{place}.{key}"),
            None => key.clone(),
        };
        match value {
            Value::Table(inner) => flatten(Some(&key), inner, values),
            Value::String(word) => values.push((key, word.clone())),
            value => values.push((key, value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_differ_are_there_with_what_is_not_set() {
        let configs = [
            "seed = 0\noverrides = [\"seed=0\"]\n[a]\nb = [1, 2]\nc = \"x\"\n[a.d]\ne = 0.5",
            "seed = 1\n[a]\nb = [1, 2]\nc = \"y\"",
        ];
        let configs = configs.map(|text| text.parse().unwrap());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            differences(&configs),
            Differences::from([
                ("a.c".to_owned(), vec![some("x"), some("y")]),
                ("a.d.e".to_owned(), vec![some("0.5"), None]),
                ("seed".to_owned(), vec![some("0"), some("1")]),
            ])
        );
        assert!(differences(&configs[..1]).is_empty());
    }
}
