//! Pictures one after the other: an animated GIF.

use std::path::Path;

use image::{
    Delay, Frame,
    codecs::gif::{GifEncoder, Repeat},
};

use super::{Picture, PictureError, file};

/// How long each frame is shown, in milliseconds.
const FRAME_MILLISECONDS: u32 = 100;
/// How long the last frame is shown: the finished picture deserves a look.
const LAST_FRAME_MILLISECONDS: u32 = 2000;
/// 1 (best palette) to 30 (fastest); 10 is the encoder's usual compromise.
const ENCODER_SPEED: i32 = 10;

/// Writes pictures of one size as an animation that repeats for ever and rests on its last frame.
///
/// # Errors
/// [`PictureError`] when the file cannot be written, or a side is longer than GIF's 65,535 pixels.
pub fn save_gif(frames: &[Picture], path: &Path) -> Result<(), PictureError> {
    save(frames, LAST_FRAME_MILLISECONDS, path)
}

/// As [`save_gif`], without the rest: for pictures whose last one leads to the first.
///
/// # Errors
/// Those of [`save_gif`].
pub fn save_looping_gif(frames: &[Picture], path: &Path) -> Result<(), PictureError> {
    save(frames, FRAME_MILLISECONDS, path)
}

fn save(frames: &[Picture], last_frame: u32, path: &Path) -> Result<(), PictureError> {
    file::write(path, |writer| {
        let mut encoder = GifEncoder::new_with_speed(writer, ENCODER_SPEED);
        encoder.set_repeat(Repeat::Infinite)?;
        for (index, picture) in frames.iter().enumerate() {
            let is_last = index + 1 == frames.len();
            let shown = if is_last {
                last_frame
            } else {
                FRAME_MILLISECONDS
            };
            let delay = Delay::from_numer_denom_ms(shown, 1);
            encoder.encode_frame(Frame::from_parts(picture.to_rgba8(), 0, 0, delay))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::BufReader};

    use image::{AnimationDecoder, GrayImage, Luma, codecs::gif::GifDecoder};

    use super::*;

    #[test]
    fn frames_come_back_in_order_and_the_last_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denoising.gif");
        let frames: Vec<Picture> = [0, 120, 255]
            .map(|gray| GrayImage::from_pixel(5, 4, Luma([gray])).into())
            .into();
        save_gif(&frames, &path).unwrap();

        let decoder = GifDecoder::new(BufReader::new(File::open(&path).unwrap())).unwrap();
        let decoded = decoder.into_frames().collect_frames().unwrap();
        let grays: Vec<u8> = decoded
            .iter()
            .map(|frame| frame.buffer().get_pixel(2, 2).0[0])
            .collect();
        let delays: Vec<u32> = decoded
            .iter()
            .map(|frame| frame.delay().numer_denom_ms().0)
            .collect();
        assert_eq!(grays, [0, 120, 255]);
        assert_eq!(
            delays,
            [
                FRAME_MILLISECONDS,
                FRAME_MILLISECONDS,
                LAST_FRAME_MILLISECONDS
            ]
        );

        save_looping_gif(&frames, &path).unwrap();
        let decoder = GifDecoder::new(BufReader::new(File::open(&path).unwrap())).unwrap();
        let decoded = decoder.into_frames().collect_frames().unwrap();
        assert_eq!(decoded.len(), 3);
        assert!(
            decoded
                .iter()
                .all(|frame| { frame.delay().numer_denom_ms().0 == FRAME_MILLISECONDS })
        );
    }
}
