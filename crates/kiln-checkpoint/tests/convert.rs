//! Converts checkpoints with CompVis' names, made by `tests/fixtures/convert/make.py`, into models in the diffusers
//! layout that compute the same as diffusers.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use kiln_checkpoint::{
    CheckpointError, ConvertOptions, Converted, DiffusionModel, FirstStage, ModelSource, convert,
};
use kiln_diffusion::ScheduleKind;
use kiln_diffusion::schedule::BetaRange;
use kiln_models::WeightsType;
use safetensors::SafeTensors;
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

const OPTIONS: ConvertOptions = ConvertOptions {
    head_channels: 16,
    image_size: 16,
};

fn fixture(file: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/convert");
    Path::new(folder).join(file)
}

fn expected<const D: usize>(name: &str) -> Tensor<D> {
    let bytes = fs::read(fixture("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let numbers = tensor.data().as_chunks().0.iter();
    let numbers: Vec<f32> = numbers.map(|&four| f32::from_le_bytes(four)).collect();
    let data = TensorData::new(numbers, tensor.shape().to_vec());
    Tensor::from_data(data, &Device::flex())
}

fn assert_near(found: Tensor<4>, name: &str) {
    let expected = expected(name);
    assert_eq!(found.dims(), expected.dims());
    let greatest = expected.clone().abs().max().into_scalar::<f32>();
    let error = (found - expected).abs().max().into_scalar::<f32>() / greatest;
    println!("{name}: {error:.1e}");
    assert!(error < 1e-5, "{name} is {error:e} off");
}

fn converted(file: &str, options: ConvertOptions) -> Result<Converted, CheckpointError> {
    convert(&fixture(file), options, &Device::flex())
}

/// The written model loads again.
fn written(converted: &Converted) -> (TempDir, ModelSource) {
    let around = TempDir::new().unwrap();
    let folder = around.path().join("model");
    converted.save(&folder, WeightsType::F32).unwrap();
    (around, ModelSource::Folder(folder))
}

#[test]
fn a_latent_diffusion_model() {
    let converted = converted("latent-diffusion.ckpt", OPTIONS).unwrap();
    let (_around, source) = written(&converted);
    let model = DiffusionModel::load(&source, &Device::flex()).unwrap();

    let schedule = &model.scheduler.schedule;
    let range = BetaRange {
        beta_start: 0.0015,
        beta_end: 0.0195,
        scale_betas: false,
    };
    assert_eq!(schedule.kind, ScheduleKind::ScaledLinear(range));
    assert_eq!(model.scheduler.clip, None);
    // The moving average: the weights themselves are all zero.
    let prediction = model
        .unet
        .forward(expected("sample"), expected("timesteps"), None);
    assert_near(prediction, "prediction");
    let network = model.first_stage.unwrap().network;
    assert_eq!(
        (network.config().class(), network.config().scaling_factor()),
        ("VQModel", 0.25)
    );
    assert_near(network.decode(expected("latents")), "decoded");
}

#[test]
fn an_autoencoder_alone() {
    let converted = converted("autoencoder-kl.ckpt", OPTIONS).unwrap();
    let (_around, source) = written(&converted);
    let network = FirstStage::load(&source, &Device::flex()).unwrap().network;
    assert_eq!(network.config().class(), "AutoencoderKL");
    assert_near(network.encode(expected("image")), "encoded");
}

/// The fixture `file` with its pickle edited.
fn edited(file: &str, edit: impl Fn(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let around = TempDir::new().unwrap();
    let path = around.path().join("edited.ckpt");
    let mut from = zip::ZipArchive::new(fs::File::open(fixture(file)).unwrap()).unwrap();
    let mut to = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    for index in 0..from.len() {
        let mut entry = from.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if name.ends_with("data.pkl") {
            edit(&mut bytes);
        }
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        to.start_file(name, stored).unwrap();
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap();
    (around, path)
}

#[test]
fn keys_that_are_no_names_are_passed_over() {
    // Into the outermost dictionary: a class, a truth value, a float, None, a tuple, and a number too long for a key.
    let pairs: [&[u8]; 6] = [
        b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n}",
        b"\x88N",
        b"G\x3f\xf0\0\0\0\0\0\0]",
        b"NK\x01",
        b"K\x01X\x01\0\0\0a\x86}",
        b"\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09N",
    ];
    let (_around, path) = edited("latent-diffusion.ckpt", |pickle| {
        let begin = b"\x80\x02}q\0(";
        assert!(pickle.starts_with(begin));
        pickle.splice(begin.len()..begin.len(), pairs.concat());
    });
    let Converted::Model(model) = convert(&path, OPTIONS, &Device::flex()).unwrap() else {
        panic!("no model")
    };
    let (sample, timesteps) = (expected("sample"), expected("timesteps"));
    assert_near(model.unet.forward(sample, timesteps, None), "prediction");
    // The file that users met, if it exists here.
    let trouble = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/trouble");
    let met = trouble.join("ckpt/class_key.ckpt");
    match met.exists() {
        true => drop(convert(&met, OPTIONS, &Device::flex()).unwrap()),
        false => println!("skipped: no {}", met.display()),
    }
}

#[test]
fn checkpoints_are_known_by_their_contents() {
    let around = TempDir::new().unwrap();
    let path = around.path().join("model.safetensors");
    fs::copy(fixture("autoencoder-kl.ckpt"), &path).unwrap();
    assert!(convert(&path, OPTIONS, &Device::flex()).is_ok());
    let path = around.path().join("model.ckpt");
    fs::copy(fixture("expected.safetensors"), &path).unwrap();
    let refused = convert(&path, OPTIONS, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(!refused.contains("damaged"), "{refused}");
    // A hole instead of a header.
    for name in ["hole.safetensors", "hole.ckpt"] {
        let path = around.path().join(name);
        fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(convert(&path, OPTIONS, &Device::flex()).is_err());
    }
}

#[test]
fn what_does_not_map_is_named() {
    let refusal = |file: &str, options| converted(file, options).unwrap_err().to_string();
    let message = refusal("lucidrains.pt", OPTIONS);
    for part in ["init_conv.weight`", "[8, 3, 7, 7]"] {
        assert!(message.contains(part), "{message}");
    }
    // Heads of 48 channels do not divide 32.
    let other_heads = ConvertOptions {
        head_channels: 48,
        ..OPTIONS
    };
    let message = refusal("latent-diffusion.ckpt", other_heads);
    assert!(message.contains("`attention_head_dim` = 48"), "{message}");
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    let around = TempDir::new().unwrap();
    let refusal = |name: &str, contents: &[u8]| {
        let path = around.path().join(name);
        fs::write(&path, contents).unwrap();
        let refused = convert(&path, OPTIONS, &Device::flex()).unwrap_err();
        refused.to_string()
    };
    for (name, contents) in [
        ("a.ckpt", &b"no pickle"[..]),
        ("a.md", b"changes of 1.2\n\n- none\n"),
        ("a.json", b"{\"a\": 1}"),
        ("a.pt", b""),
        ("a.safetensors", b""),
        ("b.safetensors", b"random bytes"),
    ] {
        let sentence = refusal(name, contents);
        assert!(sentence.contains("is not a checkpoint"), "{sentence}");
    }
    // What begins as a checkpoint is one that is damaged.
    for (name, contents) in [
        ("a.ckpt", &b"\x80\x02}q"[..]),
        ("a.safetensors", b"\x80\x01\0\0\0\0\0\0{\"a\""),
    ] {
        let sentence = refusal(name, contents);
        assert!(sentence.contains("is damaged"), "{sentence}");
    }
    assert!(refusal("b.ckpt", b"\x80\x02}.").contains("no network"));
    let code = refusal("d.ckpt", b"cposix\nsystem\n(S'true'\ntR.");
    assert!(code.contains("would run `posix.system`"), "{code}");
    let gone = convert(&around.path().join("gone.ckpt"), OPTIONS, &Device::flex());
    assert!(gone.is_err());
    let of_folder = |folder: &Path| convert(folder, OPTIONS, &Device::flex()).unwrap_err();
    let sentence = of_folder(around.path()).to_string();
    assert!(
        sentence.ends_with("is a folder; give the file of the checkpoint"),
        "{sentence}"
    );
    let (model, _) = written(&converted("autoencoder-kl.ckpt", OPTIONS).unwrap());
    let sentence = of_folder(&model.path().join("model")).to_string();
    assert!(sentence.contains("needs no conversion"), "{sentence}");
}
