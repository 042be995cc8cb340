//! A trained model whose answers a student learns.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::{Clip, Denoised, Guidance, Prediction, per_image};
use kiln_models::UNet2d;
use kiln_pipeline::{Classes, Pipeline, SampleOptions};

use super::{Noisy, denoised};
use crate::error::TrainError;
use crate::experiment::DistillationConfig;
use crate::learner::frozen::Frozen;

/// The teacher with its guidance, on all devices.
#[derive(Debug)]
pub(super) struct Teacher {
    unet: Frozen<UNet2d>,
    /// The worse network, if it has one.
    guide: Option<Frozen<UNet2d>>,
    /// Without a worse network: the class for images in general, if it has one.
    null_label: Option<usize>,
    guidance: Guidance,
    prediction: Prediction,
    clip: Option<Clip>,
}

impl Teacher {
    /// The teacher `model`, on a device without gradients.
    ///
    /// # Errors
    /// If the model cannot be guided as `config` says.
    pub(super) fn new(
        model: DiffusionModel,
        config: &DistillationConfig,
    ) -> Result<Self, TrainError> {
        let (unet, scheduler) = (model.unet.clone(), model.scheduler.clone());
        let guide = model.guide.as_ref().map(|guide| guide.unet.clone());
        let device = unet.devices().into_iter().next();
        let device = device.unwrap_or_else(Device::flex);
        let pipeline = Pipeline::from_model("the teacher".to_owned(), model, &device)?;
        let options = pipeline.default_options();
        let guidance = config.guidance(options.guidance)?;
        if config.has_interval() && guidance.is_some_and(|guidance| guidance.scale() == 1.0) {
            return Err(TrainError::Run(
                "stage_2.distillation.guidance_interval does nothing, because the teacher has no guidance unless stage_2.distillation.guidance says so: leave it out, or set `guidance`, too"
                    .to_owned(),
            ));
        }
        let options = SampleOptions {
            guidance: guidance.unwrap_or_default(),
            ..options
        };
        pipeline.check_classes(&options)?;
        let classes = pipeline
            .classes()
            .filter(|classes| classes.has_null_class());
        Ok(Self {
            unet: Frozen::new(unet),
            guide: guide.map(Frozen::new),
            null_label: classes.map(Classes::count),
            guidance: options.guidance,
            prediction: scheduler.prediction,
            clip: scheduler.clip,
        })
    }

    pub(super) fn guidance(&self) -> Guidance {
        self.guidance
    }

