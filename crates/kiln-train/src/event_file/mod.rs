//! TensorBoard's event files, which Weights & Biases and Trackio read, too.
//!
//! A file is a sequence of records. Each one is the length of its data (u64), a checksum of the length (u32), the data, a
//! protobuf message, and a checksum of the data (u32), all little-endian. A checksum is a CRC-32C, [`masked`].
//! Source: `record_writer.cc` of TensorFlow, `record_writer.py` of TensorBoard.

mod messages;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use self::messages::{
    Data, Event, Image, Metadata, Plugin, STARTED, STRING, SessionLog, Shape, Side, Strings,
    Summary, Value, What,
};

/// The beginning of the names of event files. Readers look for it.
const PREFIX: &str = "events.out.tfevents.";

/// The version of the format.
const VERSION: &str = "brain.Event:2";

/// An event file in the making. A log grows, so it is not written under another name first; but each [`EventFile::flush`]
/// adds whole records or none.
pub(crate) struct EventFile {
    folder: PathBuf,
    /// The file and its length in bytes, from the first flush on.
    file: Option<(File, u64)>,
    /// Records that are not in the file yet.
    pending: Vec<u8>,
}

impl EventFile {
    /// A new file in `folder`, where readers put files together in the order of their names. What earlier files say about
    /// `first_step` and later steps no longer counts: a resumed training does those again.
    ///
    /// There is no file before the first flush.
    pub(crate) fn new(folder: &Path, first_step: usize) -> Self {
        let mut new = Self {
            folder: folder.to_owned(),
            file: None,
            pending: Vec::new(),
        };
        new.add(0, What::FileVersion(VERSION.to_owned()));
        let status = STARTED;
        new.add(first_step, What::SessionLog(SessionLog { status }));
        new
    }

    /// Whether there is an event file in `folder`.
    pub(crate) fn is_in(folder: &Path) -> bool {
        let names = folder.read_dir().into_iter().flatten().flatten();
        let mut names = names.map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(PREFIX))
    }

    /// Adds numbers by name. A name's part before the first slash is its group.
    pub(crate) fn scalars<'a>(
        &mut self,
        step: usize,
        scalars: impl Iterator<Item = (&'a String, f64)>,
    ) {
        let values = scalars.map(|(name, value)| Value {
            tag: name.clone(),
            metadata: None,
            data: Some(Data::Scalar(value as f32)),
        });
        let values = values.collect();
        self.add(step, What::Summary(Summary { values }));
    }

    /// Adds a picture, a whole file in PNG. Other bytes are left out.
    pub(crate) fn picture(&mut self, step: usize, name: &str, png: Vec<u8>) {
        let Some((width, height)) = size_of(&png) else {
            return;
        };
        let image = Image {
            height,
            width,
            colorspace: 3,
            encoded: png,
        };
        self.value(step, name, None, Data::Image(image));
    }

    /// Adds a text in Markdown.
    pub(crate) fn text(&mut self, step: usize, name: &str, markdown: &str) {
        let plugin = Some(Plugin {
            name: "text".to_owned(),
        });
        let strings = Strings {
            kind: STRING,
            shape: Some(Shape {
                sides: vec![Side { length: 1 }],
            }),
            strings: vec![markdown.as_bytes().to_vec()],
        };
        self.value(step, name, Some(Metadata { plugin }), Data::Tensor(strings));
    }

    fn value(&mut self, step: usize, name: &str, metadata: Option<Metadata>, data: Data) {
        let value = Value {
            tag: name.to_owned(),
            metadata,
            data: Some(data),
        };
        let values = vec![value];
        self.add(step, What::Summary(Summary { values }));
    }

    fn add(&mut self, step: usize, what: What) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = Event {
            wall_time: now.unwrap_or_default().as_secs_f64(),
            step: step as i64,
            what: Some(what),
        };
        self.pending.extend(record(&event.encode_to_vec()));
    }

    /// Writes what was added. After an error the file ends with the last flush, and the next one tries again.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let (file, length) = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((new_file(&self.folder)?, 0)),
        };
        let written = file
            .write_all(&self.pending)
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            file.set_len(*length)?;
            file.seek(SeekFrom::Start(*length))?;
            return Err(error);
        }
        *length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// A file whose name comes after those of all earlier ones.
