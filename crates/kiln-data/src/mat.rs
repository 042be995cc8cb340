//! The vectors of whole numbers in a MATLAB 5 file, the format of Flowers 102's labels and splits.
//!
//! A file is a header of 128 bytes and then elements: a type, a length, that many bytes, padding to a multiple of 8.
//! A compressed element holds another element; a matrix holds four: flags, dimensions, name and values
//! ("MAT-File Format", The MathWorks).

use flate2::read::ZlibDecoder;

use crate::contents::{read_at_most, unpacked_limit};

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

/// The matrix called `name`, column by column; all its values must be whole numbers from 0 to 2^32 - 1.
pub(crate) fn read_vector(file: &[u8], name: &str) -> Result<Vec<u32>, String> {
    if file.get(124..HEADER) != Some(&[0, 1, b'I', b'M']) {
        return Err("it is not a little-endian MATLAB 5 file".to_owned());
    }
    let mut rest = &file[HEADER..];
    while !rest.is_empty() {
        let (kind, bytes) = next_element(&mut rest)?;
        let inflated;
        let (kind, bytes) = if kind == kind::COMPRESSED {
            let most = MAX_MATRIX_BYTES.min(unpacked_limit(bytes.len() as u64));
            inflated = read_at_most(ZlibDecoder::new(bytes), most)
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

/// Takes the first element, with its padding, from `rest`.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    fn element(kind: u32, bytes: &[u8]) -> Vec<u8> {
        let mut element = [kind.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        element.extend(bytes);
        if kind != kind::COMPRESSED {
            element.resize(element.len().next_multiple_of(8), 0);
        }
        element
    }

    /// A matrix with a short element for its name, as MATLAB writes names of up to four letters.
    fn matrix(name: &str, kind: u32, values: &[u8]) -> Vec<u8> {
        let mut short = (kind::INT8 | (name.len() as u32) << 16)
            .to_le_bytes()
            .to_vec();
        short.extend(name.bytes());
        short.resize(8, 0);
        let flags = element(kind::UINT32, &[0; 8]);
        let dimensions = element(kind::INT32, &[1, 0, 0, 0, 9, 0, 0, 0]);
        element(
            kind::MATRIX,
            &[flags, dimensions, short, element(kind, values)].concat(),
        )
    }

    fn compressed(element_bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(element_bytes).unwrap();
        element(kind::COMPRESSED, &encoder.finish().unwrap())
    }

    fn file(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![b' '; 124];
        file.extend([0, 1, b'I', b'M']);
        file.extend(elements.concat());
        file
    }

    #[test]
    fn every_number_type_is_read() {
        let doubles: Vec<u8> = [1.0f64, 2.0, 300.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let file = file(&[
            matrix("a", kind::UINT8, &[1, 2, 255]),
            matrix("b", kind::INT8, &[1, 2, 127]),
            matrix("c", kind::UINT16, &[1, 0, 0xff, 0xff]),
            matrix("d", kind::INT16, &[1, 0, 0xff, 0x7f]),
            compressed(&matrix(
                "e",
                kind::UINT32,
                &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            )),
            compressed(&matrix("f", kind::INT32, &[7, 0, 0, 0])),
            matrix("g", kind::DOUBLE, &doubles),
        ]);
        let expected: [(&str, &[u32]); 7] = [
            ("a", &[1, 2, 255]),
            ("b", &[1, 2, 127]),
            ("c", &[1, 65_535]),
            ("d", &[1, 32_767]),
            ("e", &[1, u32::MAX]),
            ("f", &[7]),
            ("g", &[1, 2, 300]),
        ];
        for (name, values) in expected {
            assert_eq!(read_vector(&file, name).unwrap(), values, "{name}");
        }
        assert!(
            read_vector(&file, "h")
                .unwrap_err()
                .contains("no matrix called h")
        );
    }

    #[test]
    fn what_are_not_whole_numbers_is_refused() {
        for (kind, values) in [
            (kind::INT8, vec![255]),
            (kind::DOUBLE, 1.5f64.to_le_bytes().to_vec()),
            (kind::DOUBLE, f64::NAN.to_le_bytes().to_vec()),
            (kind::DOUBLE, (-1.0f64).to_le_bytes().to_vec()),
            (kind::DOUBLE, 5e9f64.to_le_bytes().to_vec()),
            (kind::UINT16, vec![1, 2, 3]),
            (kind::MATRIX, Vec::new()),
        ] {
            let error = read_vector(&file(&[matrix("a", kind, &values)]), "a").unwrap_err();
            assert!(error.contains("does not hold whole numbers"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let file = file(&[
            compressed(&matrix("a", kind::UINT8, &[1; 100])),
            matrix("b", kind::UINT8, &[1, 2]),
        ]);
        assert!(read_vector(&file, "b").is_ok());
        for len in 0..file.len() - 16 {
            assert!(read_vector(&file[..len], "b").is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(elements in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_vector(&elements, "a");
            let _ = read_vector(&file(&[elements]), "a");
        }

        #[test]
        fn changed_bytes_do_no_harm(place in 128usize..300, value: u8) {
            let mut file = file(&[compressed(&matrix("x", kind::UINT8, &[1; 100])), matrix("a", kind::UINT8, &[1; 60])]);
            let place = place.min(file.len() - 1);
            file[place] = value;
            let _ = read_vector(&file, "a");
        }
    }
}
