//! From the bytes of an image file to pixels of the configured shape.

use std::error::Error;
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fast_image_resize::images::Image;
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{
    FilterType, PixelTrait, PixelType, ResizeAlg, ResizeError, ResizeOptions, Resizer,
};
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel,
    RgbImage, imageops,
};

use crate::image_shape::ImageShape;
use crate::kind::Kind;
use crate::names;

/// The largest width and height; a header with more is a mistake or an attack.
const MAX_SIDE: u32 = 32_768;
/// The most pixels of an image: cameras have fewer, and more are an attack on the memory.
const MAX_PIXELS: u64 = 100_000_000;
/// The memory that decoding one image may allocate.
const MAX_DECODED_BYTES: u64 = 512 << 20;
/// The memory that a PNG decoder may allocate: a row at a time, and compressed data beside the image, such as a colour
/// profile.
const MAX_PNG_BYTES: u64 = 16 << 20;
/// An image of more bytes than this is decoded alone: all cores at once would take much memory.
const LARGE_BYTES: u64 = 64 << 20;
/// Up to this many pixels, any compression ratio is accepted.
const HARMLESS_PIXELS: u64 = 1 << 24;

/// Decodes an image and converts it to `shape`: see [`decode`] and [`fit`].
pub(crate) fn decode_to(bytes: &[u8], shape: ImageShape, border: usize) -> Result<Vec<u8>, String> {
    let (image, _alone) = decode_in_turn(bytes)?;
    fit(image, shape, border)
}

/// Decodes a PNG, JPEG, WebP, BMP, GIF (its first frame), TIFF (its first page) or PNM, recognised by content, and
/// turns it according to its EXIF data.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    decode_in_turn(bytes).map(|(image, _)| image)
}

/// Like [`decode`]; for a large image also returns the lock that keeps other large images waiting.
fn decode_in_turn(bytes: &[u8]) -> Result<(DynamicImage, Option<MutexGuard<'static, ()>>), String> {
    static TURN: Mutex<()> = Mutex::new(());
    let format = match Kind::of(bytes) {
        Kind::Image(format) => format,
        other => return Err(other.in_place_of_an_image()),
    };
    if is_cut_short_jpeg(bytes) {
        return Err("the JPEG ends too early".to_owned());
    }
    // A decoder's message may quote the file.
    let message = |error: image::ImageError| names::printable(&error.to_string());
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits(format));
    let mut decoder = reader.into_decoder().map_err(message)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(format!("{width}x{height} pixels cannot be decoded"));
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(format!(
            "{width}x{height} pixels exceed the limit of {} million",
            MAX_PIXELS / 1_000_000
        ));
    }
    if pixels > most_pixels(format, bytes) {
        return Err(format!(
            "{width}x{height} pixels do not fit into {} bytes",
            bytes.len()
        ));
    }
    let is_large = decoder.total_bytes() > LARGE_BYTES;
    let alone = is_large.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    let orientation = decoder.orientation().map_err(message)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(message)?;
    image.apply_orientation(orientation);
    Ok((image, alone))
}

/// A decoder's memory limits; some formats do not count the image itself.
fn limits(format: ImageFormat) -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(match format {
        ImageFormat::Png => MAX_PNG_BYTES,
        _ => MAX_DECODED_BYTES,
    });
    limits
}

/// The largest number of pixels that a file can hold: the memory that a header asks for is allocated only if the file
/// is long enough to fill it.
fn most_pixels(format: ImageFormat, bytes: &[u8]) -> u64 {
    let per_byte = match format {
        // Deflate expands a byte to at most 1,032. Here a PNG's header has the depth and the kind of its colours.
        ImageFormat::Png => {
            let channels = match bytes.get(25) {
                Some(2) => 3,
                Some(4) => 2,
                Some(6) => 4,
                _ => 1,
            };
            let depth = bytes.get(24).map_or(1, |&depth| u64::from(depth.max(1)));
            8 * 1032 / (channels * depth)
        }
        // In the first scan of a progressive file, a block of 64 pixels takes at least one bit.
        ImageFormat::Jpeg => 512,
        // A code of 12 bits stands for at most 4,096 pixels.
        ImageFormat::Gif => 2731,
        // A run of 255 pixels takes two bytes; at a bit per pixel, eight take one.
        ImageFormat::Bmp => 128,
        ImageFormat::Pnm => 8,
        // An arithmetic code, or a row that repeats the one above.
        _ => 8192,
    };
    (bytes.len() as u64)
        .saturating_mul(per_byte)
        .max(HARMLESS_PIXELS)
}