fn new_file(folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let (seconds, process) = (now.unwrap_or_default().as_secs(), std::process::id());
    let mut number = 0;
    loop {
        let name = format!("{PREFIX}{seconds:010}.kiln.{process}.{number}");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join(name));
        match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            other => return other,
        }
    }
}

/// `data` as a record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(crc32c::crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c::crc32c(data)).to_le_bytes());
    record
}

/// A checksum of data that may hold checksums itself.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The width and the height of a picture in PNG, in pixels.
fn size_of(png: &[u8]) -> Option<(i32, i32)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")?;
    let number = |bytes: &[u8]| Some(i32::from_be_bytes(bytes.try_into().ok()?));
    Some((number(header.get(..4)?)?, number(header.get(4..8)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in a file, whose checksums must be right.
    fn events_in(bytes: &[u8]) -> Vec<Event> {
        let (mut events, mut rest) = (Vec::new(), bytes);
        while let Some((length, _)) = rest.split_first_chunk::<8>() {
            let (length, end) = (u64::from_le_bytes(*length) as usize, 16);
            let (this, after) = rest.split_at(length + end);
            let data = &this[12..12 + length];
            assert_eq!(this, record(data));
            events.push(Event::decode(data).unwrap());
            rest = after;
        }
        events
    }

    fn files_in(folder: &Path) -> Vec<PathBuf> {
        let entries = folder.read_dir().unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// TensorBoard's own writer made the fixture: see `tests/fixtures/events/make.py`.
    #[test]
    fn the_bytes_are_those_that_tensorboard_writes() {
        let theirs: &[u8] = include_bytes!("../../../../tests/fixtures/events/events");
        let picture: &[u8] = include_bytes!("../../../../tests/fixtures/events/picture.png");
        let folder = tempfile::tempdir().unwrap();
        let mut ours = EventFile::new(folder.path(), 21);
        ours.text(0, "config", "```toml\nseed = 0\n```");
        let names = ["loss/train", "loss/valid"].map(str::to_owned);
        ours.scalars(10, names.iter().zip([0.5, 0.25]));
        ours.scalars(20, names[..1].iter().zip([f64::INFINITY]));
        ours.picture(20, "samples", picture.to_owned());
        ours.picture(20, "samples", b"no picture".to_vec());
        let theirs = events_in(theirs);
        let ours: Vec<Event> = (events_in(&ours.pending).into_iter().zip(&theirs))
            .map(|(ours, theirs)| {
                assert!(ours.wall_time > 1e9);
                let wall_time = theirs.wall_time;
                Event { wall_time, ..ours }
            })
            .collect();
        assert_eq!(ours, theirs);
        let bytes: Vec<u8> = (ours.iter())
            .flat_map(|event| record(&event.encode_to_vec()))
            .collect();
        assert_eq!(
            bytes,
            include_bytes!("../../../../tests/fixtures/events/events")
        );
    }

    #[test]
    fn a_file_comes_with_the_first_flush_and_after_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("diffusion");
        for part in 0..3 {
            let mut events = EventFile::new(&place, part * 10 + 1);
            assert_eq!(EventFile::is_in(&place), part > 0);
            events.scalars(part * 10 + 5, [(&"loss/train".to_owned(), 0.5)].into_iter());
            events.flush().unwrap();
            events.scalars(part * 10 + 6, [(&"loss/train".to_owned(), 0.5)].into_iter());
            events.flush().unwrap();
        }
        let files = files_in(&place);
        assert_eq!(files.len(), 3);
        for (part, file) in files.iter().enumerate() {
            let events = events_in(&std::fs::read(file).unwrap());
            let steps: Vec<i64> = events.iter().map(|event| event.step).collect();
            let part = part as i64 * 10;
            assert_eq!(steps, [0, part + 1, part + 5, part + 6]);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_costs_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::new(folder.path(), 1);
        events.file = Some((OpenOptions::new().write(true).open("/dev/full").unwrap(), 0));
        events.flush().unwrap_err();
        events.file = None;
        events.flush().unwrap();
        let file = &files_in(folder.path())[0];
        assert_eq!(events_in(&std::fs::read(file).unwrap()).len(), 2);
    }
}
