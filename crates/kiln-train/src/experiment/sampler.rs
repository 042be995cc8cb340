//! `sampling.sampler`: a table with a sampler's settings, or its name alone for the defaults.

use std::fmt;

use kiln_diffusion::sampler::Sampler;
use kiln_pipeline::suggestion;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads `"ddim"` as `{ kind = "ddim" }`.
pub(super) fn by_name_or_table<'a, D: Deserializer<'a>>(
    deserializer: D,
) -> Result<Sampler, D::Error> {
    deserializer.deserialize_any(NameOrTable)
}

struct NameOrTable;

impl<'a> Visitor<'a> for NameOrTable {
    type Value = Sampler;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sampler's name, or a table with its `kind`")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Sampler, E> {
        let known = Sampler::ALL.map(Sampler::name);
        name.parse().map_err(|_| match suggestion(name, known) {
            Some(meant) => E::custom(format!(
                "there is no sampler `{name}`; did you mean `{meant}`?"
            )),
            None => E::custom(format!(
                "there is no sampler `{name}`; there are {}",
                known.join(", ")
            )),
        })
    }

    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Sampler, A::Error> {
        Sampler::deserialize(MapAccessDeserializer::new(map))
    }
}
