//! Lists of classes: names that are separated by commas, and may hold commas themselves.

use kiln::{Classes, Error};

/// The classes that each of `texts` lists, by name or number, separated by commas; `all` is all of them.
///
/// A name may have commas in it: at each place the longest name counts.
///
/// # Errors
/// [`Error::NoSuchClass`] for what is none.
pub fn classes_in(texts: &[String], classes: &Classes) -> Result<Vec<usize>, Error> {
    if let [all] = texts
        && all == "all"
        && classes.find(all).is_err()
    {
        return Ok((0..classes.count()).collect());
    }
    let names = (0..classes.count()).map(|class| classes.name(class));
    // A list of many parts is not searched for longer names than there are.
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
