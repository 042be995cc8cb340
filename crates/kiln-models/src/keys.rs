//! diffusers' names for the parameters of these modules.

/// The path to the current parameter of a module traversal.
#[derive(Debug, Default)]
pub(crate) struct KeyPath {
    /// Name of the field or index, and the kind of its container: `Struct:Linear`, `Enum:..`, `Vec`.
    segments: Vec<(String, String)>,
}

impl KeyPath {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.segments.push((name.to_owned(), container.to_owned()));
    }

    pub(crate) fn exit(&mut self) {
        self.segments.pop();
    }

    /// The diffusers key. Fields have the same names, with four exceptions: an enum's variant is not a level there, a
    /// normalisation's `gamma` and `beta` are `weight` and `bias`, and the bottleneck is called `quantize`.
    pub(crate) fn key(&self) -> String {
        let names = self.segments.iter().filter_map(|(name, container)| {
            match (container.as_str(), name.as_str()) {
                ("Struct:GroupNorm", "gamma") => Some("weight"),
                ("Struct:GroupNorm", "beta") => Some("bias"),
                ("Struct:Autoencoder", "bottleneck") => Some("quantize"),
                (container, _) if container.starts_with("Enum:") => None,
                (_, name) => Some(name),
            }
        });
        names.collect::<Vec<_>>().join(".")
    }

    /// The module that holds the parameter, such as `Linear`.
    pub(crate) fn owner(&self) -> &str {
        let container = self
            .segments
            .last()
            .map(|(_, container)| container.as_str());
        container
            .and_then(|kind| kind.strip_prefix("Struct:"))
            .unwrap_or_default()
    }

    /// Whether PyTorch stores this matrix transposed: as `[outputs, inputs]`, where Burn has `[inputs, outputs]`.
    pub(crate) fn is_transposed(&self) -> bool {
        let name = self.segments.last().map(|(name, _)| name.as_str());
        self.owner() == "Linear" && name == Some("weight")
    }
}

/// The current diffusers key for one from before 2023, when attention was a separate class.
pub(crate) fn current_key(key: &str) -> String {
    const RENAMED: [(&str, &str); 4] = [
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ];
    let mut parts: Vec<&str> = key.split('.').collect();
    if let [.., "attentions", _, layer, _] = parts.as_mut_slice()
        && let Some((_, new)) = RENAMED.iter().find(|(old, _)| old == layer)
    {
        *layer = new;
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[(&str, &str)]) -> KeyPath {
        let mut path = KeyPath::default();
        for (name, container) in segments {
            path.enter(name, container);
        }
        path
    }

    #[test]
    fn enums_and_normalisations_are_named_as_in_diffusers() {
        let downsampler = path(&[
            ("downsamplers", "Struct:DownBlock"),
            ("0", "Vec"),
            ("Residual", "Enum:Downsampler"),
            ("norm1", "Struct:ResidualBlock"),
            ("beta", "Struct:GroupNorm"),
        ]);
        assert_eq!(downsampler.key(), "downsamplers.0.norm1.bias");
        assert!(!downsampler.is_transposed());
    }

    #[test]
    fn only_matrices_of_linear_layers_are_transposed() {
        assert!(path(&[("to_q", "Struct:Attention"), ("weight", "Struct:Linear")]).is_transposed());
        assert!(!path(&[("to_q", "Struct:Attention"), ("bias", "Struct:Linear")]).is_transposed());
        assert!(
            !path(&[("conv_in", "Struct:UNet2d"), ("weight", "Struct:Conv2d")]).is_transposed()
        );
        assert!(
            !path(&[
                ("embedding", "Struct:VectorQuantizer"),
                ("weight", "Struct:Embedding")
            ])
            .is_transposed()
        );
    }

    #[test]
    fn leaving_a_module_shortens_the_key() {
        let mut path = path(&[
            ("mid_block", "Struct:UNet2d"),
            ("resnets", "Struct:MidBlock"),
        ]);
        path.exit();
        assert_eq!(path.key(), "mid_block");
        assert_eq!(path.owner(), "UNet2d");
    }

    #[test]
    fn old_keys_are_renamed_only_in_attention() {
        assert_eq!(
            current_key("mid_block.attentions.0.proj_attn.weight"),
            "mid_block.attentions.0.to_out.0.weight"
        );
        for key in [
            "query.weight",
            "mid_block.query.0.key.weight",
            "",
            "attentions.0.group_norm.weight",
        ] {
            assert_eq!(current_key(key), key);
        }
    }
}
