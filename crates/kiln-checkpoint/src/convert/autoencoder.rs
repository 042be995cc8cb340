//! The autoencoders of CompVis' latent diffusion as a `VQModel` (with a codebook) or an `AutoencoderKL` (without).

use kiln_models::{AutoencoderKlConfig, DecoderBlockType, EncoderBlockType, VqVaeConfig};

use super::tensors::{NewKeys, Tensors};

/// The config of either kind of autoencoder, as JSON.
pub(super) fn config(tensors: &Tensors, sample_size: usize, scaling_factor: f64) -> Option<String> {
    let levels = tensors.count("encoder.down.");
    let widths = (0..levels).map(|level| {
        let key = format!("encoder.down.{level}.block.0.conv1.weight");
        tensors.size(&key, 0)
    });
    let block_out_channels: Vec<usize> = widths.collect::<Option<_>>()?;
    let down_block_types = (0..levels)
        .map(
            |level| match tensors.has(&format!("encoder.down.{level}.attn.0.q.weight")) {
                true => EncoderBlockType::AttnDownEncoderBlock2D,
                false => EncoderBlockType::DownEncoderBlock2D,
            },
        )
        .collect();
    let up_block_types = (0..levels)
        .rev()
        .map(
            |level| match tensors.has(&format!("decoder.up.{level}.attn.0.q.weight")) {
                true => DecoderBlockType::AttnUpDecoderBlock2D,
                false => DecoderBlockType::UpDecoderBlock2D,
            },
        )
        .collect();
    let in_channels = tensors.size("encoder.conv_in.weight", 1)?;
    let out_channels = tensors.size("decoder.conv_out.weight", 0)?;
    let layers_per_block = tensors.count("encoder.down.0.block.");
    let latent_channels = tensors.size("decoder.conv_in.weight", 1)?;
    let mid_block_add_attention = tensors.has("encoder.mid.attn_1.q.weight");
    let codes = "quantize.embedding.weight";
    Some(match (tensors.size(codes, 0), tensors.size(codes, 1)) {
        (Some(num_vq_embeddings), vq_embed_dim) => VqVaeConfig {
            in_channels,
            out_channels,
            down_block_types,
            up_block_types,
            block_out_channels,
            layers_per_block,
            latent_channels,
            sample_size,
            num_vq_embeddings,
            vq_embed_dim,
            scaling_factor,
            mid_block_add_attention,
            ..VqVaeConfig::default()
        }
        .to_json(),
        (None, _) => AutoencoderKlConfig {
            in_channels,
            out_channels,
            down_block_types,
            up_block_types,
            block_out_channels,
            layers_per_block,
            latent_channels,
            sample_size,
            scaling_factor,
            mid_block_add_attention,
            use_quant_conv: tensors.has("quant_conv.weight"),
            use_post_quant_conv: tensors.has("post_quant_conv.weight"),
            ..AutoencoderKlConfig::default()
        }
        .to_json(),
    })
}

/// A tensor's name in diffusers, and how to change the tensor.
pub(super) fn rename(tensors: &Tensors) -> impl Fn(&str, &[usize]) -> Option<NewKeys> + use<> {
    let levels = tensors.count("decoder.up.");
    move |key, _| {
        let parts: Vec<&str> = key.split('.').collect();
        let one = |key: String| Some(NewKeys::One(key));
        match parts[..] {
            ["quant_conv" | "post_quant_conv", _] | ["quantize", "embedding", "weight"] => {
                one(key.to_owned())
            }
            [coder @ ("encoder" | "decoder"), ref rest @ ..] => match *rest {
                ["conv_in" | "conv_out", _] => one(key.to_owned()),
                ["norm_out", name] => one(format!("{coder}.conv_norm_out.{name}")),
                ["mid", "block_1", ref rest @ ..] => {
                    residual(&format!("{coder}.mid_block.resnets.0"), rest)
                }
                ["mid", "block_2", ref rest @ ..] => {
                    residual(&format!("{coder}.mid_block.resnets.1"), rest)
                }
                ["mid", "attn_1", ref rest @ ..] => {
                    attention(&format!("{coder}.mid_block.attentions.0"), rest)
                }
                ["down", level, ref rest @ ..] => {
                    level_key(&format!("{coder}.down_blocks.{level}"), rest)
                }
                // Counted from the image inwards, although they lead outwards.
                ["up", level, ref rest @ ..] => {
                    let level = levels.checked_sub(1 + level.parse::<usize>().ok()?)?;
                    level_key(&format!("{coder}.up_blocks.{level}"), rest)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

fn level_key(level: &str, rest: &[&str]) -> Option<NewKeys> {
    match *rest {
        ["block", layer, ref rest @ ..] => residual(&format!("{level}.resnets.{layer}"), rest),
        ["attn", layer, ref rest @ ..] => attention(&format!("{level}.attentions.{layer}"), rest),
        ["downsample", "conv", name] => {
            Some(NewKeys::One(format!("{level}.downsamplers.0.conv.{name}")))
        }
        ["upsample", "conv", name] => {
            Some(NewKeys::One(format!("{level}.upsamplers.0.conv.{name}")))
        }
        _ => None,
    }
}

fn residual(block: &str, rest: &[&str]) -> Option<NewKeys> {
    match *rest {
        [layer @ ("norm1" | "conv1" | "norm2" | "conv2"), name] => {
            Some(NewKeys::One(format!("{block}.{layer}.{name}")))
        }
        ["nin_shortcut", name] => Some(NewKeys::One(format!("{block}.conv_shortcut.{name}"))),
        _ => None,
    }
}

fn attention(block: &str, rest: &[&str]) -> Option<NewKeys> {
    let (layer, name) = match *rest {
        ["norm", name] => return Some(NewKeys::One(format!("{block}.group_norm.{name}"))),
        ["q", name] => ("to_q", name),
        ["k", name] => ("to_k", name),
        ["v", name] => ("to_v", name),
        ["proj_out", name] => ("to_out.0", name),
        _ => return None,
    };
    Some(NewKeys::Linear(format!("{block}.{layer}.{name}")))
}
