//! The vectors of whole numbers in a MATLAB 5 file, which is how Flowers 102 keeps its labels and splits.
//!
//! A file is a header of 128 bytes and then elements: a type, a length, that many bytes, padding to a multiple of 8.
//! A compressed element holds another element; a matrix holds four: flags, dimensions, name and values
//! ("MAT-File Format", The MathWorks).

use flate2::read::ZlibDecoder;

use crate::contents::read_at_most;

const HEADER: usize = 128;
/// Flowers' largest matrix has a few thousand numbers.
const MAX_MATRIX_BYTES: u64 = 64 << 20;

/// The element types that occur here.
mod kind {
    pub(super) const INT8: u32 = 1;
    pub(super) const UINT8: u32 = 2;
    pub(super) const INT16: u32 = 3;
    pub(super) const UINT16: u32 = 4;
    pub(super) const INT32: u32 = 5;
    pub(super) const UINT32: u32 = 6;
    pub(super) const DOUBLE: u32 = 9;
    pub(super) const MATRIX: u32 = 14;
    pub(super) const COMPRESSED: u32 = 15;
}

/// One element: its type and its bytes without padding.
type Element<'a> = (u32, &'a [u8]);

/// The matrix called `name`, all of whose values have to be whole numbers from 0 to 2^32 - 1, column by column.
pub(crate) fn read_vector(file: &[u8], name: &str) -> Result<Vec<u32>, String> {
    if file.get(124..HEADER) != Some(&[0, 1, b'I', b'M']) {
        return Err("it is not a little-endian MATLAB 5 file".to_owned());
    }
    let mut rest = &file[HEADER..];
    while !rest.is_empty() {
        let (kind, bytes) = next_element(&mut rest)?;
        let inflated;
        let (kind, bytes) = if kind == kind::COMPRESSED {
            inflated = read_at_most(ZlibDecoder::new(bytes), MAX_MATRIX_BYTES)
                .map_err(|error| format!("a matrix cannot be decompressed ({error})"))?;
            next_element(&mut &inflated[..])?
        } else {
            (kind, bytes)
        };
        if kind != kind::MATRIX {
            continue;
        }
        let mut parts = bytes;
        let _flags = next_element(&mut parts)?;
        let _dimensions = next_element(&mut parts)?;
        let (_, matrix_name) = next_element(&mut parts)?;
        if matrix_name == name.as_bytes() {
            return whole_numbers(next_element(&mut parts)?)
                .ok_or_else(|| format!("its matrix {name} does not hold whole numbers"));
        }
    }
    Err(format!("it has no matrix called {name}"))
}

/// Takes one element off the front of `rest`, with its padding.
fn next_element<'a>(rest: &mut &'a [u8]) -> Result<Element<'a>, String> {
    let element = || -> Option<(Element<'a>, &'a [u8])> {
        let (tag, after) = rest.split_first_chunk::<4>()?;
        let tag = u32::from_le_bytes(*tag);
        // A short element has its length in the upper half of the tag, and its bytes in the next four.
        if tag >> 16 != 0 {
            let (bytes, after) = after.split_at_checked(4)?;
            return Some(((tag & 0xffff, bytes.get(..(tag >> 16) as usize)?), after));
        }
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (bytes, after) = after.split_at_checked(length)?;
        let padding = if tag == kind::COMPRESSED {
            0
        } else {
            length.wrapping_neg() % 8
        };
        Some(((tag, bytes), after.get(padding..).unwrap_or(&[])))
    };
    let (element, after) = element().ok_or("it is cut short")?;
    *rest = after;
    Ok(element)
}

/// The values of an element, if they are whole numbers; the type may be narrower than the matrix's class.
fn whole_numbers((kind, bytes): Element<'_>) -> Option<Vec<u32>> {
    fn each<const N: usize>(bytes: &[u8], convert: fn([u8; N]) -> Option<u32>) -> Option<Vec<u32>> {
        let (values, rest) = bytes.as_chunks::<N>();
        if rest.is_empty() {
            values.iter().map(|&value| convert(value)).collect()
        } else {
            None
        }
    }
    match kind {
        kind::INT8 => each::<1>(bytes, |value| i8::from_le_bytes(value).try_into().ok()),
        kind::UINT8 => each::<1>(bytes, |value| Some(value[0].into())),
        kind::INT16 => each::<2>(bytes, |value| i16::from_le_bytes(value).try_into().ok()),
        kind::UINT16 => each::<2>(bytes, |value| Some(u16::from_le_bytes(value).into())),
        kind::INT32 => each::<4>(bytes, |value| i32::from_le_bytes(value).try_into().ok()),
        kind::UINT32 => each::<4>(bytes, |value| Some(u32::from_le_bytes(value))),
        kind::DOUBLE => each::<8>(bytes, |value| {
            let value = f64::from_le_bytes(value);
            let is_whole = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
            is_whole.then_some(value as u32)
        }),
        _ => None,
    }
}
