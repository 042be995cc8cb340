//! The U-Net of CompVis' latent diffusion (`openaimodel.UNetModel`, which is guided diffusion's) as a `UNet2DModel`.
//!
//! Its blocks are numbered consecutively: `input_blocks.0` is the first convolution, followed for each level by its
//! residual blocks and a block that halves; `output_blocks` have one more residual block per level, and the last of
//! these also doubles.

use kiln_models::{DownBlockType, SampleSize, UNet2dConfig, UpBlockType};

use super::tensors::{NewKeys, Tensors};

/// The config of such a U-Net from its keys and shapes. They do not show how many channels an attention head has.
pub(super) fn config(
    tensors: &Tensors,
    head_channels: usize,
    sample_size: usize,
) -> Option<UNet2dConfig> {
    let layers = layers_per_block(tensors);
    let blocks = tensors.count("input_blocks.");
    let levels = blocks.checked_sub(1)?.div_ceil(layers + 1);
    let first = |level: usize| 1 + level * (layers + 1);
    let widths = (0..levels).map(|level| {
        let key = format!("input_blocks.{}.0.out_layers.3.weight", first(level));
        tensors.size(&key, 0)
    });
    let attends = |key: String| tensors.has(&format!("{key}.1.qkv.weight"));
    let down = (0..levels).map(
        |level| match attends(format!("input_blocks.{}", first(level))) {
            true => DownBlockType::AttnDownBlock2D,
            false => DownBlockType::DownBlock2D,
        },
    );
    let up =
        (0..levels).map(
            |level| match attends(format!("output_blocks.{}", level * (layers + 1))) {
                true => UpBlockType::AttnUpBlock2D,
                false => UpBlockType::UpBlock2D,
            },
        );
    Some(UNet2dConfig {
        sample_size: Some(SampleSize::Square(sample_size)),
        in_channels: tensors.size("input_blocks.0.0.weight", 1)?,
        out_channels: tensors.size("out.2.weight", 0)?,
        block_out_channels: widths.collect::<Option<_>>()?,
        down_block_types: down.collect(),
        up_block_types: up.collect(),
        layers_per_block: layers,
        attention_head_dim: Some(head_channels),
        add_attention: attends("middle_block".to_owned()),
        num_class_embeds: tensors.size("label_emb.weight", 0),
        ..UNet2dConfig::default()
    })
}

/// Residual blocks per level on the way down: the ones before the first block that halves.
fn layers_per_block(tensors: &Tensors) -> usize {
    let blocks = tensors.count("input_blocks.");
    let halves = |block: &usize| tensors.has(&format!("input_blocks.{block}.0.op.weight"));
    (1..blocks).find(halves).unwrap_or(blocks).saturating_sub(1)
}

/// A tensor's name in diffusers, and how to change the tensor.
pub(super) fn rename(
    tensors: &Tensors,
    head_channels: usize,
) -> impl Fn(&str, &[usize]) -> Option<NewKeys> + use<> {
    let per_level = layers_per_block(tensors) + 1;
    move |key, shape| {
        let parts: Vec<&str> = key.split('.').collect();
        let one = |key: String| Some(NewKeys::One(key));
        match parts[..] {
            ["time_embed", "0", name] => one(format!("time_embedding.linear_1.{name}")),
            ["time_embed", "2", name] => one(format!("time_embedding.linear_2.{name}")),
            ["label_emb", "weight"] => one("class_embedding.weight".to_owned()),
            ["input_blocks", "0", "0", name] => one(format!("conv_in.{name}")),
            ["out", "0", name] => one(format!("conv_norm_out.{name}")),
            ["out", "2", name] => one(format!("conv_out.{name}")),
            ["input_blocks", block, ref rest @ ..] => {
                let block = block.parse::<usize>().ok()?.checked_sub(1)?;
                let (level, layer) = (block / per_level, block % per_level);
                let level = format!("down_blocks.{level}");
                match rest {
                    ["0", "op", name] => one(format!("{level}.downsamplers.0.conv.{name}")),
                    ["0", rest @ ..] => residual(&format!("{level}.resnets.{layer}"), rest),
                    ["1", rest @ ..] => attention(
                        &format!("{level}.attentions.{layer}"),
                        rest,
                        shape,
                        head_channels,
                    ),
                    _ => None,
                }
            }
            ["middle_block", "1", ref rest @ ..] => {
                attention("mid_block.attentions.0", rest, shape, head_channels)
            }
            ["middle_block", "0", ref rest @ ..] => residual("mid_block.resnets.0", rest),
            ["middle_block", "2", ref rest @ ..] => residual("mid_block.resnets.1", rest),
            ["output_blocks", block, ref rest @ ..] => {
                let block = block.parse::<usize>().ok()?;
                let (level, layer) = (block / per_level, block % per_level);
                let level = format!("up_blocks.{level}");
                match rest {
                    ["1" | "2", "conv", name] => one(format!("{level}.upsamplers.0.conv.{name}")),
                    ["0", rest @ ..] => residual(&format!("{level}.resnets.{layer}"), rest),
                    ["1", rest @ ..] => attention(
                        &format!("{level}.attentions.{layer}"),
                        rest,
                        shape,
                        head_channels,
                    ),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn residual(block: &str, rest: &[&str]) -> Option<NewKeys> {
    let (layer, name) = match *rest {
        ["in_layers", "0", name] => ("norm1", name),
        ["in_layers", "2", name] => ("conv1", name),
        ["emb_layers", "1", name] => ("time_emb_proj", name),
        ["out_layers", "0", name] => ("norm2", name),
        ["out_layers", "3", name] => ("conv2", name),
        ["skip_connection", name] => ("conv_shortcut", name),
        _ => return None,
    };
    Some(NewKeys::One(format!("{block}.{layer}.{name}")))
}

fn attention(block: &str, rest: &[&str], shape: &[usize], head_channels: usize) -> Option<NewKeys> {
    match *rest {
        ["norm", name] => Some(NewKeys::One(format!("{block}.group_norm.{name}"))),
        ["proj_out", name] => Some(NewKeys::Linear(format!("{block}.to_out.0.{name}"))),
        ["qkv", name] => {
            let rows = shape.first()?;
            let of_a_head = 3 * head_channels;
            (of_a_head > 0 && rows.is_multiple_of(of_a_head)).then(|| NewKeys::Joint {
                keys: ["to_q", "to_k", "to_v"].map(|layer| format!("{block}.{layer}.{name}")),
                heads: rows / of_a_head,
            })
        }
        _ => None,
    }
}
