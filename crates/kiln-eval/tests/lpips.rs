//! LPIPS against the package `lpips`, for backbones with weights from a hash: `tests/fixtures/perceptual/make.py` has the
//! same hash.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_data::NoProgress;
use kiln_eval::{EvalError, PerceptualKind, PerceptualNetwork};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const KINDS: [PerceptualKind; 3] = [
    PerceptualKind::LpipsVgg16,
    PerceptualKind::LpipsAlexnet,
    PerceptualKind::LpipsSqueezenet,
];

/// torchvision's keys of the convolutions of each network, with channels out, channels in, and side.
fn convolutions(kind: PerceptualKind) -> Vec<(String, [usize; 3])> {
    let plain = |layers: &[(usize, [usize; 3])]| {
        let named = layers.iter();
        named
            .map(|&(number, shape)| (format!("features.{number}"), shape))
            .collect()
    };
    match kind {
        PerceptualKind::LpipsVgg16 => plain(&[
            (0, [64, 3, 3]),
            (2, [64, 64, 3]),
            (5, [128, 64, 3]),
            (7, [128, 128, 3]),
            (10, [256, 128, 3]),
            (12, [256, 256, 3]),
            (14, [256, 256, 3]),
            (17, [512, 256, 3]),
            (19, [512, 512, 3]),
            (21, [512, 512, 3]),
            (24, [512, 512, 3]),
            (26, [512, 512, 3]),
            (28, [512, 512, 3]),
        ]),
        PerceptualKind::LpipsAlexnet => plain(&[
            (0, [64, 3, 11]),
            (3, [192, 64, 5]),
            (6, [384, 192, 3]),
            (8, [256, 384, 3]),
            (10, [256, 256, 3]),
        ]),
        _ => {
            let mut all: Vec<(String, [usize; 3])> = plain(&[(0, [64, 3, 3])]);
            for (number, channels_in, between, out) in [
                (3, 64, 16, 64),
                (4, 128, 16, 64),
                (6, 128, 32, 128),
                (7, 256, 32, 128),
                (9, 256, 48, 192),
                (10, 384, 48, 192),
                (11, 384, 64, 256),
                (12, 512, 64, 256),
            ] {
                let name = |part: &str| format!("features.{number}.{part}");
                all.push((name("squeeze"), [between, channels_in, 1]));
                all.push((name("expand1x1"), [out, between, 1]));
                all.push((name("expand3x3"), [out, between, 3]));
            }
            all
        }
    }
}

