//! The networks of an experiment and their trainings, as TOML.

use toml::Value;

use super::choices::{Choices, FEW, Space};
use super::experiment::Written;
use super::length::Length;
use super::sheet::{Sheet, number};
use crate::commands::fact_table::thousands;

/// The channels of a latent, as in most first stages.
const LATENT: usize = 4;
/// A validation looks at no more images.
const VALIDATED: usize = 512;

impl Written<'_> {
    pub(super) fn first_stage(&self, sheet: &mut Sheet, length: &Length) {
        let choices = self.choices;
        let channels = choices.first_stage();
        let levels = |name: &str| list(channels.iter().map(|_| name));
        sheet.table(
            "autoencoder_kl",
            "stage 1's network, in the keys of diffusers' AutoencoderKL",
        );
        sheet.key("in_channels", number(choices.channels), "");
        sheet.key("out_channels", number(choices.channels), "");
        sheet.key("sample_size", number(choices.size), "");
        sheet.key("down_block_types", levels("DownEncoderBlock2D"), "");
        sheet.key("up_block_types", levels("UpDecoderBlock2D"), "");
        let why = format!(
            "{} levels, so latents are {side}x{side}",
            channels.len(),
            side = choices.side()
        );
        sheet.key("block_out_channels", numbers(&channels), why);
        sheet.key("layers_per_block", 1, "");
        sheet.key("latent_channels", number(LATENT), "");
        sheet.key("norm_num_groups", 8, "");
        sheet.key("mid_block_add_attention", false, "");

        sheet.table("stage_1", "");
        sheet.key(
            "reconstruction",
            "mse",
            "blurs texture; docs/first-stage.md has the terms that make photographs sharp",
        );
        sheet.written(
            "kl",
            "1e-2",
            "weight of the KL term, which keeps the latents smooth",
        );
        sheet.table("stage_1.training", "");
        self.training(sheet, length, 2e-3, 1e-4);
    }

    pub(super) fn unet(&self, sheet: &mut Sheet) {
        let choices = self.choices;
        let levels = choices.unet();
        let (channels, what) = match choices.space {
            Space::Pixel => (choices.channels, "the images' channels"),
            Space::Latent => (LATENT, "the latents' channels"),
        };
        let blocks = |attention: &'static str, plain: &'static str| {
            levels
                .iter()
                .map(move |&(_, attends)| if attends { attention } else { plain })
        };
        let down = blocks("AttnDownBlock2D", "DownBlock2D");
        let up: Vec<&str> = blocks("AttnUpBlock2D", "UpBlock2D").collect();
        sheet.table(
            "unet",
            "the network that denoises, in the keys of diffusers' UNet2DModel",
        );
        sheet.key("in_channels", number(channels), what);
        sheet.key("out_channels", number(channels), "");
        sheet.key("sample_size", number(choices.side()), "");
        sheet.key(
            "down_block_types",
            list(down),
            "attention where maps are at most 8x8, which is cheap",
        );
        sheet.key("up_block_types", list(up.into_iter().rev()), "");
        let widths: Vec<usize> = levels.iter().map(|&(channels, _)| channels).collect();
        sheet.key(
            "block_out_channels",
            numbers(&widths),
            "wider ones learn more, and take longer",
        );
        sheet.key("layers_per_block", 1, "");
        sheet.key("attention_head_dim", 32, "");
        sheet.key("norm_num_groups", 8, "");
        if choices.dropout > 0.0 {
            sheet.key(
                "dropout",
                choices.dropout,
                format!("because of fewer than {FEW} images"),
            );
        }
        if !choices.classes.is_empty() {
            sheet.key(
                "num_class_embeds",
                number(choices.classes.len() + 1),
                format!(
                    "{}, and one more where labels are dropped",
                    choices.classes_in_words()
                ),
            );
        }

        sheet.table("schedule", "");
        sheet.key(
            "kind",
            "cosine",
            "leaves no signal at its end; docs/diffusion.md lists the others",
        );
        sheet.key("num_train_timesteps", 1000, "");
    }

    pub(super) fn stage_2(&self, sheet: &mut Sheet) {
        sheet.table("stage_2", "");
        sheet.key(
            "prediction",
            "velocity",
            "what the network predicts: noise, signal, velocity or flow",
        );
        sheet.key("loss", "mse", "");
        sheet.written(
            "noise_levels",
            "{ logit-normal = { mean = 0.0, standard_deviation = 1.0 } }",
            "more often in the middle of the schedule",
        );
        if !self.choices.classes.is_empty() {
            sheet.key(
                "label_dropout",
                0.1,
                "share of the images shown without their label, for classifier-free guidance",
            );
        }
        let length = &self.lengths.unet;
        sheet.table("stage_2.training", "");
        self.training(sheet, length, 1e-3, 1e-5);
        sheet.table(
            "stage_2.training.ema",
            "training validates, draws with and keeps the average of the weights",
        );
        sheet.key(
            "decay",
            length.ema_decay(),
            "about a tenth of the training, at most 1,000 steps",
        );
    }

    /// The settings of a training with this learning rate for batches of 64.
    fn training(&self, sheet: &mut Sheet, length: &Length, rate: f64, last: f64) {
        let Choices {
            batch,
            held_out,
            batch_why,
            ..
        } = self.choices;
        let scaled = rate * (*batch as f64 / 64.0).sqrt();
        sheet.key("steps", number(length.steps), length.why());
        sheet.key("batch_size", number(*batch), batch_why);
        sheet.written(
            "learning_rate",
            &format!("{scaled:.1e}"),
            format!("{rate:e} for batches of 64, by the root of the batch"),
        );
        sheet.written(
            "final_learning_rate",
            &format!("{:.1e}", last.min(scaled)),
            "the cosine ends here",
        );
        sheet.key("warmup_steps", number(length.warmup()), "");
        sheet.key(
            "checkpoint_every",
            number(length.checkpoint_every()),
            "steps between checkpoints, validations and rows of metrics.csv",
        );
        sheet.key(
            "pictures_every",
            2,
            "a picture after every second checkpoint",
        );
        if *held_out > VALIDATED {
            sheet.key(
                "validation_images",
                number(VALIDATED),
                format!("of the {}; 0 takes all", thousands(*held_out)),
            );
        }
    }
}

fn numbers(values: &[usize]) -> Value {
    Value::Array(values.iter().map(|&value| number(value).into()).collect())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(names.map(Value::from).collect())
}
