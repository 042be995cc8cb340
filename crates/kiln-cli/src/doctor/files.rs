//! Whether all files that kiln wrote exist and are unchanged. Added files do no harm.

use std::path::Path;

use kiln_checkpoint::{Differences, differences};

use super::finding::{Finding, Findings};
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    let Some(folder) = &patient.folder else {
        return Err("it needs a model in a folder".to_owned());
    };
    let compared = differences(folder).map_err(|error| error.to_string())?;
    let Some(Differences { missing, changed }) = compared else {
        return Err("the folder has no list of its files, .kiln-files".to_owned());
    };
    let missing = missing.iter().map(|file| gone(file));
    let changed = changed.iter().map(|file| {
        Finding::warning(
            format!("{file:?} was changed after kiln wrote it"),
            "if this was not on purpose, restore it, or train or fetch the model again",
        )
    });
    Ok(missing.chain(changed).collect())
}

/// A model does not need its page.
fn gone(file: &str) -> Finding {
    let what = format!("{file:?} is missing, which kiln wrote");
    let remedy = "restore it, or train or fetch the model again";
    let extension = Path::new(file).extension();
    match extension.is_some_and(|it| it == "json" || it == "safetensors") {
        true => Finding::broken(what, remedy),
        false => Finding::warning(what, remedy),
    }
}
