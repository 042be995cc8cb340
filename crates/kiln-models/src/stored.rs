//! Tensors in a store, whose numbers are read when they are wanted: a safetensors file and its weights are never in memory
//! together.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError};

/// Bytes of the number at the beginning of a file, which says how many the header has.
const LENGTH: usize = 8;

/// The largest header, in bytes: the one that the library of safetensors allows.
const LARGEST_HEADER: usize = 100_000_000;

/// Bytes that are read at a time: whole numbers of any type.
const PIECE: usize = 1 << 16;

/// A tensor in a store.
pub trait StoredTensor {
    /// The type of its numbers.
    fn dtype(&self) -> Dtype;

    /// Its shape, in PyTorch's layout.
    fn shape(&self) -> &[usize];

    /// Its numbers, little-endian and row by row.
    ///
    /// # Errors
    /// If they cannot be read.
    fn bytes(&self) -> io::Result<Cow<'_, [u8]>>;

    /// The same bytes in pieces of whole numbers, one after the other, so that they are never in memory together.
    ///
    /// # Errors
    /// If they cannot be read.
    fn pieces(&self, see: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        see(&self.bytes()?);
        Ok(())
    }

    /// The name of its store, for messages.
    fn place(&self) -> &str {
        "memory"
    }

    /// The same tensor, if it can be read at any later time: its store belongs to it.
    fn to_keep(&self) -> Option<Box<dyn StoredTensor + Send + Sync>> {
        None
    }
}

impl StoredTensor for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        TensorView::dtype(self)
    }

    fn shape(&self) -> &[usize] {
        TensorView::shape(self)
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self.data()))
    }
}

impl<T: StoredTensor + ?Sized> StoredTensor for Box<T> {
    fn dtype(&self) -> Dtype {
        (**self).dtype()
    }

    fn shape(&self) -> &[usize] {
        (**self).shape()
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        (**self).bytes()
    }

    fn pieces(&self, see: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        (**self).pieces(see)
    }

    fn place(&self) -> &str {
        (**self).place()
    }

    fn to_keep(&self) -> Option<Box<dyn StoredTensor + Send + Sync>> {
        (**self).to_keep()
    }
}

/// A safetensors file that is open.
pub struct SafetensorsFile<R> {
    file: Arc<Mutex<R>>,
    name: Arc<str>,
    header: Metadata,
    /// The place of the first number.
    start: u64,
}

/// A tensor in a [`SafetensorsFile`], which stays open for it.
pub struct TensorInFile<R> {
    file: Arc<Mutex<R>>,
    name: Arc<str>,
    info: TensorInfo,
    /// The place of its first number.
    start: u64,
}

impl<R: Read + Seek> SafetensorsFile<R> {
    /// Reads the header of a file, which messages call `name`, and checks it against the file's length.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a whole safetensors file.
    pub fn open(mut file: R, name: &str) -> Result<Self, SafeTensorError> {
        let mut length = [0; LENGTH];
        let is_short = |problem: &io::Error| problem.kind() == ErrorKind::UnexpectedEof;
        match file.read_exact(&mut length) {
            Err(problem) if is_short(&problem) => return Err(SafeTensorError::HeaderTooSmall),
            other => other?,
        }
        let length = usize::try_from(u64::from_le_bytes(length));
        let length = length.map_err(|_| SafeTensorError::HeaderTooLarge)?;
        if length > LARGEST_HEADER {
            return Err(SafeTensorError::HeaderTooLarge);
        }
        let mut header = Vec::new();
        file.by_ref().take(length as u64).read_to_end(&mut header)?;
        if header.len() < length {
            return Err(SafeTensorError::InvalidHeaderLength);
        }
        let text = str::from_utf8(&header).map_err(SafeTensorError::InvalidHeader)?;
        let header: Metadata =
            serde_json::from_str(text).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        let start = (LENGTH + length) as u64;
        if file.seek(SeekFrom::End(0))? != start + header.data_len() as u64 {
            return Err(SafeTensorError::MetadataIncompleteBuffer);
        }
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            name: name.into(),
            header,
            start,
        })
    }

    /// The header.
    pub fn header(&self) -> &Metadata {
        &self.header
    }

    /// The tensors by key, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = (String, TensorInFile<R>)> {
        let keys = self.header.offset_keys().into_iter();
        keys.filter_map(|key| {
            let info = self.header.info(&key)?;
            let tensor = TensorInFile {
                file: self.file.clone(),
                name: self.name.clone(),
                start: self.start + info.data_offsets.0 as u64,
                info: info.clone(),
            };
            Some((key, tensor))
        })
    }
}

