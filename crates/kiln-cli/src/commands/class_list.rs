//! Lists of classes: names separated by commas. A name may contain commas itself.

use kiln::{Classes, Error};

/// The classes in `texts`, each of which lists names or numbers separated by commas. `all` is all classes.
///
/// A name may contain commas: the longest matching name counts.
///
/// # Errors
/// [`Error::NoSuchClass`] for a text that is not a class.
pub fn classes_in(texts: &[String], classes: &Classes) -> Result<Vec<usize>, Error> {
    if let [all] = texts
        && all == "all"
        && classes.find(all).is_err()
    {
        return Ok((0..classes.count()).collect());
    }
    let names = (0..classes.count()).map(|class| classes.name(class));
    // Do not search a list of many parts for names longer than the longest class name.
    let commas = names.map(|name| name.matches(',').count()).max();
    let mut found = Vec::new();
    for text in texts {
        let mut parts: &[&str] = &text.split(',').collect::<Vec<_>>();
        while let [first, ..] = parts {
            let longest = parts.len().min(commas.unwrap_or(0) + 1);
            let named = (1..=longest).rev().find_map(|length| {
                let name = parts[..length].join(",");
                Some((find(&name, classes).ok()?, length))
            });
            match named {
                Some((class, length)) => {
                    found.push(class);
                    parts = &parts[length..];
                }
                None => return Err(find(first, classes).err().unwrap_or(Error::NoClasses)),
            }
        }
    }
    Ok(found)
}

/// The class of a name or number, with or without the spaces around it.
fn find(text: &str, classes: &Classes) -> Result<usize, Error> {
    classes.find(text).or_else(|_| classes.find(text.trim()))
}
