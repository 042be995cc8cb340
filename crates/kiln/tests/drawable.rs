//! Every experiment that the trainer accepts gives a model that can draw.

use burn::tensor::Device;
use kiln::Pipeline;
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata};
use kiln_models::WeightsType;
use kiln_train::Experiment;

/// An experiment without the keys that have defaults.
const PIXELS: &str = r#"
    [data]
    dataset = "folder"
    size = 8
    channels = 1
    [unet]
    in_channels = 1
    out_channels = 1
    down_block_types = ["DownBlock2D", "DownBlock2D"]
    up_block_types = ["UpBlock2D", "UpBlock2D"]
    block_out_channels = [8, 8]
    layers_per_block = 1
    norm_num_groups = 4
    [schedule]
    [stage_2.training]
    steps = 4
    batch_size = 4
    learning_rate = 1e-3
    checkpoint_every = 2
    [sampling]
    steps = 3
"#;

const LATENTS: &str = r#"
    [vqvae]
    in_channels = 1
    out_channels = 1
    down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
    up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
    block_out_channels = [8, 8]
    latent_channels = 1
    num_vq_embeddings = 8
    norm_num_groups = 4
    mid_block_add_attention = false
    [stage_1.training]
    steps = 4
    batch_size = 4
    learning_rate = 1e-3
    checkpoint_every = 2
"#;

/// The model after a training of zero steps, saved and read again.
fn model(experiment: &Experiment) -> Pipeline {
    let device = Device::flex();
    let first_stage = experiment.first_stage.as_ref().map(|config| FirstStage {
        network: config.network.init(&device, 1).unwrap(),
        metadata: Metadata::default(),
    });
    let classes = experiment.unet.num_class_embeds.unwrap_or_default();
    let model = DiffusionModel {
        first_stage,
        unet: experiment.unet.init(&device, 0).unwrap(),
        guide: None,
        scheduler: experiment.scheduler(),
        metadata: Metadata {
            class_names: (0..classes).map(|class| class.to_string()).collect(),
            ..Metadata::default()
        },
    };
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    model.save(&folder, WeightsType::F32).unwrap();
    Pipeline::load(&folder, &device).unwrap()
}

fn require_drawable(text: &str, overrides: &[String]) -> bool {
    let Ok(experiment) = Experiment::parse(text, "test", overrides) else {
        return false;
    };
    let pipeline = model(&experiment);
    let options = kiln::SampleOptions {
        steps: experiment.sampling.steps,
        count: 1,
        ..pipeline.default_options()
    };
    let images = pipeline.sample(&options);
    let images = images.unwrap_or_else(|error| panic!("{overrides:?}: {error}"));
    let is_finite = images.values().iter().all(|value| value.is_finite());
    assert!(is_finite, "{overrides:?}");
    assert_eq!((images.height(), images.width()), (8, 8), "{overrides:?}");
    true
}

#[test]
fn sizes_that_the_config_leaves_out_follow_from_the_data() {
    for text in [PIXELS.to_owned(), PIXELS.to_owned() + LATENTS] {
        assert!(require_drawable(&text, &[]));
    }
    let experiment = Experiment::parse(&(PIXELS.to_owned() + LATENTS), "test", &[]).unwrap();
    assert_eq!(experiment.first_stage.unwrap().network.sample_size(), 8);
    let size = experiment.unet.sample_size.unwrap();
    assert_eq!(size.height_and_width(), [4, 4]);
}

#[test]
fn every_schedule_prediction_sampler_and_embedding_that_is_accepted_can_be_drawn_from() {
    let schedules = [
        "linear",
        "scaled-linear",
        "sigmoid-betas",
        "cosine",
        "sigmoid",
        "noise-power-linear",
        "noise-power-cosine",
        "log-snr-linear",
        "log-noise-linear",
        "log-signal-linear",
        "noise-step-linear",
        "signal-step-linear",
        "angle-linear",
        "karras",
        "exponential",
        "flow",
    ]
    .map(|kind| format!("schedule.kind={kind}"));
    let others = [
        "stage_2.prediction=signal",
        "stage_2.prediction=velocity",
        "stage_2.prediction=flow",
        "sampling.sampler.kind=ddpm",
        "sampling.sampler.kind=euler",
        "sampling.sampler.kind=heun",
        "sampling.sampler.kind=pndm",
        "sampling.sampler.kind=dpm-solver",
        "sampling.sampler.kind=unipc",
        "sampling.spacing=leading",
        "sampling.spacing=linspace",
        "sampling.spacing=karras",
        "sampling.spacing=log-snr",
        "sampling.steps=1",
        "sampling.clip=1.0",
        "schedule.continuous=true",
        "unet.time_embedding_type=fourier",
        "unet.time_embedding_type=noise_power",
        "unet.time_embedding_type=noise_power_input",
        "unet.mid_block_type=none",
        "unet.add_attention=false",
        "unet.num_class_embeds=3",
        "unet.center_input_sample=true",
    ]
    .map(str::to_owned);
    let mut drawn = 0;
    for one in schedules.iter().chain(&others) {
        drawn += usize::from(require_drawable(PIXELS, std::slice::from_ref(one)));
    }
    // Newer schedules, with every sampler.
    for schedule in ["schedule.kind=cosine", "schedule.kind=karras"] {
        for other in &others {
            let both = [schedule.to_owned(), other.clone()];
            drawn += usize::from(require_drawable(PIXELS, &both));
        }
    }
    assert!(drawn > 60, "only {drawn} were accepted");
}
