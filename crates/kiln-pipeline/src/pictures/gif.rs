//! Pictures one after the other: an animated GIF.

use std::{io::Write, path::Path};

use color_quant::NeuQuant;
use gif::{Encoder, Frame, Repeat};
use image::{
    DynamicImage, ImageError, ImageFormat, ImageResult,
    error::{EncodingError, ImageFormatHint, ParameterError, ParameterErrorKind},
};

use super::file::{self, PictureError};
use super::grid::{Picture, enlarged};

/// The time of each frame, in hundredths of a second.
const FRAME_TIME: u16 = 10;
/// The time of the last frame, longer because it is the finished picture.
const LAST_FRAME_TIME: u16 = 200;
/// The least number of pixels of an animation's longer side. Smaller animations are enlarged.
const SMALLEST: u32 = 256;
/// The approximate number of pixels from which the palette is chosen.
const PALETTE_PIXELS: usize = 1 << 19;
/// 1 (best palette) to 30 (fastest); 10 is usual.
const PALETTE_SPEED: i32 = 10;

/// Writes pictures of one size as an animation that repeats forever and rests on its last frame. Small ones are
/// enlarged by a whole number.
///
/// All frames share the file's one palette, which is the 256 grays if there is no colour. Readers disagree about
/// palettes of single frames.
///
/// # Errors
/// [`PictureError`] if the file cannot be written, or if a side is longer than GIF's 65,535 pixels.
pub fn save_gif(frames: &[Picture], path: &Path) -> Result<(), PictureError> {
    save(frames, false, path)
}

/// Like [`save_gif`], but without the rest on the last frame: for pictures whose last one leads to the first.
///
/// # Errors
/// The errors of [`save_gif`].
pub fn save_looping_gif(frames: &[Picture], path: &Path) -> Result<(), PictureError> {
    save(frames, true, path)
}

fn save(frames: &[Picture], is_loop: bool, path: &Path) -> Result<(), PictureError> {
    file::write(path, |file| {
        Ok(file.write_all(&gif_bytes(frames, is_loop)?)?)
    })
}

/// The file of [`save_gif`] or, for frames that lead to the first again, of [`save_looping_gif`].
pub(super) fn gif_bytes(frames: &[Picture], is_loop: bool) -> ImageResult<Vec<u8>> {
    let frames: Vec<Picture> = frames
        .iter()
        .map(|frame| enlarged(frame, factor(frame)))
        .collect();
    let Some(first) = frames.first() else {
        return Ok(Vec::new());
    };
    let (width, height) = (side(first.width())?, side(first.height())?);
    let colours = Colours::of(&frames);
    let mut encoder =
        Encoder::new(Vec::new(), width, height, &colours.palette()).map_err(encoding)?;
    encoder.set_repeat(Repeat::Infinite).map_err(encoding)?;
    for (index, picture) in frames.iter().enumerate() {
        let rests = !is_loop && index + 1 == frames.len();
        let frame = Frame {
            width,
            height,
            delay: if rests { LAST_FRAME_TIME } else { FRAME_TIME },
            buffer: colours.indices(picture).into(),
            ..Frame::default()
        };
        encoder.write_frame(&frame).map_err(encoding)?;
    }
    encoder.into_inner().map_err(encoding)
}

/// The factor by which a small picture is enlarged.
fn factor(picture: &Picture) -> u32 {
    let longer = picture.width().max(picture.height()).max(1);
    SMALLEST.div_ceil(longer)
}

fn side(pixels: u32) -> ImageResult<u16> {
    u16::try_from(pixels).map_err(|_| {
        let kind = ParameterErrorKind::DimensionMismatch;
        ImageError::Parameter(ParameterError::from_kind(kind))
    })
}

fn encoding(error: gif::EncodingError) -> ImageError {
    match error {
        gif::EncodingError::Io(error) => ImageError::IoError(error),
        error => ImageError::Encoding(EncodingError::new(
            ImageFormatHint::Exact(ImageFormat::Gif),
            error,
        )),
    }
}

/// The palette of a whole animation.
enum Colours {
    /// Every gray; its index is the gray itself.
    Grays,
    /// 256 colours that represent all colours of the frames.
    Chosen(NeuQuant),
}

impl Colours {
    fn of(frames: &[Picture]) -> Self {
        if frames
            .iter()
            .all(|frame| matches!(frame, DynamicImage::ImageLuma8(_)))
        {
            return Self::Grays;
        }
        // The last frame is seen longest, so it counts as much as all others.
        let (others, last) = frames.split_at(frames.len().saturating_sub(1));
        let samples = [sampled(others), sampled(last)].concat();
        Self::Chosen(NeuQuant::new(PALETTE_SPEED, 256, &samples))
    }

    /// Red, green and blue of each index.
    fn palette(&self) -> Vec<u8> {
        match self {
            Self::Grays => (0..=255).flat_map(|gray| [gray; 3]).collect(),
            Self::Chosen(chosen) => chosen.color_map_rgb(),
        }
    }