/// Numbers in [-1, 1), by a hash of each number's place and the name.
fn hashed(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0x811c_9dc5_u32, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let number = |place: usize| {
        let mut x = (place as u32)
            .wrapping_mul(2_654_435_761)
            .wrapping_add(seed);
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
        }
        x ^= x >> 16;
        (x >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(number).collect()
}

/// A file of weights, changed by `change`.
fn write_weights(
    kind: PerceptualKind,
    path: &Path,
    change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<u8>)>),
) {
    let mut tensors = BTreeMap::new();
    for (name, [out, channels_in, side]) in convolutions(kind) {
        let fan_in = channels_in * side * side;
        for (part, shape, bound) in [
            (
                "weight",
                vec![out, channels_in, side, side],
                (6.0 / fan_in as f64).sqrt() as f32,
            ),
            ("bias", vec![out], 0.1),
        ] {
            let key = format!("{name}.{part}");
            let values = hashed(&key, shape.iter().product());
            let bytes = values
                .iter()
                .flat_map(|value| (value * bound).to_le_bytes())
                .collect();
            tensors.insert(key, (shape, bytes));
        }
    }
    change(&mut tensors);
    let views = tensors.iter().map(|(key, (shape, bytes))| {
        (
            key,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn open(kind: PerceptualKind, path: &Path) -> Result<PerceptualNetwork, EvalError> {
    PerceptualNetwork::open(kind, Some(path), &Device::flex(), &NoProgress)
}

fn network(kind: PerceptualKind) -> PerceptualNetwork {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_weights(kind, &path, |_| ());
    open(kind, &path).unwrap()
}

/// Two pairs, as in make.py: of alike images, and of different ones.
fn images([height, width]: [usize; 2], device: &Device) -> [Tensor<4>; 2] {
    let count = 3 * height * width;
    let (first, noise) = (hashed("images", 2 * count), hashed("others", 2 * count));
    let others = first
        .iter()
        .zip(&noise)
        .enumerate()
        .map(|(place, (first, noise))| {
            let share = if place < count { 0.25 } else { 1.0 };
            first * (1.0 - share) + noise * share
        });
    let others = others.collect();
    [first, others].map(|values: Vec<f32>| {
        Tensor::from_data(TensorData::new(values, [2, 3, height, width]), device)
    })
}

fn numbers(file: &SafeTensors, key: &str) -> Vec<f32> {
    let data = file.tensor(key).unwrap().data().to_vec();
    let fours = data.as_chunks().0.iter();
    fours.map(|&four| f32::from_le_bytes(four)).collect()
}

fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| (ours - theirs).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn distances_and_gradients_are_those_of_the_package() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/perceptual");
    let bytes = std::fs::read(root.join("lpips.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let device = Device::flex().autodiff();
    for kind in KINDS {
        let network = network(kind);
        for size @ [height, width] in [[64, 64], [45, 50], [31, 33]] {
            let key = format!("{kind}.{height}x{width}");
            let theirs = numbers(&file, &key);
            let [images, others] = images(size, &device);
            let images = images.require_grad();
            let ours = network.distances(images.clone(), others.clone());
            let values: Vec<f32> = ours.clone().into_data().iter().collect();
            assert!(
                largest_difference(&values, &theirs) < 1e-5,
                "{key}: {values:?} {theirs:?}"
            );
            if size != [31, 33] {
                continue;
            }
            let gradients = network.distance(images.clone(), others).backward();
            let ours: Vec<f32> = images
                .grad(&gradients)
                .unwrap()
                .into_data()
                .iter()
                .collect();
            let theirs = numbers(&file, &format!("{key}.gradient"));
            let scale = theirs
                .iter()
                .fold(0.0_f32, |most, number| most.max(number.abs()));
            let difference = largest_difference(&ours, &theirs);
            assert!(
                difference < 1e-5 && difference < 1e-3 * scale,
                "{key}: {difference} of {scale}"
            );
        }
    }
}

#[test]
fn alike_images_have_no_distance_and_gray_ones_are_read_as_three_equal_channels() {
    let device = Device::flex();
    let network = network(PerceptualKind::LpipsSqueezenet);
    let [images, others] = images([20, 20], &device);
    let zeros = network
        .distances(images.clone(), images.clone())
        .into_data();
    assert_eq!(zeros.iter::<f32>().collect::<Vec<_>>(), [0.0, 0.0]);
    let (images, others) = (images.narrow(1, 0, 1), others.narrow(1, 0, 1));
    let gray = network.distance(images.clone(), others.clone());
    let colour = network.distance(images.repeat_dim(1, 3), others.repeat_dim(1, 3));
    let (gray, colour) = (gray.into_scalar::<f32>(), colour.into_scalar::<f32>());
    assert!(
        gray > 0.0 && (gray - colour).abs() < 1e-6,
        "{gray} {colour}"
    );
}

#[test]
fn a_network_that_moves_to_a_training_device_stays_frozen() {
    let device = Device::flex().autodiff();
    let network = network(PerceptualKind::LpipsSqueezenet);
    let [images, others] = images([20, 20], &device);
    let expected = network
        .distances(images.clone(), others.clone())
        .into_data();
    for moved in [
        network.clone().to_device(&device),
        network.clone().fork(&device),
        network.clone().train(),
        network.train().valid(),
    ] {
        let images = images.clone().require_grad();
        let distances = moved.distances(images.clone(), others.clone());
        assert_eq!(distances.clone().into_data(), expected);
        let gradients = distances.sum().backward();
        assert!(images.grad(&gradients).is_some());
        assert!(GradientsParams::from_grads(gradients, &moved).is_empty());
    }
}

/// Where all features are 0 their norm has no derivative.
#[test]
fn flat_images_have_finite_gradients() {
    let device = Device::flex().autodiff();
    for kind in KINDS {
        let network = network(kind);
        let black = Tensor::<4>::full([1, 3, 32, 32], -1.0, &device).require_grad();
        let white = Tensor::<4>::ones([1, 3, 32, 32], &device);
        let gradients = network.distance(black.clone(), white).backward();
        let sum = black
            .grad(&gradients)
            .unwrap()
            .abs()
            .sum()
            .into_scalar::<f32>();
        assert!(sum.is_finite() && sum > 0.0, "{kind}: {sum}");
    }
}

#[test]
fn images_are_read_down_to_the_size_that_the_refusal_names() {
    for kind in KINDS {
        let network = network(kind);
        let smallest = (1..64)
            .find(|&side| network.check(3, side, 64).is_ok())
            .unwrap();
        let images = Tensor::<4>::ones([1, 1, smallest, smallest], &Device::flex());
        let distance = network
            .distance(images.clone(), images * -1.0)
            .into_scalar::<f32>();
        assert!(distance > 0.0, "{kind} at {smallest}: {distance}");
        let sentence = network.check(3, 64, smallest - 1).unwrap_err().to_string();
        assert!(
            sentence.contains(&format!("at least {smallest}x{smallest}")),
            "{sentence}"
        );
        assert!(network.check(4, 64, 64).is_err());
        assert!(network.check(3, 64, 64).is_ok() && network.check(1, 32, 32).is_ok());
    }
}

#[test]
fn files_without_the_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let kind = PerceptualKind::LpipsSqueezenet;
    let refusal = || open(kind, &path).unwrap_err().to_string();
    assert!(refusal().contains("weights.safetensors"), "{}", refusal());
    for bytes in [
        &b""[..],
        b"\x02\0\0\0\0\0\0\0{}",
        b"not weights",
        b"\x80\x02}q\0.",
        b"PK\x03\x04",
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(
            refusal().contains("weights.safetensors"),
            "{bytes:?}: {}",
            refusal()
        );
    }
    write_weights(PerceptualKind::LpipsAlexnet, &path, |_| ());
    assert!(
        refusal().contains("squeezenet1_1-b8a52dc0.pth"),
        "{}",
        refusal()
    );
    write_weights(kind, &path, |tensors| {
        tensors.remove("features.12.expand3x3.bias");
    });
    assert!(
        refusal().contains("features.12.expand3x3.bias is missing"),
        "{}",
        refusal()
    );
    write_weights(kind, &path, |tensors| {
        tensors.insert("features.13.weight".to_owned(), (vec![1], vec![0; 4]));
    });
    assert!(
        refusal().contains("it has features.13.weight, too"),
        "{}",
        refusal()
    );
    write_weights(kind, &path, |tensors| {
        let (_, bytes) = tensors.get_mut("features.0.bias").unwrap();
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(
        refusal().contains("features.0.bias has numbers that are not finite"),
        "{}",
        refusal()
    );
    // What belongs to other layers than the features is not looked at.
    write_weights(kind, &path, |tensors| {
        tensors.insert("classifier.1.weight".to_owned(), (vec![1], vec![0; 4]));
    });
    let network = open(kind, &path).unwrap();
    assert_eq!(
        network.identity(),
        format!("lpips-squeezenet-{:.12}", network.sha256())
    );
    assert!(
        network.description().contains("not comparable"),
        "{}",
        network.description()
    );
    assert_eq!(network.sha256(), kiln_data::sha256_of_file(&path).unwrap());
}
