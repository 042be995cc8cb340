//! The files of a run's latents.
//!
//! ```text
//! latents/HASH/                    HASH: of the first stage that encoded them
//!   train-00000.safetensors ..     `latents` [images, variants, channels, height, width], f32 or f16, of so many images
//!                                  each. The variants: as they are, and mirrored, if the data set is flipped; then the
//!                                  standard deviations of both, if latents are drawn from their distribution
//!   validation-00000.safetensors ..
//! ```
//!
//! Each file is written as a whole, so that what a killed process encoded is kept. Its header says what the latents were
//! made from, their mean and spread, and has a digest that reveals damage. Training reads them where they lie: files that
//! are mapped into the memory would end it by a signal if they were cut short.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use kiln_data::{hexadecimal, read_regular};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::spread::Spread;
use crate::error::TrainError;
use crate::experiment::LatentNumbers;
use crate::run_folder::record::RunRecord;
use crate::run_folder::write_atomically;

/// The values of one file, as f32, take about so many bytes.
const SHARD_BYTES: usize = 64 << 20;
/// A split whose values take more bytes than this stays on disk.
const KEPT_BYTES: usize = 256 << 20;
/// Many times the size of a file's header, in bytes.
const LARGEST_HEADER: u64 = 1 << 20;
/// The tensor of a file.
const LATENTS: &str = "latents";
/// The header's keys.
const DIGEST: &str = "sha256";
const SPREAD: &str = "spread";

