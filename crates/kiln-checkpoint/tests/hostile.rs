//! Malicious models, and models from a broken disk: each is refused with a sentence, and nothing in it is run, followed
//! or given memory.

mod victim;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use victim::{FILES, Victim, load, model};

const WEIGHTS: &str = FILES[3];
const PICKLE: &str = FILES[4];
const INDEX: &str = FILES[5];

/// Asserts that a model does not load, and that the error is one sentence with all of these words.
fn assert_refused(folder: &Path, words: &[&str]) {
    let sentence = match load(folder) {
        Ok(_) => panic!("{words:?}: it loads"),
        Err(sentence) => sentence,
    };
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

/// A safetensors file with this header, the stated header length `length`, and `data` zeros.
fn safetensors(header: &str, length: u64, data: usize) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn safetensors_with_lying_headers() {
    let folder = model();
    let tensor = |shape: Value, offsets: [u64; 2]| {
        let header =
            json!({"conv_in.bias": {"dtype": "F32", "shape": shape, "data_offsets": offsets}});
        header.to_string()
    };
    let overlap = json!({
        "conv_in.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "conv_out.bias": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    });
    let honest = |header: String, data| {
        let length = header.len() as u64;
        safetensors(&header, length, data)
    };
    let files = [
        // Headers that are longer than the file, longer than memory, or not JSON.
        safetensors("{}", 1 << 20, 0),
        safetensors("{}", u64::MAX, 0),
        safetensors("{]", 2, 0),
        vec![],
        vec![1, 2, 3],
        // Offsets that overlap, run backwards, leave the file, or overflow with the shape.
        honest(overlap.to_string(), 24),
        honest(tensor(json!([4]), [16, 0]), 16),
        honest(tensor(json!([4]), [0, 1 << 40]), 16),
        honest(tensor(json!([4]), [0, u64::MAX]), 16),
        honest(tensor(json!([u64::MAX, 2]), [0, 16]), 16),
        honest(tensor(json!([1u64 << 62, 4]), [0, 16]), 16),
        // Too few numbers for the shape.
        honest(tensor(json!([400]), [0, 16]), 16),
    ];
    for (index, bytes) in files.into_iter().enumerate() {
        fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        let sentence = load(folder.path()).map(drop).unwrap_err();
        assert!(sentence.contains("is damaged"), "{index}: {sentence}");
    }
}

/// Changes the tensors of the valid model's weights.
fn edit_weights(folder: &Path, edit: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>)) {
    let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let edited: Vec<_> = file
        .iter()
        .map(|(key, tensor)| {
            let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
            edit(key, &mut shape, &mut data);
            (key, tensor.dtype(), shape, data)
        })
        .collect();
    let views = edited.iter().map(|(key, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap();
        (*key, view)
    });
    fs::write(
        folder.join(WEIGHTS),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
}

#[test]
fn weights_that_are_no_numbers_or_of_another_shape() {
    let folder = model();
    edit_weights(folder.path(), |key, _, data| {
        if key == "conv_out.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    assert_refused(folder.path(), &["`conv_out.weight`", "NaN"]);

    let folder = model();
    edit_weights(folder.path(), |key, shape, _| {
        if key == "conv_out.weight" {
            shape.swap(0, 1);
        }
    });
    assert_refused(
        folder.path(),
        &["`conv_out.weight`", "[4, 1, 3, 3]", "[1, 4, 3, 3]"],
    );
}

#[test]
fn a_file_that_is_larger_than_the_network_could_need() {
    let folder = model();
    let file = fs::File::create(folder.path().join(WEIGHTS)).unwrap();
    // A hole takes no room on the disk.
    file.set_len(1 << 40).unwrap();
    assert_refused(folder.path(), &["1099511627776 bytes"]);
}

#[test]
fn configs_of_absurd_sizes() {
    for (key, value) in [
        ("block_out_channels", json!([16_384, 16_384])),
        ("block_out_channels", json!([1u64 << 40, 8])),
        ("layers_per_block", json!(1u64 << 40)),
        ("in_channels", json!(1u64 << 60)),
        ("num_class_embeds", json!(1u64 << 50)),
        ("time_embedding_dim", json!(1u64 << 50)),
        ("sample_size", json!([8, 1u64 << 62])),
        ("mid_block_scale_factor", json!(1e-300)),
        ("norm_eps", json!(1e-300)),
    ] {
        let folder = model();
        let path = folder.path().join("unet/config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert_refused(folder.path(), &["config"]);
    }
    // A config that is not a config is not read, either.
    let folder = model();
    let file = fs::File::create(folder.path().join("unet/config.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_refused(folder.path(), &["unet/config.json", "too many"]);
}

#[test]
fn an_index_that_leads_elsewhere() {
    let secret = TempDir::new().unwrap();
    fs::write(secret.path().join("weights.safetensors"), b"secret").unwrap();
    let absolute = secret.path().join("weights.safetensors");
    for shard in [
        "../../etc/passwd",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..\\weights.safetensors",
        absolute.to_str().unwrap(),
    ] {
        let folder = model();
        fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        let index = json!({"weight_map": {"conv_in.weight": shard}});
        fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
        assert_refused(folder.path(), &["weights must be beside their index"]);
    }
}

#[test]
fn an_index_that_is_none_or_names_what_is_not_there() {
    for (index, words) in [
        (
            json!({"weight_map": {"conv_in.weight": "gone.safetensors"}}),
            "lacks",
        ),
        (
            json!({"weight_map": {"conv_in.weight": 7}}),
            "is no file name",
        ),
        (json!({"weight_map": []}), "no `weight_map`"),
        (json!({}), "no `weight_map`"),
    ] {
        let folder = model();
        fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
        assert_refused(folder.path(), &[words]);
    }
}

/// A model whose weights are a pickle of these bytes.
fn with_pickle(bytes: &[u8]) -> TempDir {
    let folder = model();
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    fs::write(folder.path().join(PICKLE), bytes).unwrap();
    folder
}

#[test]
fn pickles_with_code_are_refused_and_not_run() {
    let around = TempDir::new().unwrap();
    let proof = around.path().join("proof");
    let command = format!("touch {}", proof.display());
    let protocol_0 = format!("cposix\nsystem\n(S'{command}'\ntR.");
    let mut protocol_4 = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c".to_vec();
    protocol_4.push(command.len() as u8);
    protocol_4.extend(command.as_bytes());
    protocol_4.extend(b"\x94\x85\x94R\x94.");
    // The result of the call is thrown away, and an empty dictionary of weights is left.
    let discarded = format!("cposix\nsystem\n(S'{command}'\ntR0}}.");
    for pickle in [protocol_0.as_bytes(), &protocol_4, discarded.as_bytes()] {
        let folder = with_pickle(pickle);
        assert_refused(folder.path(), &["would run `posix.system`"]);
        // The same inside the archive that current PyTorch writes.
        let folder = with_pickle(&zipped(pickle));
        assert_refused(folder.path(), &["would run `posix.system`"]);
    }
    assert!(!proof.exists(), "code was run");
}

/// A pickle in an archive like PyTorch's, but compressed.
fn zipped(pickle: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("archive/data.pkl", options).unwrap();
    std::io::Write::write_all(&mut archive, pickle).unwrap();
    archive.finish().unwrap().into_inner()
}

#[test]
fn pickles_that_reach_code_by_way_of_a_harmless_module() {
    for module in [
        "typing",
        "collections",
        "omegaconf.base",
        "pytorch_lightning.callbacks.timer",
    ] {
        let name = "operator.attrgetter\u{1b}[2J";
        let mut pickle = b"\x80\x04\x8c".to_vec();
        pickle.push(module.len() as u8);
        pickle.extend(module.bytes());
        pickle.extend([0x8c, name.len() as u8]);
        pickle.extend(name.bytes());
        pickle.extend(b"\x93\x8c\x06system\x85R0}.");
        let folder = with_pickle(&pickle);
        // Control characters are escaped in the message.
        let expected = format!("would run `{module}.operator.attrgetter\\u{{1b}}[2J`");
        assert_refused(folder.path(), &[&expected]);
    }
}

#[test]
fn pickles_that_would_fill_the_memory() {
    let text = |length: u32| {
        let text = vec![b'a'; length as usize];
        [&b"X"[..], &length.to_le_bytes(), &text].concat()
    };
    let begin = b"\x80\x04".to_vec();
    let long = text(100_000);
    let all = |parts: &[&[u8]]| parts.concat();
    let bombs = [
        // A text that is stored, fetched, or both again and again.
        all(&[&begin, &long, &b"\x94".repeat(100_000), b"."]),
        all(&[&begin, &long, b"\x94", &b"h\0".repeat(100_000), b"."]),
        all(&[&begin, b"]", &long, b"\x94", &b"h\0a".repeat(100_000), b"."]),
        // Lists of lists of lists: 2^60 in the end, and one that contains itself.
        all(&[&begin, b"]", &b"\x94]h\0ah\0a".repeat(60), b"."]),
        all(&[&begin, b"}\x94K\x01h\0s."]),
        all(&[&begin, b"}K\x01", &b"]\x94h\0\x86".repeat(60), b"s."]),
        all(&[&begin, b"N\x94", &b"0h\0h\0\x86q\0".repeat(60), b"."]),
        // Very deep nesting.
        all(&[&begin, b")", &b"\x85".repeat(1_000_000), b"."]),
        all(&[&begin, b"}", &b"K\x01}".repeat(1_000_000), b"."]),
        // Many small values.
        all(&[&begin, &b"]".repeat(6_000_000), b"."]),
        all(&[&begin, &b"}".repeat(6_000_000), b"."]),
        all(&[&begin, &b"ctorch\nSize\n".repeat(500_000), b"."]),
    ];
    for (number, bomb) in bombs.iter().enumerate() {
        let folder = with_pickle(bomb);
        let sentence = load(folder.path()).map(drop).unwrap_err();
        assert!(!sentence.is_empty(), "{number}");
        // The archive is far smaller, and must not expand to something large.
        let folder = with_pickle(&zipped(bomb));
        let sentence = load(folder.path()).map(drop).unwrap_err();
        let is_large = bomb.len() > 1 << 20;
        assert!(
            !is_large || sentence.contains("larger than the file"),
            "{number}: {sentence}"
        );
    }
}

#[test]
fn files_that_are_something_else_are_said_to_be_so() {
    for (contents, words) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 143200\n"[..],
            "git lfs pull",
        ),
        (b"<!DOCTYPE html><html>404", "HTML page"),
        (b"\n<html><body>Log in", "HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd\x04\x58\x21\0", "compressed by zstd"),
    ] {
        for file in FILES {
            let sentence = Victim::new(file).load_with(contents).map(drop).unwrap_err();
            assert!(
                sentence.contains(words)
                    && sentence.contains(file)
                    && !sentence.contains("damaged"),
                "{sentence}"
            );
        }
    }
    // Archives of weights in forms that are not supported.
    let mut archive = zipped(b"\x80\x02}.");
    // The method of compression, in both headers of the entry: 12 is bzip2.
    let central = archive
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    for place in [8, central + 10] {
        archive[place..place + 2].copy_from_slice(&12u16.to_le_bytes());
    }
    let folder = with_pickle(&archive);
    let sentence = load(folder.path()).map(drop).unwrap_err();
    assert!(
        sentence.contains("is compressed by") && !sentence.contains("damaged"),
        "{sentence}"
    );
    // The flag for a password.
    let mut archive = zipped(b"\x80\x02}.");
    for place in [6, central + 8] {
        archive[place] |= 1;
    }
    let folder = with_pickle(&archive);
    assert_refused(folder.path(), &["has a password"]);
}

#[cfg(unix)]
#[test]
fn files_without_an_end_are_not_read() {
    for file in FILES {
        let folder = model();
        let path = folder.path().join(file);
        if file.starts_with("unet/diffusion") {
            fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        }
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_refused(folder.path(), &[]);
        // A hole takes no room on the disk.
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_refused(folder.path(), &[file, "1099511627776 bytes"]);
    }
}

#[test]
fn pickles_that_are_none() {
    for bytes in [
        &b""[..],
        b"PK\x03\x04",
        b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x80\x02",
        b"\x80\x02}.garbage",
        b"\x80\x02X\xff\xff\xff\xffkey.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ] {
        let folder = with_pickle(bytes);
        let sentence = load(folder.path()).map(drop).unwrap_err();
        let refused = ["damaged", "it lacks", "archive without weights"]
            .iter()
            .any(|word| sentence.contains(word));
        assert!(refused, "{bytes:?}: {sentence}");
    }
}

/// How often each kind of file is changed, unless the variable `KILN_MUTATIONS` says otherwise.
const MUTATIONS: usize = 60;

/// With any byte of a valid file changed, the model loads or is refused, and nothing panics.
#[test]
fn no_change_of_a_file_can_do_worse_than_be_refused() {
    let mutations = std::env::var("KILN_MUTATIONS").ok();
    let mutations = mutations
        .and_then(|count| count.parse().ok())
        .unwrap_or(MUTATIONS);
    let sound = model();
    let pickle = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/published/google--ddpm-cifar10-32/small/diffusion_pytorch_model.bin"
    );
    let index = r#"{"metadata": {"total_size": 1}, "weight_map": {"conv_in.weight": "a-00001-of-00002.safetensors"}}"#;
    let mut loaded = 0;
    for file in FILES {
        let contents = match file {
            PICKLE => fs::read(pickle).unwrap(),
            INDEX => index.as_bytes().to_vec(),
            file => fs::read(sound.path().join(file)).unwrap(),
        };
        let victim = Victim::new(file);
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = |below: usize| {
            // xorshift64: the same changes on every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        for _ in 0..mutations {
            let mut changed = contents.clone();
            // Headers are at the beginning, a zip's directory is at the end: change bytes there.
            let near = changed.len().min(2_000);
            for _ in 0..=random(3) {
                let place = match random(3) {
                    0 => random(near),
                    1 => changed.len() - 1 - random(near),
                    _ => random(changed.len()),
                };
                changed[place] = random(256) as u8;
            }
            if random(4) == 0 {
                changed.truncate(random(changed.len()));
            }
            loaded += usize::from(victim.load_with(&changed).is_ok());
        }
    }
    // Some changes are harmless, for example in a weight or a space.
    assert!(loaded > 0);
}
