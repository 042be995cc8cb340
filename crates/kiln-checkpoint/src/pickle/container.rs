//! The containers of pickles: the zip archive of PyTorch since 1.6, and the older format.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use zip::read::ZipReadOptions;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::machine::Machine;
use super::problem::Problem;
use super::storage::{Storage, Tensor};
use super::tensors::find_tensors;
use super::values::Value;
use crate::source::Readable;

/// More bytes than any pickle has; its tensors are stored outside of it.
const LARGEST_PICKLE: u64 = 64 << 20;
/// Up to this size, a pickle may be larger than its compressed file.
const SMALL_PICKLE: u64 = 1 << 20;

/// The beginning of a file of PyTorch before 1.6: a pickle of this number, 10 bytes long.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Such a file has three pickles before the one of the weights: the number, a version and the machine.
const LEGACY_HEADERS: usize = 3;

/// A file with a pickle.
pub(super) enum Container<F> {
    /// An archive, with its folder `archive/`.
    Zip {
        archive: ZipArchive<F>,
        folder: String,
        length: u64,
    },
    /// Pickles, and the storages behind them.
    Legacy {
        file: F,
        storages: BTreeMap<String, Range<u64>>,
    },
    /// A pickle alone.
    Plain { file: F },
}

/// The tensors of a file by name, and the storages that they view.
type Found = (BTreeMap<String, Tensor>, Vec<Storage>);

impl<F: Readable> Container<F> {
    pub(super) fn open(mut file: F) -> Result<Self, Problem> {
        let mut start = Vec::new();
        file.by_ref().take(64).read_to_end(&mut start)?;
        file.rewind()?;
        if start.starts_with(b"PK") {
            let length = length(&mut file)?;
            let archive = ZipArchive::new(file).map_err(of_zip)?;
            let names = archive.file_names().filter_map(Result::ok);
            let folders = names.filter_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()));
            let folder = folders
                .filter(|folder| folder.is_empty() || folder.ends_with('/'))
                .min_by_key(String::len);
            let folder = folder.ok_or_else(|| {
                Problem::Unsupported("is an archive without weights of PyTorch".to_owned())
            })?;
            return Ok(Self::Zip {
                archive,
                folder,
                length,
            });
        }
        let is_legacy = (start.windows(LEGACY_MAGIC.len())).any(|bytes| bytes == LEGACY_MAGIC);
        Ok(match is_legacy {
            true => Self::Legacy {
                file,
                storages: BTreeMap::new(),
            },
            false => Self::Plain { file },
        })
    }

    /// Interprets the file's pickle, and finds the tensors in its result.
    pub(super) fn tensors(&mut self) -> Result<Found, Problem> {
        match self {
            Self::Zip {
                archive,
                folder,
                length,
            } => {
                let order = text(archive, &format!("{folder}byteorder"))?;
                if order.is_some_and(|order| order.trim_ascii() == b"big") {
                    return Err(big_endian());
                }
                let name = format!("{folder}data.pkl");
                let largest = (*length).clamp(SMALL_PICKLE, LARGEST_PICKLE);
                let pickle = entry(archive, &name, 0..largest + 1)?;
                if pickle.len() as u64 > largest {
                    let problem = "its pickle is larger than the file that it is compressed in";
                    return Err(Problem::damaged(problem));
                }
                // The imports of the archive's other pickles are checked, too, because Python may load those.
                for other in pickles_beside(archive, &name) {
                    let pickle = entry(archive, &other, 0..largest)?;
                    if let Err(code @ Problem::Code(_)) = Machine::new(&pickle).run() {
                        return Err(code);
                    }
                }
                let mut machine = Machine::new(&pickle);
                let root = machine.run()?;
                Ok((
                    find_tensors(root, &machine.values)?,
                    machine.values.storages,
                ))
            }
            Self::Legacy { file, storages } => {
                let pickles = head(file)?;
                let mut machine = Machine::new(&pickles);
                for _ in 0..LEGACY_HEADERS {
                    let header = machine.run()?;
                    if is_big_endian(header, &machine) {
                        return Err(big_endian());
                    }
                }
                let root = machine.run()?;
                let tensors = find_tensors(root, &machine.values)?;
                let order = machine.run()?;
                let end = length(file)?;
                *storages = laid_out(order, &machine, end)?;
                Ok((tensors, machine.values.storages))
            }
            Self::Plain { file } => {
                let pickle = head(file)?;
                let mut machine = Machine::new(&pickle);
                let root = machine.run()?;
                Ok((
                    find_tensors(root, &machine.values)?,
                    machine.values.storages,
                ))
            }
        }
    }

    /// Some bytes of a storage.
    pub(super) fn storage(
        &mut self,
        storage: &Storage,
        window: Range<u64>,
    ) -> Result<Vec<u8>, Problem> {
        let length = window.end - window.start;
        let bytes = match self {
            Self::Zip {
                archive, folder, ..
            } => entry(archive, &format!("{folder}data/{}", storage.key), window)?,
            Self::Legacy { file, storages } => {
                let place = storages.get(&storage.key).ok_or_else(missing)?;
                file.seek(SeekFrom::Start(place.start + window.start))?;
                let left = place.end.saturating_sub(place.start + window.start);
                read_at_most(file, length.min(left))?
            }
            Self::Plain { .. } => return Err(missing()),
        };
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(Problem::damaged("it lacks numbers of a tensor")),
        }
    }
}