/// The files of the latents of one split.
#[derive(Clone, Debug)]
pub(super) struct LatentFolder {
    pub(super) folder: PathBuf,
    /// `train` or `validation`.
    pub(super) split: &'static str,
    /// What the latents are made from: the first stage, and the images.
    pub(super) source: [(&'static str, String); 2],
    /// `[images, variants, channels, height, width]` of all files together.
    pub(super) shape: [usize; 5],
    /// Whether the second half of the variants are standard deviations.
    pub(super) has_deviations: bool,
    pub(super) numbers: LatentNumbers,
}

/// A file of latents that training reads from.
#[derive(Debug)]
pub(super) struct LatentShard {
    path: PathBuf,
    file: File,
    /// Where its values begin.
    start: u64,
    numbers: LatentNumbers,
}

/// Why a file of latents cannot be used.
pub(super) enum ShardProblem {
    Missing,
    Damaged(String),
    /// It was made from something else, which is named.
    Foreign(&'static str),
}

impl LatentFolder {
    /// How many values an image has, with its mirrored variant.
    fn values_of_image(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// How many variants of an image are encoded.
    pub(super) fn flips(&self) -> usize {
        self.shape[1] / (1 + usize::from(self.has_deviations))
    }

    /// How many images a file holds, but for the last.
    pub(super) fn images_of_file(&self) -> usize {
        (SHARD_BYTES / (self.values_of_image() * size_of::<f32>()).max(1)).max(1)
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.shape[0].div_ceil(self.images_of_file())
    }

    /// The images of file `number`.
    pub(super) fn images(&self, number: usize) -> std::ops::Range<usize> {
        let first = number * self.images_of_file();
        first..(first + self.images_of_file()).min(self.shape[0])
    }

    /// The mean and the spread of latents; of those that are drawn, the expected ones.
    fn spread(&self, values: &[f32]) -> Spread {
        if !self.has_deviations {
            return Spread::of(values);
        }
        let (mut means, mut variance) = (Vec::new(), 0.0);
        for image in values.chunks(self.values_of_image().max(1)) {
            let (mean, deviations) = image.split_at(image.len() / 2);
            means.extend_from_slice(mean);
            let squares = deviations.iter().map(|&value| f64::from(value).powi(2));
            variance += squares.sum::<f64>();
        }
        let of_means = Spread::of(&means);
        Spread {
            squares: of_means.squares + variance,
            ..of_means
        }
    }

    fn shape_of(&self, number: usize) -> Vec<usize> {
        [&[self.images(number).len()], &self.shape[1..]].concat()
    }

    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.folder
            .join(format!("{}-{number:05}.safetensors", self.split))
    }

    /// Writes the `values` of file `number`.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub(super) fn write(&self, number: usize, values: &[f32]) -> Result<(), TrainError> {
        let path = self.path(number);
        let problem = |problem: safetensors::SafeTensorError| TrainError::File {
            action: "write",
            path: path.clone(),
            source: std::io::Error::other(problem.to_string()),
        };
        let bytes: Vec<u8> = match self.numbers {
            LatentNumbers::F32 => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            LatentNumbers::F16 => {
                let values = values.iter().map(|&value| f16::from_f32(value));
                values.flat_map(f16::to_le_bytes).collect()
            }
        };
        let Spread {
            count,
            mean,
            squares,
        } = self.spread(&self.numbers.read(&bytes));
        // Bit for bit, whatever the notation.
        let spread = [count, mean, squares].map(|number| format!("{:016x}", number.to_bits()));
        let shape = self.shape_of(number);
        let mut header: HashMap<String, String> = self
            .source
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        header.insert(SPREAD.to_owned(), spread.join(" "));
        header.insert(DIGEST.to_owned(), digest(&shape, &bytes));
        let view = TensorView::new(self.numbers.dtype(), shape, &bytes).map_err(problem)?;
        let file = safetensors::serialize([(LATENTS, view)], Some(header)).map_err(problem)?;
        write_atomically(&path, &file)
    }

    /// Checks file `number`, and returns the mean and the spread of its values; the values, too, if they are to be `kept`.
    pub(super) fn check(
        &self,
        number: usize,
        kept: Option<&mut Vec<f32>>,
    ) -> Result<Spread, ShardProblem> {
        let most = self.values_of_image() * self.images_of_file() * size_of::<f32>();
        let bytes = match read_regular(&self.path(number), most as u64 + LARGEST_HEADER) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ShardProblem::Missing);
            }
            Err(error) => return Err(ShardProblem::Damaged(error.to_string())),
        };
        let damaged =
            |error: safetensors::SafeTensorError| ShardProblem::Damaged(error.to_string());
        let wrong = |problem: &str| ShardProblem::Damaged(problem.to_owned());
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let facts = header.metadata().clone().unwrap_or_default();
        for ((key, expected), what) in self.source.iter().zip(["another VQ-VAE", "other images"]) {
            if facts.get(*key) != Some(expected) {
                return Err(ShardProblem::Foreign(what));
            }
        }
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let view = file.tensor(LATENTS).map_err(damaged)?;
        if view.dtype() != self.numbers.dtype() {
            return Err(ShardProblem::Foreign(
                "numbers of another type (stage_2.latents)",
            ));
        }
        let is_of_other_variants = |variants: &usize| *variants != self.shape[1];
        if view.shape().get(1).is_some_and(is_of_other_variants) {
            return Err(ShardProblem::Foreign("another stage_2.posterior"));
        }
        if view.shape() != self.shape_of(number) {
            return Err(wrong("it has another number of latents"));
        }
        if facts.get(DIGEST) != Some(&digest(view.shape(), view.data())) {
            return Err(wrong("the latents in it are not those that were written"));
        }
        let spread = facts.get(SPREAD).and_then(|text| spread_in(text));
        let spread = spread.ok_or_else(|| wrong("its header has no spread"))?;
        if let Some(kept) = kept {
            kept.extend(self.numbers.read(view.data()));
        }
        Ok(spread)
    }

    /// All files, to read latents from.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub(super) fn open(&self) -> Result<Vec<LatentShard>, TrainError> {
        let open = |number| LatentShard::open(self.path(number), self.numbers);
        (0..self.files()).map(open).collect()
    }

    /// Whether all values fit into the memory that they may have.
    pub(super) fn is_small(&self) -> bool {
        self.shape.iter().product::<usize>() * size_of::<f32>() <= KEPT_BYTES
    }
}

impl LatentShard {
    fn open(path: PathBuf, numbers: LatentNumbers) -> Result<Self, TrainError> {
        let open = || {
            let file = File::open(&path)?;
            let mut length = [0; 8];
            read_exact_at(&file, &mut length, 0)?;
            Ok((file, u64::from_le_bytes(length)))
        };
        // The length of the header comes first, and the only tensor follows it.
        let (file, header) = open().map_err(TrainError::file("read", &path))?;
        Ok(Self {
            file,
            start: 8 + header,
            numbers,
            path,
        })
    }