/// Whether a JPEG stops before its end-of-image marker: the decoder would fill the missing part with gray.
fn is_cut_short_jpeg(bytes: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    let Some(mut rest) = bytes.strip_prefix(&[0xff, START]) else {
        return false;
    };
    loop {
        // In the data of a scan, 0xff is followed by 0 (a data byte) or by a restart marker.
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7);
        let Some(place) = rest.windows(2).position(is_marker) else {
            return true;
        };
        let (marker, after) = (rest[place + 1], &rest[place + 2..]);
        let length = match marker {
            END => return false,
            START | 0x01 => 0,
            _ => match after.first_chunk() {
                Some(&length) => usize::from(u16::from_be_bytes(length)),
                None => return true,
            },
        };
        let Some(after) = after.get(length..) else {
            return true;
        };
        rest = after;
    }
}

/// Converts an image to `shape`, as planes `[channels, height, width]` of 0..=255.
///
/// With a border, the image is padded with black (MNIST's 28x28 to 32x32). Otherwise its centre square, or the largest
/// centred part of the shape's proportions, is resized bicubically with antialiasing: Catmull-Rom, widened by the scale
/// when shrinking, like Pillow's `BICUBIC`.
pub(crate) fn fit(
    image: DynamicImage,
    shape: ImageShape,
    border: usize,
) -> Result<Vec<u8>, String> {
    if shape.channels == 1 {
        Ok(fit_pixels(to_gray(image), shape, border)?.into_raw())
    } else {
        Ok(to_planes(&fit_pixels(to_rgb(image), shape, border)?))
    }
}

type Pixels<P> = ImageBuffer<P, Vec<u8>>;

fn fit_pixels<P: Pixel<Subpixel = u8> + 'static>(
    image: Pixels<P>,
    shape: ImageShape,
    border: usize,
) -> Result<Pixels<P>, String> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    // The sides of the largest part with the shape's proportions, at least one pixel each.
    let part = |side: u32, other: u32, wanted: u32, other_wanted: u32| {
        let proportional = u64::from(other) * u64::from(wanted) / u64::from(other_wanted.max(1));
        (proportional as u32).clamp(1, side)
    };
    let (of_width, of_height) = (
        part(image.width(), image.height(), width, height),
        part(image.height(), image.width(), height, width),
    );
    let (left, top) = (
        (image.width() - of_width) / 2,
        (image.height() - of_height) / 2,
    );
    let centre = if (of_width, of_height) == image.dimensions() {
        image
    } else {
        imageops::crop_imm(&image, left, top, of_width, of_height).to_image()
    };
    if border > 0 {
        let mut padded = ImageBuffer::new(width, height);
        imageops::replace(&mut padded, &centre, border as i64, border as i64);
        Ok(padded)
    } else if (of_width, of_height) == (width, height) {
        Ok(centre)
    } else {
        resize(centre, width, height).map_err(|error| error.to_string())
    }
}

