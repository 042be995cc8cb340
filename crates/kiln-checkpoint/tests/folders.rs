//! Models written to folders and read back, and folders that are not models.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_checkpoint::{
    CheckpointError, DiffusionModel, FirstStage, Metadata, ModelSource, vqvae_hash,
};
use kiln_diffusion::sampler::{Sampler, Variance};
use kiln_diffusion::{Guidance, Prediction, ScheduleConfig, SchedulerConfig, Spacing};
use kiln_models::{
    Autoencoder, AutoencoderConfig, SampleSize, UNet2d, UNet2dConfig, VqVaeConfig, WeightsType,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

const FILES: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vqvae/config.json",
    "vqvae/diffusion_pytorch_model.safetensors",
];

fn vqvae(seed: u64) -> Autoencoder {
    scaled_vqvae(seed, 0.7)
}

fn scaled_vqvae(seed: u64, scaling_factor: f64) -> Autoencoder {
    let json = r#"{"in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "latent_channels": 4, "num_vq_embeddings": 12, "norm_num_groups": 4, "sample_size": 16,
        "scaling_factor": 0.7}"#;
    let json = json.replace("0.7", &scaling_factor.to_string());
    let config = AutoencoderConfig::from_json(&json).expect("a config");
    config.init(&Device::flex(), seed).expect("a VQ-VAE")
}

fn unet(channels: usize, seed: u64) -> UNet2d {
    let json = format!(
        r#"{{"in_channels": {channels}, "out_channels": {channels}, "sample_size": 8,
        "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}}"#
    );
    let config = UNet2dConfig::from_json(&json).expect("a config");
    config.init(&Device::flex(), seed).expect("a U-Net")
}

fn metadata(dataset: &str) -> Metadata {
    Metadata {
        border: 2,
        class_names: vec!["zero".to_owned(), "one".to_owned()],
        vqvae_hash: None,
        training: BTreeMap::from([("dataset".to_owned(), dataset.to_owned())]),
        ..Metadata::default()
    }
}

fn latent_model() -> DiffusionModel {
    DiffusionModel {
        first_stage: Some(FirstStage {
            network: vqvae(1),
            metadata: metadata("of the VQ-VAE"),
        }),
        unet: unet(4, 2),
        guide: None,
        scheduler: SchedulerConfig {
            prediction: Prediction::Velocity,
            ..SchedulerConfig::default()
        },
        metadata: metadata("of the U-Net"),
    }
}

/// A saved latent model and the folder around it.
fn saved() -> (TempDir, ModelSource) {
    let around = TempDir::new().expect("a temporary folder");
    let folder = around.path().join("model");
    latent_model()
        .save(&folder, WeightsType::F32)
        .expect("saved");
    (around, ModelSource::Folder(folder))
}

fn load(source: &ModelSource) -> Result<DiffusionModel, CheckpointError> {
    DiffusionModel::load(source, &Device::flex())
}

/// The error of a model that must not load, as the user reads it.
fn refusal(folder: &Path) -> String {
    match load(&ModelSource::Folder(folder.to_owned())) {
        Ok(_) => panic!("{} loads", folder.display()),
        Err(problem) => problem.to_string(),
    }
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(folder.join(file)).expect("a text file");
    assert!(text.contains(from), "{text}");
    fs::write(folder.join(file), text.replace(from, to)).expect("written");
}