/// The position of each storage of a legacy file: one after the other in `order`, each after its count of numbers.
fn laid_out(
    order: Value,
    machine: &Machine<'_>,
    end: u64,
) -> Result<BTreeMap<String, Range<u64>>, Problem> {
    let storages = machine.values.storages.iter();
    let sizes: BTreeMap<&str, u64> = storages
        .map(|storage| (storage.key.as_str(), storage.size().1))
        .collect();
    let mut place = machine.position() as u64;
    let mut laid_out = BTreeMap::new();
    for &key in machine.values.members(order) {
        let key = machine.values.key(key).ok_or_else(missing)?;
        let size = *sizes.get(key.as_str()).ok_or_else(missing)?;
        let begin = place.saturating_add(8);
        place = begin.saturating_add(size);
        if place > end {
            return Err(Problem::damaged("it ends before its numbers do"));
        }
        laid_out.insert(key, begin..place);
    }
    Ok(laid_out)
}

/// Whether a legacy file's header says that its machine was big-endian.
fn is_big_endian(header: Value, machine: &Machine<'_>) -> bool {
    let Value::Dictionary(place) = header else {
        return false;
    };
    let mut facts = machine.values.dictionaries[place as usize].iter();
    facts.any(|&[key, value]| {
        machine.values.words(key) == Some(b"little_endian") && value == Value::Bool(false)
    })
}

fn big_endian() -> Problem {
    Problem::Unsupported("was written on a big-endian machine".to_owned())
}

fn missing() -> Problem {
    Problem::damaged("it lacks a tensor's storage")
}

fn length(file: &mut impl Readable) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// The beginning of a file, which has its pickles. Storages of any length may follow.
fn head(file: &mut impl Readable) -> Result<Vec<u8>, Problem> {
    file.rewind()?;
    Ok(read_at_most(file, LARGEST_PICKLE)?)
}

/// Names of the pickles of an archive other than `name`.
fn pickles_beside(archive: &ZipArchive<impl Readable>, name: &str) -> Vec<String> {
    let names = archive.file_names().filter_map(Result::ok);
    let others = names.filter(|other| other.ends_with(".pkl") && *other != name);
    others.map(|other| other.into_owned()).collect()
}

/// A short text of an archive, if it exists.
fn text(archive: &mut ZipArchive<impl Readable>, name: &str) -> Result<Option<Vec<u8>>, Problem> {
    match archive.index_for_name(name) {
        Some(_) => entry(archive, name, 0..64).map(Some),
        None => Ok(None),
    }
}

/// Some bytes of an archive's entry, or fewer if it ends earlier.
fn entry(
    archive: &mut ZipArchive<impl Readable>,
    name: &str,
    window: Range<u64>,
) -> Result<Vec<u8>, Problem> {
    let index = archive.index_for_name(name).ok_or_else(missing)?;
    let raw = archive.by_index_raw(index).map_err(of_zip)?;
    let (method, checksum) = (raw.compression(), raw.crc32());
    if raw.encrypted() {
        return Err(Problem::Unsupported("has a password".to_owned()));
    }
    drop(raw);
    if !matches!(
        method,
        CompressionMethod::Stored | CompressionMethod::Deflated
    ) {
        return Err(Problem::Unsupported(format!(
            "is compressed by {method}, and only deflate is read"
        )));
    }
    if method == CompressionMethod::Stored && window.start > 0 {
        let mut entry = archive.by_index_seek(index).map_err(of_zip)?;
        entry.seek(SeekFrom::Start(window.start))?;
        return Ok(read_at_most(entry, window.end - window.start)?);
    }
    // PyTorch can be told to leave out checksums.
    let options = ZipReadOptions::new().ignore_crc32(checksum == 0);
    let mut entry = archive
        .by_index_with_options(index, options)
        .map_err(of_zip)?;
    io::copy(&mut (&mut entry).take(window.start), &mut io::sink())?;
    Ok(read_at_most(entry, window.end - window.start)?)
}

fn read_at_most(reader: impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn of_zip(problem: ZipError) -> Problem {
    match problem {
        ZipError::CompressionMethodNotSupported(method) => Problem::Unsupported(format!(
            "is compressed by method {method} of zip, and only deflate is read"
        )),
        ZipError::UnsupportedArchive(what) => Problem::Unsupported(format!(
            "is an archive of a kind that kiln does not read ({what})"
        )),
        problem => Problem::Damaged(problem.to_string()),
    }
}