/// Rows first and then columns, because that is the order in which Pillow rounds.
fn resize<P: Pixel<Subpixel = u8>>(
    source: Pixels<P>,
    width: u32,
    height: u32,
) -> Result<Pixels<P>, Box<dyn Error>> {
    let is_gray = P::CHANNEL_COUNT == 1;
    let kind = if is_gray {
        PixelType::U8
    } else {
        PixelType::U8x3
    };
    let resample = if is_gray {
        resample::<U8>
    } else {
        resample::<U8x3>
    };
    let source_height = source.height();
    let source = Image::from_vec_u8(source.width(), source_height, source.into_raw(), kind)?;
    let mut rows = Image::new(width, source_height, kind);
    resample(&source, &mut rows)?;
    let mut target = Image::new(width, height, kind);
    resample(&rows, &mut target)?;
    ImageBuffer::from_raw(width, height, target.into_vec()).ok_or("it cannot be resized".into())
}

/// Bicubic. `Resizer::resize` would do the same, but for all types of pixels, whose code takes a minute to compile.
fn resample<T: PixelTrait>(source: &Image, target: &mut Image) -> Result<(), ResizeError> {
    let bicubic = ResizeAlg::Convolution(FilterType::CatmullRom);
    let options = ResizeOptions::new().resize_alg(bicubic);
    match (source.typed_image::<T>(), target.typed_image_mut::<T>()) {
        (Some(source), Some(mut target)) => {
            Resizer::new().resize_typed(&source, &mut target, &options)
        }
        _ => Err(ResizeError::PixelTypesAreDifferent),
    }
}

/// RGB with 8 bits per channel; transparent pixels become white.
fn to_rgb(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut opaque = RgbImage::new(image.width(), image.height());
    for (target, source) in opaque.pixels_mut().zip(image.pixels()) {
        let alpha = u32::from(source[3]);
        for channel in 0..3 {
            let mixed = u32::from(source[channel]) * alpha + 255 * (255 - alpha);
            target[channel] = ((mixed + 127) / 255) as u8;
        }
    }
    opaque
}

/// Gray with 8 bits; colours become their luma of ITU-R 601-2, as in Pillow's `convert("L")`.
fn to_gray(image: DynamicImage) -> GrayImage {
    if matches!(
        image,
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_)
    ) {
        return image.into_luma8();
    }
    let colour = to_rgb(image);
    let mut gray = GrayImage::new(colour.width(), colour.height());
    for (target, source) in gray.pixels_mut().zip(colour.pixels()) {
        let [red, green, blue] = source.0.map(u32::from);
        target[0] = ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8;
    }
    gray
}