    /// Adds `count` values from the `first` on to `values`.
    pub(super) fn read(
        &self,
        first: usize,
        count: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), TrainError> {
        let size = self.numbers.bytes();
        let mut bytes = vec![0; count * size];
        read_exact_at(&self.file, &mut bytes, self.start + (first * size) as u64)
            .map_err(TrainError::file("read", &self.path))?;
        values.extend(self.numbers.read(&bytes));
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], place: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, place)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut place: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, place)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                bytes = &mut bytes[count..];
                place += count as u64;
            }
        }
    }
    Ok(())
}

impl LatentNumbers {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            Self::F16 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers
                    .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                    .collect()
            }
        }
    }
}

impl RunRecord {
    /// The first `count` cached validation latents `[batch, channels, height, width]`, not scaled, of the VQ-VAE with
    /// this [hash](kiln_checkpoint::vqvae_hash); `None` if that VQ-VAE's latents are not cached. Those of the first file
    /// are enough.
    ///
    /// # Errors
    /// [`TrainError::Run`] if the file is damaged.
    pub fn validation_latents(
        &self,
        vqvae_hash: &str,
        count: usize,
        device: &Device,
    ) -> Result<Option<Tensor<4>>, TrainError> {
        let path = self
            .folder
            .latents(vqvae_hash)
            .join("validation-00000.safetensors");
        if !path.is_file() {
            return Ok(None);
        }
        let damaged = |problem: String| {
            TrainError::Run(format!(
                "the latents in {} are damaged ({problem}): remove the file, and training stage 2 encodes them again",
                path.display()
            ))
        };
        let most = 2 * SHARD_BYTES as u64 + LARGEST_HEADER;
        let bytes = read_regular(&path, most).map_err(|error| damaged(error.to_string()))?;
        let words = |error: safetensors::SafeTensorError| damaged(error.to_string());
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(words)?;
        let file = SafeTensors::deserialize(&bytes).map_err(words)?;
        let view = file.tensor(LATENTS).map_err(words)?;
        let written = (header.metadata().as_ref()).and_then(|facts| facts.get(DIGEST));
        if written != Some(&digest(view.shape(), view.data())) {
            return Err(damaged(
                "the latents in it are not those that were written".to_owned(),
            ));
        }
        let &[images, variants, channels, height, width] = view.shape() else {
            return Err(damaged(format!("`{LATENTS}` has the wrong shape")));
        };
        let numbers = match view.dtype() {
            Dtype::F16 => LatentNumbers::F16,
            _ => LatentNumbers::F32,
        };
        let count = count.min(images);
        // Only the unmirrored images: the first variant of each.
        let image = channels * height * width;
        let values: Vec<f32> = (numbers.read(view.data()))
            .chunks((variants * image).max(1))
            .take(count)
            .flat_map(|variants| variants.iter().take(image).copied())
            .collect();
        if count == 0 || image == 0 || values.len() != count * image {
            return Err(damaged(format!("`{LATENTS}` has the wrong length")));
        }
        let data = TensorData::new(values, [count, channels, height, width]);
        Ok(Some(Tensor::from_data(data, device)))
    }
}

/// sha256 over shape and values, in hexadecimal.
fn digest(shape: &[usize], bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{shape:?}"));
    digest.update(bytes);
    hexadecimal(&digest.finalize())
}