impl<R> TensorInFile<R> {
    /// Its bytes.
    fn len(&self) -> usize {
        self.info.data_offsets.1 - self.info.data_offsets.0
    }
}

impl<R: Read + Seek + Send + 'static> StoredTensor for TensorInFile<R> {
    fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        let mut bytes = Vec::with_capacity(self.len());
        self.pieces(&mut |piece| bytes.extend_from_slice(piece))?;
        Ok(Cow::Owned(bytes))
    }

    fn pieces(&self, see: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut piece = vec![0; PIECE.min(self.len())];
        let mut left = self.len();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.start))?;
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            // Too short if somebody wrote to it in the meantime.
            file.read_exact(piece)?;
            see(piece);
            left -= piece.len();
        }
        Ok(())
    }

    fn place(&self) -> &str {
        &self.name
    }

    fn to_keep(&self) -> Option<Box<dyn StoredTensor + Send + Sync>> {
        // Windows does not let a folder be replaced while a file in it is open.
        (!cfg!(windows)).then(|| -> Box<dyn StoredTensor + Send + Sync> {
            Box::new(Self {
                file: self.file.clone(),
                name: self.name.clone(),
                info: self.info.clone(),
                start: self.start,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    fn file() -> Vec<u8> {
        let numbers: Vec<u8> = (0..24).collect();
        let view = |shape: &[usize], bytes| TensorView::new(Dtype::F16, shape.to_vec(), bytes);
        let tensors = [
            ("b", view(&[2, 3], &numbers[..12]).unwrap()),
            ("a", view(&[6], &numbers[12..]).unwrap()),
            ("empty", view(&[0, 2], &[]).unwrap()),
        ];
        safetensors::serialize(tensors, None).unwrap()
    }

    /// Tensors with their keys, shapes and bytes, or the error.
    type Found = Result<Vec<(String, Vec<usize>, Vec<u8>)>, String>;

    /// What both readers find.
    fn read(bytes: &[u8]) -> [Found; 2] {
        let whole = SafeTensors::deserialize(bytes).map(|tensors| {
            let tensor = |(key, tensor): (&str, TensorView<'_>)| {
                let shape = tensor.shape().to_vec();
                (key.to_owned(), shape, tensor.data().to_vec())
            };
            tensors.iter().map(tensor).collect()
        });
        let one_by_one = SafetensorsFile::open(Cursor::new(bytes.to_vec()), "file").map(|file| {
            let tensor = |(key, tensor): (String, TensorInFile<_>)| {
                let shape = tensor.shape().to_vec();
                (key, shape, tensor.bytes().unwrap().into_owned())
            };
            file.tensors().map(tensor).collect()
        });
        [whole, one_by_one].map(|tensors: Result<Vec<_>, _>| {
            let mut tensors = tensors.map_err(|problem| problem.to_string())?;
            tensors.sort();
            Ok(tensors)
        })
    }

    #[test]
    fn tensors_are_those_of_the_whole_file() {
        let [whole, one_by_one] = read(&file());
        assert_eq!(one_by_one, whole);
        assert_eq!(one_by_one.unwrap().len(), 3);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let bytes = file();
        let opened = SafetensorsFile::open(Cursor::new(bytes.clone()), "file").unwrap();
        // Half of the last tensor is left, and then only a part of the header.
        for (len, readable) in [(bytes.len() - 6, 1), (100, 0)] {
            opened.file.lock().unwrap().get_mut().truncate(len);
            let tensors = opened.tensors().filter(|(key, _)| key != "empty");
            let read = tensors.filter(|(_, tensor)| tensor.bytes().is_ok());
            assert_eq!(read.count(), readable, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_where_the_library_refuses_them(
            cut in any::<prop::sample::Index>(), flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        ) {
            let mut bytes = file();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            match read(&bytes) {
                // Their words differ: the library reads the whole JSON before it looks at shapes and places.
                [Err(_), Err(_)] => {}
                [whole, one_by_one] => prop_assert_eq!(one_by_one, whole),
            }
        }
    }
}
