//! Lists of classes: names separated by commas. A name may contain commas itself.

use anyhow::bail;
use kiln::{Classes, Error};

use crate::terminal::note;

/// The word for every class.
const ALL: &str = "all";

/// The classes in `texts`, each of which lists names or numbers separated by commas. `all` is all classes.
///
/// A name may contain commas: if a list can be read in several ways, the longest name counts, with a note on stderr.
///
/// # Errors
/// [`Error::NoSuchClass`] for a text that is not a class, and a sentence for `all` beside other classes.
pub fn classes_in(texts: &[String], classes: &Classes) -> anyhow::Result<Vec<usize>> {
    // A name or number, with or without the spaces around it.
    let find = |text: &str| {
        let class = classes.find(text);
        class.or_else(|_| classes.find(text.trim()))
    };
    if let [all] = texts
        && all.trim() == ALL
        && find(all).is_err()
    {
        return Ok((0..classes.count()).collect());
    }
    let names = (0..classes.count()).map(|class| classes.name(class));
    // Do not search a list of many parts for names longer than the longest class name.
    let commas = names.map(|name| name.matches(',').count()).max();
    let mut found = Vec::new();
    for text in texts {
        let parts: Vec<&str> = text.split(',').collect();
        let reading = match read(&parts, commas.unwrap_or(0) + 1, |text| find(text).ok()) {
            Ok(reading) => reading,
            Err(part) if part.trim() == ALL => bail!(
                "--class {ALL} means every class, so it goes alone: leave out {ALL} or the other classes"
            ),
            Err(part) => return Err(find(part).err().unwrap_or(Error::NoClasses).into()),
        };
        if !reading.is_the_only_one {
            let names = reading.classes.iter().map(|&class| classes.name(class));
            note(&format!(
                "note: --class {text} has several meanings, because names of classes contain commas; it is taken as `{}` (give \
                 each class its own --class to mean another)",
                names.collect::<Vec<_>>().join("`, `")
            ));
        }
        found.extend(reading.classes);
    }
    Ok(found)
}

/// What a list means.
#[derive(Debug, PartialEq)]
struct Reading {
    classes: Vec<usize>,
    /// Whether it can mean nothing else.
    is_the_only_one: bool,
}

/// Joins the parts of a list to names of at most `longest` parts: the longest possible one at each place. If there is no
/// way to do so, returns a part that is not a class.
fn read<'a>(
    parts: &[&'a str],
    longest: usize,
    find: impl Fn(&str) -> Option<usize>,
) -> Result<Reading, &'a str> {
    // For each place the classes that begin there, with their numbers of parts, the longest first.
    let begin_at = |place: usize| -> Vec<(usize, usize)> {
        let lengths = (1..=longest.min(parts.len() - place)).rev();
        let class = |length| Some((find(&parts[place..place + length].join(","))?, length));
        lengths.filter_map(class).collect()
    };
    let begin: Vec<_> = (0..parts.len()).map(begin_at).collect();
    // In how many ways the list can be read from each place on.
    let mut ways = vec![0_usize; parts.len() + 1];
    ways[parts.len()] = 1;
    for (place, names) in begin.iter().enumerate().rev() {
        let each = names.iter().map(|(_, length)| ways[place + length]);
        ways[place] = each.fold(0, usize::saturating_add);
    }
    let mut classes = Vec::new();
    let mut place = 0;
    while place < parts.len() {
        let leads_to_the_end = |&&(_, length): &&(usize, usize)| ways[place + length] > 0;
        let names = &begin[place];
        let name = names.iter().find(leads_to_the_end).or(names.first());
        let &(class, length) = name.ok_or(parts[place])?;
        classes.push(class);
        place += length;
    }
    Ok(Reading {
        classes,
        is_the_only_one: ways[0] == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that a list is read as, and whether it has only this meaning; or the part that is no class.
    fn names_in<'a>(list: &'a str, names: &[&'a str]) -> Result<(Vec<&'a str>, bool), &'a str> {
        let parts: Vec<&str> = list.split(',').collect();
        let find = |text: &str| names.iter().position(|name| *name == text);
        let reading = read(&parts, 3, find)?;
        let classes = reading.classes.iter().map(|&class| names[class]);
        Ok((classes.collect(), reading.is_the_only_one))
    }

    #[test]
    fn the_longest_names_count_and_other_readings_are_known() {
        let names = ["a", "b", "a,b", "c,d,e", "e,a"];
        for (list, read, is_the_only_one) in [
            ("a", vec!["a"], true),
            ("b,a", vec!["b", "a"], true),
            ("a,b", vec!["a,b"], false),
            ("b,a,b", vec!["b", "a,b"], false),
            ("c,d,e", vec!["c,d,e"], true),
            // `a,b` alone would not lead to the end.
            ("c,d,e,a", vec!["c,d,e", "a"], true),
            ("e,a,b", vec!["e,a", "b"], true),
        ] {
            assert_eq!(
                names_in(list, &names),
                Ok((read, is_the_only_one)),
                "{list}"
            );
        }
        assert_eq!(
            names_in("x,y,z", &["x", "x,y", "y,z"]),
            Ok((vec!["x", "y,z"], true))
        );
        assert_eq!(names_in("a,d,b", &names), Err("d"));
        assert_eq!(names_in("", &names), Err(""));
        // The number of readings is larger than any number.
        let many = vec!["a"; 2000].join(",");
        let (read, is_the_only_one) = names_in(&many, &["a", "a,a"]).unwrap();
        assert!(read.len() == 1000 && !is_the_only_one);
    }
}