    /// The index of each pixel.
    fn indices(&self, picture: &Picture) -> Vec<u8> {
        match self {
            Self::Grays => picture.to_luma8().into_raw(),
            Self::Chosen(chosen) => {
                let rgba = picture.to_rgba8();
                let indices = rgba.pixels().map(|pixel| chosen.index_of(&pixel.0) as u8);
                indices.collect()
            }
        }
    }
}

/// Red, green, blue and opacity of at most about [`PALETTE_PIXELS`] pixels, spread over these frames.
fn sampled(frames: &[Picture]) -> Vec<u8> {
    let pixels: usize = (frames.iter())
        .map(|frame| frame.width() as usize * frame.height() as usize)
        .sum();
    let every = pixels / PALETTE_PIXELS + 1;
    let sampled = frames.iter().flat_map(|frame| {
        let rgba = frame.to_rgba8();
        let pixels = rgba.pixels().step_by(every);
        pixels.flat_map(|pixel| pixel.0).collect::<Vec<u8>>()
    });
    sampled.collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, io::BufReader};

    use image::{AnimationDecoder, GrayImage, Luma, Rgb, RgbImage, codecs::gif::GifDecoder};

    use super::*;

    fn decoded(path: &Path) -> Vec<image::Frame> {
        let decoder = GifDecoder::new(BufReader::new(File::open(path).unwrap())).unwrap();
        decoder.into_frames().collect_frames().unwrap()
    }

    /// The number of shared colours in a GIF's header.
    fn shared_colours(bytes: &[u8]) -> usize {
        let flags = bytes[10];
        assert!(flags & 0x80 != 0, "there is a palette of the whole file");
        2 << (flags & 7)
    }

    #[test]
    fn frames_come_back_in_order_and_the_last_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denoising.gif");
        let frames: Vec<Picture> = [0, 120, 255]
            .map(|gray| GrayImage::from_pixel(5, 4, Luma([gray])).into())
            .into();
        save_gif(&frames, &path).unwrap();
        let milliseconds = |frames: &[image::Frame]| -> Vec<u32> {
            frames
                .iter()
                .map(|frame| frame.delay().numer_denom_ms().0)
                .collect()
        };
        let shown = decoded(&path);
        let grays: Vec<u8> = shown
            .iter()
            .map(|frame| frame.buffer().get_pixel(2, 2).0[0])
            .collect();
        assert_eq!(grays, [0, 120, 255]);
        assert_eq!(milliseconds(&shown), [100, 100, 2000]);

        save_looping_gif(&frames, &path).unwrap();
        assert_eq!(milliseconds(&decoded(&path)), [100, 100, 100]);
    }

    #[test]
    fn gray_frames_share_the_palette_of_all_grays() {
        let frames: Vec<Picture> = [3, 200]
            .map(|gray| GrayImage::from_pixel(300, 2, Luma([gray])).into())
            .into();
        let bytes = gif_bytes(&frames, false).unwrap();
        assert_eq!(shared_colours(&bytes), 256);
        let palette = &bytes[13..13 + 768];
        let grays = palette.chunks_exact(3).enumerate();
        assert!(
            grays
                .clone()
                .all(|(gray, colour)| colour == [gray as u8; 3])
        );
        let mut reader = gif::DecodeOptions::new().read_info(&bytes[..]).unwrap();
        for gray in [3, 200] {
            let frame = reader.read_next_frame().unwrap().unwrap();
            assert!(frame.palette.is_none(), "no frame has a palette of its own");
            assert!(frame.buffer.iter().all(|&index| index == gray));
        }
    }

    #[test]
    fn colours_come_back_nearly_as_they_were() {
        let frames: Vec<Picture> = [[200, 10, 10], [10, 10, 200], [90, 90, 90]]
            .map(|colour| RgbImage::from_pixel(20, 20, Rgb(colour)).into())
            .into();
        let bytes = gif_bytes(&frames, false).unwrap();
        assert_eq!(shared_colours(&bytes), 256);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("colours.gif");
        fs::write(&path, &bytes).unwrap();
        for (frame, picture) in decoded(&path).iter().zip(&frames) {
            let (shown, meant) = (frame.buffer().get_pixel(5, 5), picture.to_rgba8());
            let pairs = shown.0.iter().zip(meant.get_pixel(5, 5).0);
            let largest = pairs.map(|(one, other)| one.abs_diff(other)).max();
            assert!(largest <= Some(4), "{shown:?} in place of {meant:?}");
        }
    }

    #[test]
    fn small_animations_are_enlarged() {
        let frame = |width, height| -> Vec<Picture> { vec![GrayImage::new(width, height).into()] };
        let size = |frames: &[Picture]| {
            let bytes = gif_bytes(frames, false).unwrap();
            let reader = gif::DecodeOptions::new().read_info(&bytes[..]).unwrap();
            (reader.width(), reader.height())
        };
        assert_eq!(size(&frame(28, 14)), (280, 140));
        assert_eq!(size(&frame(242, 242)), (484, 484));
        assert_eq!(size(&frame(20, 256)), (20, 256));
        assert!(gif_bytes(&frame(70_000, 1), false).is_err());
    }
}