fn spread_in(text: &str) -> Option<Spread> {
    let mut numbers = text
        .split(' ')
        .map(|number| u64::from_str_radix(number, 16).ok().map(f64::from_bits));
    let mut next = || numbers.next().flatten();
    Some(Spread {
        count: next()?,
        mean: next()?,
        squares: next()?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::experiment::Experiment;
    use crate::run_folder::RunFolder;

    fn folder(place: &Path, numbers: LatentNumbers) -> LatentFolder {
        LatentFolder {
            folder: place.join("latents/abc"),
            split: "validation",
            source: [("vqvae", "abc".to_owned()), ("images", "def".to_owned())],
            shape: [3, 2, 1, 1, 2],
            has_deviations: false,
            numbers,
        }
    }

    fn values() -> Vec<f32> {
        (0..12u8).map(f32::from).collect()
    }

    fn problem(folder: &LatentFolder) -> String {
        match folder.check(0, None) {
            Ok(_) => "none".to_owned(),
            Err(ShardProblem::Missing) => "missing".to_owned(),
            Err(ShardProblem::Damaged(_)) => "damaged".to_owned(),
            Err(ShardProblem::Foreign(what)) => what.to_owned(),
        }
    }

    #[test]
    fn files_give_back_what_was_put_in_and_tell_what_is_wrong_with_them() {
        let place = tempfile::tempdir().unwrap();
        for numbers in [LatentNumbers::F32, LatentNumbers::F16] {
            let folder = folder(place.path(), numbers);
            folder.write(0, &values()).unwrap();
            let mut kept = Vec::new();
            let Ok(spread) = folder.check(0, Some(&mut kept)) else {
                panic!("the file is good");
            };
            assert_eq!((kept, spread), (values(), Spread::of(&values())));
            let mut read = Vec::new();
            let shards = folder.open().unwrap();
            for first in [8, 2] {
                shards[0].read(first, 2, &mut read).unwrap();
            }
            assert_eq!(read, [8.0, 9.0, 2.0, 3.0]);
        }
        let good = folder(place.path(), LatentNumbers::F16);
        let other = |source: [(&'static str, String); 2]| LatentFolder {
            source,
            ..good.clone()
        };
        assert_eq!(
            problem(&other([("vqvae", "x".into()), ("images", "def".into())])),
            "another VQ-VAE"
        );
        assert_eq!(
            problem(&other([("vqvae", "abc".into()), ("images", "x".into())])),
            "other images"
        );
        assert!(problem(&folder(place.path(), LatentNumbers::F32)).contains("stage_2.latents"));
        let whole = std::fs::read(good.path(0)).unwrap();
        for length in [0, 7, 60, whole.len() - 1] {
            std::fs::write(good.path(0), &whole[..length]).unwrap();
            assert_eq!(problem(&good), "damaged");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(good.path(0), flipped).unwrap();
        assert_eq!(problem(&good), "damaged");
        std::fs::remove_file(good.path(0)).unwrap();
        assert_eq!(problem(&good), "missing");
    }

    #[test]
    fn files_hold_equally_many_images() {
        let place = tempfile::tempdir().unwrap();
        let folder = LatentFolder {
            shape: [1_000_000, 1, 4, 16, 16],
            ..folder(place.path(), LatentNumbers::F32)
        };
        assert_eq!((folder.images_of_file(), folder.files()), (16384, 62));
        assert_eq!(folder.images(61), 999_424..1_000_000);
        assert!(!folder.is_small());
    }

    #[test]
    fn the_doctor_finds_latents_by_their_vqvae_and_names_damage() {
        let place = tempfile::tempdir().unwrap();
        let text = include_str!("../../../../configs/mnist-quick.toml");
        let record = RunRecord {
            folder: RunFolder::new(place.path()),
            experiment: Experiment::parse(text, "mnist-quick", &[]).unwrap(),
            stages: Vec::new(),
        };
        let folder = folder(place.path(), LatentNumbers::F32);
        folder.write(0, &values()).unwrap();
        let read = |hash, count| {
            let latents = record.validation_latents(hash, count, &Device::flex());
            let latents = latents.unwrap()?.into_data();
            Some(latents.iter::<f32>().collect::<Vec<f32>>())
        };
        assert_eq!(read("abc", 2), Some(vec![0.0, 1.0, 4.0, 5.0]));
        assert_eq!(read("abc", 9).map(|values| values.len()), Some(6));
        assert_eq!(read("other", 2), None);
        let path = folder.path(0);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..4], &whole[..whole.len() - 4], &[]] {
            std::fs::write(&path, bytes).unwrap();
            let error = record.validation_latents("abc", 2, &Device::flex());
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .contains("validation-00000.safetensors")
            );
        }
    }
}