fn numbers<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * 0.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn floats(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn denoise(unet: &UNet2d, channels: usize) -> Vec<f32> {
    let timesteps = Tensor::from_data([500.0], &Device::flex());
    floats(unet.forward(numbers([1, channels, 8, 8]), timesteps, None))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_latent_model_survives_exactly() {
    let (around, source) = saved();
    let before = latent_model();
    let after = load(&source).expect("loads");
    let first_stage = after.first_stage.expect("a VQ-VAE");
    assert_eq!(after.scheduler, before.scheduler);
    assert_eq!(after.unet.config(), before.unet.config());
    assert_eq!(denoise(&after.unet, 4), denoise(&before.unet, 4));
    assert_eq!(first_stage.network.config(), vqvae(1).config());
    let decode = |vqvae: &Autoencoder| floats(vqvae.decode(numbers([1, 4, 8, 8])));
    assert_eq!(decode(&first_stage.network), decode(&vqvae(1)));
    assert_eq!(first_stage.metadata, metadata("of the VQ-VAE"));
    let expected = Metadata {
        vqvae_hash: Some(first_stage.hash()),
        ..metadata("of the U-Net")
    };
    assert_eq!(after.metadata, expected);
    assert_eq!(names(around.path()), ["model"]);
}

/// An autoencoder without a codebook instead of the VQ-VAE.
fn kl(seed: u64) -> Autoencoder {
    let json = r#"{"_class_name": "AutoencoderKL", "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "norm_num_groups": 4, "sample_size": 16, "scaling_factor": 0.5, "shift_factor": 0.25}"#;
    let config = AutoencoderConfig::from_json(json).expect("a config");
    config
        .init(&Device::flex(), seed)
        .expect("an AutoencoderKL")
}

#[test]
fn an_autoencoder_without_a_codebook_is_a_first_stage_too() {
    let around = TempDir::new().expect("a temporary folder");
    let folder = around.path().join("model");
    let mut model = latent_model();
    model.first_stage = Some(FirstStage {
        network: kl(5),
        metadata: Metadata::default(),
    });
    model.save(&folder, WeightsType::F32).expect("saved");
    let check = |source: &ModelSource| {
        let network = load(source)
            .expect("loads")
            .first_stage
            .expect("one")
            .network;
        assert_eq!(network.config(), kl(5).config());
        let latents = numbers([1, 4, 8, 8]);
        let decoded = floats(network.decode(latents.clone()));
        assert_eq!(decoded, floats(kl(5).decode(latents.clone())));
        let normalised = floats((latents.clone() - 0.25) * 0.5);
        assert_eq!(floats(network.normalised(latents)), normalised);
    };
    check(&ModelSource::Folder(folder.clone()));
    // The name in diffusers' other pipelines.
    fs::rename(folder.join("vqvae"), folder.join("vae")).expect("renamed");
    edit(&folder, "model_index.json", "\"vqvae\"", "\"vae\"");
    check(&ModelSource::Folder(folder.clone()));
    let alone = FirstStage::load(&ModelSource::Folder(folder), &Device::flex());
    assert_eq!(alone.expect("loads").hash(), vqvae_hash(&kl(5)));
    assert_ne!(vqvae_hash(&kl(5)), vqvae_hash(&kl(6)));
}

#[test]
fn half_precision_is_near_and_still_knows_its_vqvae() {
    let around = TempDir::new().expect("a temporary folder");
    let folder = around.path().join("half");
    latent_model()
        .save(&folder, WeightsType::F16)
        .expect("saved");
    let source = ModelSource::Folder(folder.clone());
    let once = load(&source).expect("loads");
    for (half, exact) in denoise(&once.unet, 4).iter().zip(denoise(&unet(4, 2), 4)) {
        assert!((half - exact).abs() < 0.02, "{half} {exact}");
    }
    // Rounded numbers do not change again, so a second copy is the same model, in either type.
    for weights_type in [WeightsType::F16, WeightsType::F32] {
        once.save(&folder, weights_type).expect("saved");
        let again = load(&source).expect("loads");
        assert_eq!(again.metadata, once.metadata);
        assert_eq!(denoise(&again.unet, 4), denoise(&once.unet, 4));
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let (one, _) = saved();
    let (two, _) = saved();
    for file in FILES {
        let read = |around: &TempDir| fs::read(around.path().join("model").join(file));
        assert_eq!(read(&one).expect(file), read(&two).expect(file), "{file}");
    }
}

#[test]
fn a_model_in_pixel_space_has_no_vqvae() {
    let around = TempDir::new().expect("a temporary folder");
    let samplers = [
        (Sampler::default(), "DDIMPipeline"),
        (
            Sampler::Ddpm {
                variance: Variance::Small,
            },
            "DDPMPipeline",
        ),
    ];
    for (sampler, pipeline) in samplers {
        let folder = around.path().join(pipeline);
        let model = DiffusionModel {
            first_stage: None,
            unet: unet(1, 3),
            guide: None,
            scheduler: SchedulerConfig {
                sampler,
                ..SchedulerConfig::default()
            },
            metadata: Metadata::default(),
        };
        model.save(&folder, WeightsType::F32).expect("saved");
        let index = fs::read_to_string(folder.join("model_index.json")).expect("an index");
        assert!(index.contains(pipeline) && !index.contains("vqvae"));
        assert_eq!(
            names(&folder),
            [".kiln-files", "model_index.json", "scheduler", "unet"]
        );
        let loaded = load(&ModelSource::Folder(folder.clone())).expect("loads");
        assert!(loaded.first_stage.is_none());
        assert_eq!(loaded.scheduler.sampler, sampler);
        assert_eq!(loaded.metadata, Metadata::default());

        // A whole model, but not one that stage 2 could use.
        let source = ModelSource::Folder(folder);
        let problem = FirstStage::load(&source, &Device::flex()).expect_err("no VQ-VAE");
        assert!(
            problem.to_string().contains("has no first stage"),
            "{problem}"
        );
    }
}

#[test]
fn a_student_keeps_its_segments_and_is_ddim_for_diffusers() {
    let around = TempDir::new().expect("a temporary folder");
    let folder = around.path().join("student");
    let mut model = latent_model();
    model.scheduler.sampler = Sampler::Consistency { segments: 4 };
    model.scheduler.levels.spacing = Spacing::Trailing;
    model.save(&folder, WeightsType::F32).expect("saved");
    let scheduler = fs::read_to_string(folder.join("scheduler/scheduler_config.json"));
    let scheduler = scheduler.expect("a scheduler");
    assert!(
        scheduler.contains(r#""_class_name": "DDIMScheduler""#)
            && scheduler.contains(r#""timestep_spacing": "trailing""#),
        "{scheduler}"
    );
    let loaded = load(&ModelSource::Folder(folder)).expect("loads");
    assert_eq!(loaded.scheduler, model.scheduler);
}

/// The latent model with a worse version of it.
fn guided() -> DiffusionModel {
    let worse = DiffusionModel {
        unet: unet(4, 7),
        metadata: metadata("of the guide"),
        ..latent_model()
    };
    let guidance = Guidance::new(1.5, [0.0, 0.9]).expect("guidance");
    (latent_model().guided_by(worse, guidance)).expect("a guide")
}

#[test]
fn a_guide_survives_and_diffusers_sees_the_same_model() {
    let (around, plain) = saved();
    let folder = around.path().join("guided");
    guided().save(&folder, WeightsType::F32).expect("saved");
    let index = |folder: &Path| fs::read_to_string(folder.join("model_index.json")).ok();
    let ModelSource::Folder(plain) = plain else {
        panic!("a folder")
    };
    assert_eq!(index(&folder), index(&plain));

    let loaded = load(&ModelSource::Folder(folder.clone())).expect("loads");
    let guide = loaded.guide.expect("a guide");
    assert_eq!(guide.guidance, Guidance::new(1.5, [0.0, 0.9]).unwrap());
    assert_eq!(guide.metadata.training, metadata("of the guide").training);
    assert_eq!(denoise(&guide.unet, 4), denoise(&unet(4, 7), 4));
    assert_eq!(denoise(&loaded.unet, 4), denoise(&unet(4, 2), 4));

    edit(&folder, "guide/guidance.json", "1.5", "-1.5");
    let sentence = refusal(&folder);
    assert!(
        sentence.contains("guidance.json") && sentence.contains("-1.5"),
        "{sentence}"
    );
    fs::remove_file(folder.join("guide/guidance.json")).expect("removed");
    let sentence = refusal(&folder);
    assert!(sentence.contains("lacks"), "{sentence}");
}

#[test]
fn a_guide_of_another_model_is_refused() {
    let model = latent_model;
    let small = UNet2dConfig {
        sample_size: Some(SampleSize::Square(4)),
        ..unet(4, 7).config().clone()
    };
    let classes = UNet2dConfig {
        num_class_embeds: Some(3),
        ..unet(4, 7).config().clone()
    };
    let of = |config: UNet2dConfig| DiffusionModel {
        unet: config.init(&Device::flex(), 7).expect("a U-Net"),
        ..model()
    };
    let scheduler = |schedule: ScheduleConfig, prediction| DiffusionModel {
        scheduler: SchedulerConfig {
            schedule,
            prediction,
            ..SchedulerConfig::default()
        },
        ..model()
    };
    let shorter = ScheduleConfig {
        num_train_timesteps: 50,
        ..ScheduleConfig::default()
    };
    let of_latents = |network| DiffusionModel {
        first_stage: Some(FirstStage {
            network,
            metadata: Metadata::default(),
        }),
        ..model()
    };
    for (worse, word) in [
        (of(small), "sizes"),
        (of(classes), "classes"),
        (scheduler(shorter, Prediction::Velocity), "schedules"),
        (
            scheduler(ScheduleConfig::default(), Prediction::Noise),
            "predictions",
        ),
        (of_latents(vqvae(9)), "autoencoders"),
        (of_latents(scaled_vqvae(1, 0.75)), "scaling factors"),
    ] {
        let guided = model().guided_by(worse, Guidance::default());
        let sentence = guided.expect_err(word).to_string();
        assert!(sentence.contains(word), "{sentence}");
    }

    // A second measurement of the factor rarely gives the same last digits.
    let measured_again = of_latents(scaled_vqvae(1, 0.7001));
    assert!(
        (model().guided_by(measured_again, Guidance::default())).is_ok(),
        "a guide"
    );

    // In a folder, too, however it got there.
    let around = TempDir::new().expect("a temporary folder");
    let folder = around.path().join("model");
    guided().save(&folder, WeightsType::F32).expect("saved");
    edit(
        &folder,
        "guide/config.json",
        "\"sample_size\": 8",
        "\"sample_size\": 16",
    );
    let sentence = refusal(&folder);
    assert!(sentence.contains("guide"), "{sentence}");
}

#[test]
fn a_vqvae_alone_survives_and_is_found_in_a_model() {
    let (around, model) = saved();
    let folder = around.path().join("vqvae");
    let first_stage = FirstStage {
        network: vqvae(1),
        metadata: metadata("of the VQ-VAE"),
    };
    first_stage.save(&folder, WeightsType::F32).expect("saved");
    for source in [ModelSource::Folder(folder), model] {
        let loaded = FirstStage::load(&source, &Device::flex()).expect("loads");
        assert_eq!(loaded.hash(), first_stage.hash());
        assert_eq!(loaded.metadata, first_stage.metadata);
    }
}

#[test]
fn the_hash_follows_what_decides_the_latents() {
    let hash = vqvae_hash(&vqvae(1));
    assert_eq!(hash.len(), 64);
    assert_eq!(hash, vqvae_hash(&vqvae(1)));
    assert_ne!(hash, vqvae_hash(&vqvae(2)));
    // The factor is measured on the latents, and does not change them.
    assert_eq!(hash, vqvae_hash(&vqvae(1).with_scaling_factor(3.0)));
    let other_groups = VqVaeConfig {
        norm_num_groups: 2,
        ..VqVaeConfig::from_json(&vqvae(1).config().to_json()).expect("a config")
    };
    let other = other_groups.init(&Device::flex(), 1).expect("a VQ-VAE");
    assert_ne!(hash, vqvae_hash(&other));
}

#[test]
fn files_in_memory_load_like_a_folder() {
    let (_around, source) = saved();
    let ModelSource::Folder(folder) = &source else {
        panic!("not a folder");
    };
    let read = |&file: &&str| (file.to_owned(), fs::read(folder.join(file)).expect(file));
    let files: BTreeMap<String, Vec<u8>> = FILES.iter().map(read).collect();
    let fetched = |files: &BTreeMap<String, Vec<u8>>| ModelSource::Memory {
        name: "the fetched model".to_owned(),
        files: (files.iter())
            .map(|(file, bytes)| (file.clone(), bytes.clone().into()))
            .collect(),
    };
    let loaded = load(&fetched(&files)).expect("loads");
    assert_eq!(denoise(&loaded.unet, 4), denoise(&unet(4, 2), 4));

    let weights = "vqvae/diffusion_pytorch_model.safetensors";
    let half = files[weights].len() / 2;
    let page = b"<!DOCTYPE html><html><body>not found</body></html>";
    for damage in [None, Some(&b""[..]), files[weights].get(..half), Some(page)] {
        let mut files = files.clone();
        match damage {
            Some(bytes) => files.insert(weights.to_owned(), bytes.to_vec()),
            None => files.remove(weights),
        };
        let message = load(&fetched(&files)).expect_err("damaged").to_string();
        let named = format!("{weights} of the fetched model");
        assert!(message.contains(&named), "{message}");
    }
    assert!(load(&fetched(&BTreeMap::new())).is_err());
}

#[test]
fn a_model_is_replaced_and_nothing_is_left_behind() {
    let (around, source) = saved();
    let folder = around.path().join("model");
    let mut other = latent_model();
    other.unet = unet(4, 9);
    other.save(&folder, WeightsType::F32).expect("saved");
    assert_eq!(
        denoise(&load(&source).expect("loads").unet, 4),
        denoise(&unet(4, 9), 4)
    );
    assert_eq!(names(around.path()), ["model"]);

    let empty = around.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    other
        .save(&empty, WeightsType::F32)
        .expect("an empty folder may be filled");
    let deep = around.path().join("not/yet/there");
    other
        .save(&deep, WeightsType::F32)
        .expect("folders are made");
}

#[cfg(unix)]
#[test]
fn a_model_may_be_read_by_whoever_may_read_other_folders() {
    use std::os::unix::fs::PermissionsExt;
    let (around, _) = saved();
    let ordinary = around.path().join("ordinary");
    fs::create_dir(&ordinary).expect("a folder");
    let mode = |folder: &Path| fs::metadata(folder).expect("a folder").permissions().mode();
    assert_eq!(mode(&around.path().join("model")), mode(&ordinary));
}

#[test]
fn a_failed_save_leaves_the_old_model() {
    let (around, source) = saved();
    let folder = around.path().join("model");
    let mut broken = latent_model();
    // Too large for half precision.
    if let Some(first_stage) = &mut broken.first_stage {
        let network = &mut first_stage.network;
        network.bottleneck = (network.bottleneck.clone()).with_codebook(numbers([12, 4]) * 1e30);
    }
    let problem = broken
        .save(&folder, WeightsType::F16)
        .expect_err("not finite");
    let message = problem.to_string();
    assert!(message.contains("quantize.embedding.weight"), "{message}");
    assert!(
        message.contains("model/vqvae/diffusion_pytorch_model.safetensors"),
        "{message}"
    );
    assert_eq!(names(around.path()), ["model"]);
    load(&source).expect("the old model");
}

#[test]
fn other_peoples_files_are_not_replaced() {
    let around = TempDir::new().expect("a temporary folder");
    fs::write(around.path().join("thesis.tex"), "years of work").expect("written");
    let problem = latent_model().save(around.path(), WeightsType::F32);
    let message = problem.expect_err("a stranger's folder").to_string();
    assert!(
        message.contains("holds \"thesis.tex\", which kiln did not write")
            && message.contains("choose another folder"),
        "{message}"
    );
    assert_eq!(names(around.path()), ["thesis.tex"]);

    let file = around.path().join("thesis.tex");
    assert!(latent_model().save(&file, WeightsType::F32).is_err());
    let inside = file.join("model");
    let message = latent_model()
        .save(&inside, WeightsType::F32)
        .expect_err("in a file")
        .to_string();
    assert!(message.contains("cannot write"), "{message}");
}

#[test]
fn networks_that_do_not_fit_are_refused_on_both_ways() {
    let (around, _) = saved();
    let folder = around.path().join("model");
    let mut misfit = latent_model();
    misfit.unet = unet(3, 2);
    let message = misfit
        .save(&around.path().join("misfit"), WeightsType::F32)
        .expect_err("3 is not 4")
        .to_string();
    assert!(
        message.contains("latents have 4 channels, but the U-Net takes 3"),
        "{message}"
    );

    let pixels = around.path().join("pixels");
    misfit.first_stage = None;
    misfit.save(&pixels, WeightsType::F32).expect("saved");
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        let unet = |folder: &Path| folder.join("unet").join(file);
        fs::copy(unet(&pixels), unet(&folder)).expect("copied");
    }
    let message = refusal(&folder);
    assert!(
        message.contains("latents have 4 channels, but the U-Net takes 3"),
        "{message}"
    );
}

#[test]
fn a_vqvae_that_was_exchanged_is_noticed() {
    let (around, _) = saved();
    let other = FirstStage {
        network: vqvae(77),
        metadata: Metadata::default(),
    };
    let (folder, saved) = (around.path().join("model"), around.path().join("other"));
    other.save(&saved, WeightsType::F32).expect("saved");
    fs::remove_dir_all(folder.join("vqvae")).expect("removed");
    fs::rename(saved, folder.join("vqvae")).expect("moved");
    let message = refusal(&folder);
    assert!(message.contains("trained with another VQ-VAE"), "{message}");
    assert!(message.contains(&other.hash()[..12]), "{message}");
    assert!(!message.contains(&other.hash()), "{message}");
}

#[test]
fn every_missing_file_is_named() {
    for file in FILES {
        let (around, _) = saved();
        let folder = around.path().join("model");
        fs::remove_file(folder.join(file)).expect("removed");
        let message = refusal(&folder);
        assert!(message.contains(file), "{message}");
        assert!(
            message.contains("lacks") || message.contains("not a diffusion model"),
            "{message}"
        );
        // A folder instead of the file is refused, too.
        fs::create_dir(folder.join(file)).expect("a folder");
        assert!(refusal(&folder).contains(file));
    }
}

#[test]
fn folders_that_are_no_models_are_said_to_be_none() {
    let around = TempDir::new().expect("a temporary folder");
    let message = refusal(around.path());
    assert!(
        message.contains("is not a diffusion model: it has no model_index.json"),
        "{message}"
    );
    let message = refusal(&around.path().join("nowhere"));
    assert!(message.contains("there is no folder"), "{message}");
    for path in ["nowhere", "."] {
        let source = ModelSource::Folder(around.path().join(path));
        assert!(FirstStage::load(&source, &Device::flex()).is_err());
    }
}

#[test]
fn every_damaged_file_is_named() {
    for file in FILES {
        let (around, _) = saved();
        let folder = around.path().join("model");
        let path = folder.join(file);
        let whole = fs::read(&path).expect(file);
        for damaged in [
            Vec::new(),
            b"<html>404</html>".to_vec(),
            vec![0xff; 100],
            whole[..whole.len() / 2].to_vec(),
            whole[..whole.len() - 3].to_vec(),
        ] {
            fs::write(&path, damaged).expect("written");
            assert!(refusal(&folder).contains(file), "{}", refusal(&folder));
        }
    }
}

#[test]
fn no_changed_byte_of_a_header_makes_a_panic() {
    let (around, source) = saved();
    for file in FILES {
        let path = around.path().join("model").join(file);
        let whole = fs::read(&path).expect(file);
        let step = if file.ends_with("safetensors") {
            131
        } else {
            7
        };
        for position in (0..whole.len().min(3000)).step_by(step) {
            let mut changed = whole.clone();
            changed[position] ^= 0x15;
            fs::write(&path, changed).expect("written");
            // A digit or a letter of a note may change without harm; every result is a value.
            if let Err(problem) = load(&source) {
                assert!(!problem.to_string().is_empty());
            }
        }
        fs::write(&path, whole).expect("written");
    }
    load(&source).expect("restored");
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        ("model_index.json", "LDMPipeline", "StableDiffusionPipeline"),
        ("model_index.json", "VQModel", "AutoencoderKL"),
        ("model_index.json", "UNet2DModel", "UNet2DConditionModel"),
        ("model_index.json", "DDIMScheduler", "KarrasVePipeline"),
        (
            "scheduler/scheduler_config.json",
            "DDIMScheduler",
            "TCDScheduler",
        ),
        (
            "vqvae/config.json",
            "DownEncoderBlock2D",
            "DownSpatialBlock2D",
        ),
        ("unet/config.json", "AttnDownBlock2D", "SkipDownBlock2D"),
        ("unet/config.json", "\"UNet2DModel\"", "\"UNet1DModel\""),
        (
            "scheduler/scheduler_config.json",
            "v_prediction",
            "flow_prediction",
        ),
    ];
    for (file, from, to) in cases {
        let (around, _) = saved();
        let folder = around.path().join("model");
        edit(&folder, file, from, to);
        let message = refusal(&folder);
        assert!(
            message.contains(file) && message.contains(to.trim_matches('"')),
            "{message}"
        );
    }
}

#[test]
fn weights_of_another_shape_are_refused() {
    let (around, _) = saved();
    let folder = around.path().join("model");
    edit(
        &folder,
        "vqvae/config.json",
        "\"num_vq_embeddings\": 12",
        "\"num_vq_embeddings\": 13",
    );
    let message = refusal(&folder);
    assert!(message.contains("quantize.embedding.weight"), "{message}");
    // An absurd size is refused before anything is allocated.
    edit(
        &folder,
        "vqvae/config.json",
        "\"num_vq_embeddings\": 13",
        "\"num_vq_embeddings\": 4000000",
    );
    assert!(refusal(&folder).contains("quantize.embedding.weight"));
}

#[test]
fn a_huge_config_is_not_read() {
    let (around, _) = saved();
    let folder = around.path().join("model");
    let file = fs::File::create(folder.join("unet/config.json")).expect("created");
    file.set_len(1 << 40).expect("a sparse file");
    let message = refusal(&folder);
    assert!(
        message.contains("unet/config.json has 1099511627776 bytes"),
        "{message}"
    );
}

/// Saves a model of classes with other facts in its header.
fn with_facts(edit: impl Fn(&mut DiffusionModel)) -> Result<DiffusionModel, String> {
    let mut model = latent_model();
    model.first_stage = None;
    edit(&mut model);
    let around = TempDir::new().unwrap();
    let folder = around.path().join("model");
    model.save(&folder, WeightsType::F32).unwrap();
    load(&ModelSource::Folder(folder)).map_err(|error| error.to_string())
}

#[test]
fn facts_that_contradict_the_networks_are_refused() {
    let side =
        |model: &DiffusionModel| model.unet.config().sample_size.unwrap().height_and_width()[0];
    assert!(with_facts(|model| model.metadata.border = side(model) / 2 - 1).is_ok());
    for border in [0, 1, usize::MAX / 4] {
        let refused = with_facts(|model| model.metadata.border = side(model) / 2 + border);
        let sentence = refused.unwrap_err();
        assert!(
            sentence.contains("`kiln.border`") && sentence.contains("less than half"),
            "{sentence}"
        );
    }
    for (names, is_right) in [(1, false), (4, true), (5, false)] {
        let loaded = with_facts(|model| {
            let config = UNet2dConfig {
                num_class_embeds: Some(4),
                ..model.unet.config().clone()
            };
            model.unet = config.init(&Device::flex(), 0).unwrap();
            model.metadata.class_names = (0..names).map(|name| format!("class {name}")).collect();
        });
        assert_eq!(loaded.is_ok(), is_right, "{names}");
    }
    // For a latent model the autoencoder's border counts, on images that are larger than the latents.
    let mut model = latent_model();
    model.first_stage.as_mut().unwrap().metadata.border = 1 << 20;
    let around = TempDir::new().unwrap();
    let folder = around.path().join("model");
    model.save(&folder, WeightsType::F32).unwrap();
    let sentence = refusal(&folder);
    assert!(sentence.contains("`kiln.border`"), "{sentence}");
}

#[test]
fn whole_numbers_beside_weights_and_unknown_nulls_are_passed_over() {
    let (around, source) = saved();
    let folder = around.path().join("model/unet");
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    let add = |kind, shape: &[usize], data: &[u8]| {
        let bytes = fs::read(&weights).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = TensorView::new(kind, shape.to_vec(), data).unwrap();
        let added = [("time_proj.steps".to_owned(), view)];
        let tensors = file.iter().map(|(key, tensor)| (key.to_owned(), tensor));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let bytes =
            safetensors::serialize(tensors.chain(added), header.metadata().clone()).unwrap();
        fs::write(&weights, bytes).unwrap();
    };
    let before = fs::read(&weights).unwrap();
    edit(&folder, "config.json", "{", "{\"a_later_option\": null,");
    add(Dtype::I64, &[2], &[1; 16]);
    load(&source).unwrap();
    // But not floats, which would be another network's weights.
    fs::write(&weights, before).unwrap();
    add(Dtype::F32, &[2], &[0; 8]);
    assert!(
        load(&source)
            .unwrap_err()
            .to_string()
            .contains("time_proj.steps")
    );
}

#[test]
fn a_hash_that_is_none_is_refused() {
    for hash in ["abc", "\u{1b}[2J", &"g".repeat(64)] {
        let (_around, source) = saved();
        let ModelSource::Folder(folder) = &source else {
            unreachable!("it was saved to one")
        };
        let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&weights).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let mut facts = header.metadata().clone().unwrap();
        facts.insert("kiln.vqvae_hash".to_owned(), hash.to_owned());
        let file = SafeTensors::deserialize(&bytes).unwrap();
        fs::write(
            &weights,
            safetensors::serialize(file.iter(), Some(facts)).unwrap(),
        )
        .unwrap();
        let sentence = refusal(folder);
        assert!(
            sentence.contains("`kiln.vqvae_hash`") && !sentence.contains('\u{1b}'),
            "{sentence}"
        );
    }
}
