//! A trained model whose answers a student learns.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::{Clip, Denoised, Guidance, Prediction};
use kiln_models::UNet2d;
use kiln_pipeline::{Classes, Pipeline, SampleOptions};

use super::{Noisy, denoised, per_image};
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
                let nobody = labels.map(|labels| vec![null; labels.len()]);
                Some(answer(&unet, nobody.as_deref()))
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
