//! What a model is.

use burn::module::Module;
use kiln_pipeline::Pipeline;

use crate::protocol::{Drawing, ModelFacts};

/// The facts of the model that the page calls `name`.
pub(super) fn of(name: &str, pipeline: &Pipeline) -> ModelFacts {
    let model = pipeline.model();
    let shape = pipeline.image_shape();
    let options = pipeline.default_options();
    let classes = pipeline.classes();
    let network = model.first_stage.as_ref().map(|stage| &stage.network);
    let facts = model.metadata.training.iter();
    ModelFacts {
        model: name.to_owned(),
        channels: shape.channels as u32,
        width: shape.width as u32,
        height: shape.height as u32,
        latents: pipeline.latent_shape().map(|side| side as u32),
        first_stage: network.map(|network| network.config().class().to_owned()),
        codebook: network
            .and_then(|network| network.bottleneck.codes())
            .unwrap_or(0) as u32,
        weights: model.unet.num_params() as u64,
        prediction: model.scheduler.prediction.name().to_owned(),
        schedule: model.scheduler.schedule.clone(),
        classes: classes.map_or_else(Vec::new, |classes| {
            (0..classes.count())
                .map(|class| classes.name(class))
                .collect()
        }),
        guided: model.guide.is_some() || classes.is_some_and(|classes| classes.has_null_class()),
        distilled: model.metadata.distilled_by().map(str::to_owned),
        drawing: Drawing {
            seed: 0,
            count: Some(options.count as u32),
            first: None,
            steps: Some(options.steps as u32),
            sampler: Some(options.sampler),
            spacing: Some(options.levels.spacing),
            guidance: Some(options.guidance.scale()),
            guidance_interval: Some(options.guidance.interval()),
            classes: None,
        },
        training: facts
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}
