//! What there is to choose from stands in the documents, too.

use std::fs;
use std::path::Path;

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{ScheduleKind, Spacing};

/// A file of the repository; none in a package, which does not have it.
fn document(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    let text = fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("skipped: there is no {}", path.display());
    }
    text
}

/// The first cells of the tables' rows in `text`.
fn first_cells(text: &str) -> String {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").next()).collect()
}

#[test]
fn every_schedule_has_a_row() {
    let Some(text) = document("docs/diffusion.md") else {
        return;
    };
    let rows = first_cells(&text);
    for kind in ScheduleKind::ALL {
        let name = format!("`{}`", kind.name());
        assert!(
            rows.contains(&name),
            "{name} has no row in docs/diffusion.md"
        );
    }
}

#[test]
fn every_sampler_has_a_row() {
    let Some(text) = document("README.md") else {
        return;
    };
    let rows = first_cells(&text);
    let own = include_str!("../src/sampler/mod.rs");
    for sampler in Sampler::ALL {
        let name = format!("`{}`", sampler.name());
        assert!(rows.contains(&name), "{name} has no row in README.md");
        let row = format!("//! | [`{}`] |", sampler.name().replace('-', "_"));
        assert!(own.contains(&row), "{name} has no row in sampler/mod.rs");
    }
}

#[test]
fn every_sampler_of_a_config_and_every_spacing_is_there() {
    let Some(text) = document("docs/diffusion.md") else {
        return;
    };
    let samplers = Sampler::ALL.map(Sampler::name);
    let spacings = Spacing::ALL.map(Spacing::name);
    for name in samplers.into_iter().chain(spacings) {
        let is_there = [format!("`{name}`"), format!("\"{name}\"")];
        assert!(
            is_there.iter().any(|written| text.contains(written)),
            "{name} is not in docs/diffusion.md"
        );
    }
}