    /// The image and the noise that the guided teacher sees in noisy images.
    pub(super) fn denoise(&self, noisy: &Noisy) -> Denoised {
        let device = noisy.zt.device();
        let answer = |network: &UNet2d, labels: Option<&[usize]>| {
            let zt = noisy.zt.clone();
            denoised(network, self.prediction, zt, &noisy.levels, labels)
        };
        let labels = noisy.labels.as_deref();
        let unet = self.unet.on(&device);
        let better = answer(&unet, labels);
        let scales = noisy
            .levels
            .iter()
            .map(|&level| self.guidance.scale_at(level));
        let scales: Vec<f64> = scales.collect();
        let worse = match (&self.guide, self.null_label) {
            _ if scales.iter().all(|&scale| scale == 1.0) => None,
            (Some(guide), _) => Some(answer(&guide.on(&device), labels)),
            (None, Some(null)) => {
                let null_labels = labels.map(|labels| vec![null; labels.len()]);
                Some(answer(&unet, null_labels.as_deref()))
            }
            (None, None) => None,
        };
        let Denoised { z0, noise } = match worse {
            None => better,
            // At a given zt, images and noises of all predictions are mixed in the same way.
            Some(worse) => {
                let scales = per_image(scales, &device);
                let mix = |better: Tensor<4>, worse: Tensor<4>| {
                    worse.clone() + (better - worse) * scales.clone()
                };
                Denoised {
                    z0: mix(better.z0, worse.z0),
                    noise: mix(better.noise, worse.noise),
                }
            }
        };
        Denoised {
            z0: match self.clip {
                Some(clip) => clip.apply(z0),
                None => z0,
            },
            noise,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use kiln_checkpoint::{Guide, Metadata};
    use kiln_diffusion::{Denoiser, ScheduleConfig, ScheduleKind, SchedulerConfig};
    use kiln_kernels::Precision;
    use kiln_models::{SampleSize, UNet2dConfig};

    use super::*;
    use crate::denoising::distillation::tests::{assert_close, noisy, schedule};

    /// A random network for images of 2x2 with 3 classes and perhaps a null class.
    pub(in super::super) fn network(rows: Option<usize>, seed: u64) -> UNet2d {
        let config = UNet2dConfig {
            in_channels: 1,
            out_channels: 1,
            sample_size: Some(SampleSize::Square(2)),
            down_block_types: vec![kiln_models::DownBlockType::DownBlock2D],
            up_block_types: vec![kiln_models::UpBlockType::UpBlock2D],
            block_out_channels: vec![8],
            layers_per_block: 1,
            norm_num_groups: 2,
            num_class_embeds: rows,
            ..UNet2dConfig::default()
        };
        config.init(&Device::flex(), seed).unwrap()
    }

    pub(in super::super) fn model(rows: Option<usize>, has_guide: bool) -> DiffusionModel {
        let metadata = Metadata {
            class_names: ["a", "b", "c"].map(str::to_owned).to_vec(),
            ..Metadata::default()
        };
        DiffusionModel {
            first_stage: None,
            unet: network(rows, 1),
            guide: has_guide.then(|| Guide {
                unet: network(rows, 2),
                metadata: Metadata::default(),
                guidance: Guidance::new(3.0, [0.2, 0.95]).unwrap(),
            }),
            scheduler: SchedulerConfig {
                schedule: ScheduleConfig::of(ScheduleKind::Cosine),
                prediction: Prediction::Velocity,
                clip: Some(Clip::Range(0.9)),
                ..SchedulerConfig::default()
            },
            metadata: if rows.is_some() {
                metadata
            } else {
                Metadata::default()
            },
        }
    }

    pub(in super::super) fn config(guidance: &str) -> DistillationConfig {
        toml::from_str(&format!(
            "method = \"consistency-distillation\"\n{guidance}"
        ))
        .unwrap()
    }

    /// What `kiln sample` asks of a model, the teacher answers, at a level for each image.
    #[test]
    fn a_teacher_answers_as_the_model_draws() {
        let timesteps = [999.0, 600.0, 250.0];
        for (rows, has_guide, settings) in [
            (None, false, ""),
            (None, true, ""),
            (None, true, "guidance = 1.5\nguidance_interval = [0.3, 0.9]"),
            (
                Some(4),
                false,
                "guidance = 2.0\nguidance_interval = [0.0, 0.9]",
            ),
            (Some(4), true, ""),
            (Some(3), true, "guidance = 0.5"),
        ] {
            let config = config(settings);
            let teacher = Teacher::new(model(rows, has_guide), &config).unwrap();
            let labels = rows.map(|_| vec![0, 2, 1]);
            let noisy = Noisy {
                labels: labels.clone(),
                ..noisy(&timesteps)
            };
            let seen = teacher.denoise(&noisy);

            let model = model(rows, has_guide);
            let pipeline = Pipeline::from_model("it".to_owned(), model, &Device::flex()).unwrap();
            let options = SampleOptions {
                precision: Precision::F32,
                ..pipeline.default_options()
            };
            let options = match settings {
                "" => options,
                _ => SampleOptions {
                    guidance: config.guidance(options.guidance).unwrap().unwrap(),
                    ..options
                },
            };
            for (image, timestep) in timesteps.into_iter().enumerate() {
                let class = labels.as_ref().map(|labels| labels[image]);
                let denoiser = pipeline.denoiser(&[class], &options).unwrap();
                let zt = noisy.zt.clone().narrow(0, image, 1);
                let alone = denoiser.denoise(zt, schedule().level(timestep));
                assert_close(seen.z0.clone().narrow(0, image, 1), alone.z0, 1e-5);
                assert_close(seen.noise.clone().narrow(0, image, 1), alone.noise, 1e-5);
            }
        }
    }

    #[test]
    fn guidance_that_a_model_has_not_is_refused() {
        for rows in [None, Some(3)] {
            let refused = Teacher::new(model(rows, false), &config("guidance = 2.0"));
            let sentence = refused.unwrap_err().to_string();
            assert!(sentence.contains("guid"), "{sentence}");
        }
    }
}