/// `[height, width, 3]` to `[3, height, width]`.
fn to_planes(image: &RgbImage) -> Vec<u8> {
    let mut planes = Vec::with_capacity(image.as_raw().len());
    for channel in 0..3 {
        planes.extend(image.pixels().map(|pixel| pixel[channel]));
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples;
    use image::ImageFormat;
    use proptest::prelude::*;

    const GRAY: ImageShape = ImageShape {
        channels: 1,
        height: 8,
        width: 8,
    };
    const COLOUR: ImageShape = ImageShape {
        channels: 3,
        height: 8,
        width: 8,
    };

    #[test]
    fn every_format_is_told_apart_by_its_content() {
        for format in examples::FORMATS {
            let image = decode(&examples::encode(format, 20, 10)).unwrap();
            assert_eq!((image.width(), image.height()), (20, 10), "{format:?}");
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_not_decoded() {
        for format in examples::FORMATS {
            let bytes = examples::encode(format, 64, 64);
            for len in [0, 1, 10, bytes.len() / 2, bytes.len() - 30] {
                assert!(
                    decode(&bytes[..len]).is_err(),
                    "{format:?} cut to {len} of {}",
                    bytes.len()
                );
            }
        }
    }

    #[test]
    fn what_follows_the_end_of_a_jpeg_does_not_matter() {
        let mut bytes = examples::encode(ImageFormat::Jpeg, 16, 16);
        bytes.extend([0, 0xff, 0xda, 7, 7, 0xff]);
        assert!(decode(&bytes).is_ok());
    }

    /// A PNG of 8x8 pixels whose header claims another size.
    fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
        let mut png = examples::encode(ImageFormat::Png, 8, 8);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = {
            let mut checksum = flate2::Crc::new();
            checksum.update(&png[12..29]);
            checksum.sum()
        };
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        png
    }

    #[test]
    fn absurd_dimensions_are_refused_before_any_memory_is_taken() {
        assert!(decode(&png_that_claims(32_767, 32_767)).is_err());
        // This is within the limit for one image, but more than the file can hold.
        let message = decode(&png_that_claims(9_000, 9_000)).unwrap_err();
        assert!(message.contains("9000x9000 pixels do not fit"), "{message}");
        // A JPEG's size follows the marker of its frame.
        let mut jpeg = examples::encode(ImageFormat::Jpeg, 8, 8);
        let frame = jpeg
            .windows(2)
            .position(|marker| marker == [0xff, 0xc0])
            .unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x27, 0x10, 0x27, 0x10]);
        let message = decode(&jpeg).unwrap_err();
        assert!(
            message.contains("10000x10000 pixels do not fit"),
            "{message}"
        );
        // A GIF has its size in its first bytes.
        let mut gif = examples::encode(ImageFormat::Gif, 8, 8);
        gif[6..10].copy_from_slice(&[0x10, 0x27, 0x10, 0x27]);
        let message = decode(&gif).unwrap_err();
        assert!(
            message.contains("10000x10000 pixels do not fit"),
            "{message}"
        );
    }

    #[test]
    fn more_pixels_than_any_camera_has_are_refused() {
        // Flat, so that a file of this length could hold as many.
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::new(10_001, 10_000)
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        let message = decode(bytes.get_ref()).unwrap_err();
        assert!(
            message.contains("10001x10000 pixels exceed the limit of 100 million"),
            "{message}"
        );
    }

    #[test]
    fn a_colour_profile_cannot_unpack_to_much() {
        let png = examples::encode(ImageFormat::Png, 8, 8);
        let with_profile = |len: usize| {
            let mut packed =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut packed, &vec![0; len]).unwrap();
            let content = [b"iCCP", &b"x\0\0"[..], &packed.finish().unwrap()].concat();
            let mut checksum = flate2::Crc::new();
            checksum.update(&content);
            let length = (content.len() as u32 - 4).to_be_bytes();
            let chunk = [&length[..], &content, &checksum.sum().to_be_bytes()].concat();
            // Behind the header.
            [&png[..33], &chunk, &png[33..]].concat()
        };
        let profile = |bytes: &[u8]| {
            let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
            reader.limits(limits(ImageFormat::Png));
            let mut decoder = reader.into_decoder().unwrap();
            decoder.icc_profile().unwrap().map(|profile| profile.len())
        };
        let sound = with_profile(100_000);
        assert_eq!(profile(&sound), Some(100_000));
        // The colours do not depend on the profile: the image is read without it.
        let bomb = with_profile(64 << 20);
        assert_eq!(profile(&bomb), None);
        assert_eq!(decode(&bomb), decode(&sound));
    }

    #[test]
    fn flat_images_are_as_large_as_they_say() {
        // One colour in each compressed format: far more pixels than bytes.
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif] {
            let image = RgbImage::from_pixel(6000, 4000, [7, 7, 7].into());
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::from(image)
                .write_to(&mut bytes, format)
                .unwrap();
            let image = decode(bytes.get_ref()).unwrap();
            assert_eq!(image.width(), 6000, "{format:?}");
        }
    }

    #[test]
    fn what_stands_in_place_of_an_image_is_named() {
        for (bytes, words) in [
            (&b""[..], "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1
oid",
                "git lfs pull",
            ),
            (b"<!DOCTYPE html><html>", "HTML page"),
            (b"\0\0\0\x20ftypheic\0\0", "HEIC"),
            (b"no image at all", "no image"),
        ] {
            let message = decode(bytes).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn the_centre_square_is_kept() {
        // Columns 0..4 are black, 4..12 white, 12..16 black: the middle 8 are white.
        let image = GrayImage::from_fn(16, 8, |x, _| {
            [if (4..12).contains(&x) { 255 } else { 0 }].into()
        });
        assert_eq!(fit(image.into(), GRAY, 0).unwrap(), [255; 64]);
        let image = RgbImage::from_fn(8, 16, |_, y| {
            [10, if (4..12).contains(&y) { 20 } else { 0 }, 30].into()
        });
        let planes = fit(image.into(), COLOUR, 0).unwrap();
        assert_eq!(planes, [[10; 64], [20; 64], [30; 64]].concat());
    }

    #[test]
    fn a_border_is_black_and_all_around() {
        let image = GrayImage::from_pixel(4, 4, [200].into());
        let padded = fit(image.into(), GRAY, 2).unwrap();
        for (index, &pixel) in padded.iter().enumerate() {
            let inside = |position: usize| (2..6).contains(&position);
            let expected = if inside(index / 8) && inside(index % 8) {
                200
            } else {
                0
            };
            assert_eq!(pixel, expected, "pixel {index}");
        }
    }

    #[test]
    fn gray_as_colour_has_three_equal_planes() {
        let image = GrayImage::from_fn(8, 8, |x, y| [(x * 8 + y) as u8].into());
        let gray = fit(image.clone().into(), GRAY, 0).unwrap();
        assert_eq!(gray, fit(image.clone().into(), GRAY, 0).unwrap());
        assert_eq!(
            fit(image.into(), COLOUR, 0).unwrap(),
            [&gray[..], &gray, &gray].concat()
        );
    }

    /// `tests/fixtures/decoding.py` made the files and Pillow's results for them.
    #[test]
    fn pixels_are_those_of_pillow() {
        let fixture = include_bytes!("../tests/fixtures/decoding.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(fixture).unwrap();
        let names: Vec<_> = tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(".file"))
            .collect();
        assert!(names.len() > 20);
        let mut differing = Vec::new();
        for name in names {
            let file = tensors.tensor(&format!("{name}.file")).unwrap();
            let image = decode(file.data()).unwrap_or_else(|error| panic!("{name}: {error}"));
            // JPEG decoders may differ in rounding and in enlarging chroma.
            let is_jpeg = name.starts_with("jpeg");
            let (most, on_average) = if is_jpeg { (2, 0.5) } else { (1, 0.02) };
            for (kind, channels) in [("gray", 1), ("rgb", 3)] {
                let shape = ImageShape {
                    channels,
                    height: 24,
                    width: 24,
                };
                let expected = tensors.tensor(&format!("{name}.{kind}")).unwrap();
                let pixels = fit(image.clone(), shape, 0).unwrap();
                assert_eq!(pixels.len(), expected.data().len(), "{name}.{kind}");
                let differences = pixels
                    .iter()
                    .zip(expected.data())
                    .map(|(a, b)| a.abs_diff(*b));
                let largest = differences.clone().max().unwrap_or(0);
                let mean = differences.map(f64::from).sum::<f64>() / pixels.len() as f64;
                println!("{name}.{kind}: largest difference {largest}, mean {mean:.3}");
                if largest > most || mean > on_average {
                    differing.push(format!("{name}.{kind}"));
                }
            }
        }
        assert!(differing.is_empty(), "{differing:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(
            start in prop::sample::select(examples::FORMATS.to_vec()),
            kept in 0usize..200,
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = examples::encode(start, 9, 7);
            bytes.truncate(kept);
            bytes.extend(rest);
            if let Ok(image) = decode(&bytes) {
                prop_assert_eq!(fit(image, GRAY, 0).unwrap().len(), 64);
            }
        }

        #[test]
        fn one_colour_stays_that_colour(width in 1u32..40, height in 1u32..40, colour: [u8; 3]) {
            let image = RgbImage::from_pixel(width, height, colour.into());
            let planes = fit(image.into(), COLOUR, 0).unwrap();
            for (plane, expected) in planes.chunks(64).zip(colour) {
                prop_assert!(plane.iter().all(|&pixel| pixel == expected));
            }
        }
    }
}
