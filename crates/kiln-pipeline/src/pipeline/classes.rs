//! The classes of a model that was trained with labels.

use kiln_checkpoint::Metadata;
use kiln_models::UNet2dConfig;

use crate::{Error, suggestion};

/// Up to this number, an error about an unknown class lists all classes.
const LISTED: usize = 12;

/// The classes of a conditional model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    count: usize,
    names: Vec<String>,
    null_label: Option<usize>,
}

impl Classes {
    /// The classes of a U-Net; `None` if it is unconditional.
    ///
    /// Its table has a row for each class, and one more if it was also trained without labels: the null class, which
    /// guidance needs. The number of class names beside the weights tells whether there is one. A model without names
    /// counts as one without a null class.
    pub(super) fn of(config: &UNet2dConfig, metadata: &Metadata) -> Result<Option<Self>, Error> {
        let rows = match (config.class_embed_type, config.num_class_embeds) {
            (Some(_), _) => return Err(Error::ClassEmbedding),
            (None, None) => return Ok(None),
            (None, Some(rows)) => rows,
        };
        let named = metadata.class_names.len();
        let (count, null_label) = if named > 0 && named + 1 == rows {
            (named, Some(named))
        } else {
            (rows, None)
        };
        let names = if named == count {
            metadata.class_names.clone()
        } else {
            Vec::new()
        };
        Ok(Some(Self {
            count,
            names,
            null_label,
        }))
    }

    /// The number of classes, without the null class.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the model was also trained without labels, so that it can be guided.
    pub fn has_null_class(&self) -> bool {
        self.null_label.is_some()
    }

    /// The name of a class if it is known, otherwise its number.
    pub fn name(&self, class: usize) -> String {
        let name = self.names.get(class);
        name.cloned().unwrap_or_else(|| class.to_string())
    }

    /// The class with this name, or with this number from 0, written without a sign or leading zeros: `01` is not a class's
    /// number.
    ///
    /// # Errors
    /// [`Error::NoSuchClass`] if it is neither.
    pub fn find(&self, text: &str) -> Result<usize, Error> {
        let named = self.names.iter().position(|name| name == text);
        let numbered = || {
            let class: usize = text.parse().ok()?;
            (class < self.count && class.to_string() == text).then_some(class)
        };
        named.or_else(numbered).ok_or_else(|| Error::NoSuchClass {
            class: text.to_owned(),
            advice: self.advice(text),
        })
    }

    /// Advice about the unknown class `text`: the class that was probably meant, and all classes if they are few.
    fn advice(&self, text: &str) -> String {
        let last = self.count.saturating_sub(1);
        let are_numbers = (0..self.count).all(|class| self.name(class) == class.to_string());
        let known = if are_numbers {
            format!("give a number from 0 to {last}")
        } else if self.count <= LISTED {
            let names = self.names.join("`, `");
            format!("there are `{names}`, with numbers from 0 to {last}")
        } else {
            let first = self.name(0);
            format!("give a number from 0 (`{first}`) to {last}, or a class's name")
        };
        match suggestion(text, self.names.iter().map(String::as_str)) {
            Some(meant) if !are_numbers => format!("{known}; did you mean `{meant}`?"),
            _ => known,
        }
    }

    /// The network's label for a class, or for the null class if `class` is `None`.
    pub(super) fn label(&self, class: Option<usize>) -> Result<usize, Error> {
        match class {
            Some(class) if class < self.count => Ok(class),
            Some(class) => self.find(&class.to_string()),
            None => self.null_label.ok_or(Error::ClassNeeded),
        }
    }

    /// The label of the null class.
    pub(super) fn null_label(&self) -> Option<usize> {
        self.null_label
    }
}

#[cfg(test)]
mod tests {
    use kiln_models::ClassEmbeddingType;

    use super::*;

    fn classes(rows: usize, names: &[&str]) -> Classes {
        let config = UNet2dConfig {
            num_class_embeds: Some(rows),
            ..Default::default()
        };
        let metadata = Metadata {
            class_names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        };
        Classes::of(&config, &metadata).unwrap().unwrap()
    }

    #[test]
    fn one_more_row_than_names_is_the_null_class() {
        let with = classes(3, &["cat", "dog"]);
        assert_eq!((with.count(), with.null_label()), (2, Some(2)));
        assert_eq!(with.label(None).unwrap(), 2);
        for without in [
            classes(2, &["cat", "dog"]),
            classes(2, &[]),
            classes(2, &["a"; 7]),
        ] {
            assert_eq!((without.count(), without.has_null_class()), (2, false));
            assert!(matches!(without.label(None), Err(Error::ClassNeeded)));
        }
        // One row without a name is a class, not the null class of no classes.
        assert_eq!(classes(1, &[]).count(), 1);
    }

    #[test]
    fn classes_go_by_name_or_number() {
        let classes = classes(3, &["cat", "1"]);
        let found = ["cat", "0", "1"].map(|text| classes.find(text).unwrap());
        assert_eq!(found, [0, 0, 1]);
        assert_eq!(
            (classes.name(0), classes.name(9)),
            ("cat".into(), "9".into())
        );
        for refused in [
            "2", "dog", "", "-1", "-0", "+0", "00", "01", "+1", "0.0", " 0", "٠",
        ] {
            assert!(classes.find(refused).is_err(), "{refused}");
        }
        assert!(classes.label(Some(2)).is_err());
        // As a name it counts.
        assert_eq!(self::classes(3, &["02", "01"]).find("01").unwrap(), 1);
    }

    #[test]
    fn an_unknown_class_is_told_which_there_are() {
        let sentence = |classes: &Classes, text| classes.find(text).unwrap_err().to_string();
        let few = classes(2, &["rose", "lily"]);
        assert_eq!(
            sentence(&few, "Rosse"),
            "the model has no class `Rosse`; there are `rose`, `lily`, with numbers from 0 to 1; did you mean `rose`?"
        );
        assert_eq!(
            sentence(&few, "2"),
            "the model has no class `2`; there are `rose`, `lily`, with numbers from 0 to 1"
        );
        for numbered in [classes(2, &[]), classes(2, &["0", "1"])] {
            assert!(sentence(&numbered, "rose").ends_with("; give a number from 0 to 1"));
        }
        let names: Vec<String> = (0..20).map(|number| format!("flower {number}")).collect();
        let many = classes(20, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let told = sentence(&many, "flower 33");
        assert!(
            told.contains("did you mean `flower") && told.contains("(`flower 0`) to 19"),
            "{told}"
        );
    }

    #[test]
    fn labels_that_are_no_rows_of_a_table_are_refused() {
        for class_embed_type in [ClassEmbeddingType::Timestep, ClassEmbeddingType::Identity] {
            let config = UNet2dConfig {
                class_embed_type: Some(class_embed_type),
                ..Default::default()
            };
            let classes = Classes::of(&config, &Metadata::default());
            assert!(matches!(classes, Err(Error::ClassEmbedding)));
        }
        let unconditional = Classes::of(&UNet2dConfig::default(), &Metadata::default());
        assert_eq!(unconditional.unwrap(), None);
    }
}
