//! From the bytes of an image file to pixels of the configured shape.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageDecoder, ImageReader, Limits, Pixel, RgbImage,
};

use crate::dataset::ImageShape;

/// No image of a data set is wider or higher; a header that says so is a mistake or an attack.
const MAX_SIDE: u32 = 32_768;
/// What decoding one image may allocate. All cores decode at once.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Decodes a PNG, JPEG, WebP, BMP or GIF (its first frame), told apart by content, and turns it as its EXIF says.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    if is_cut_short_jpeg(bytes) {
        return Err("the JPEG ends too early".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(format!("{width}x{height} pixels cannot be decoded"));
    }
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether a JPEG lacks its end-of-image marker. The decoder fills what is missing with gray; here such a file is
/// damaged. Between the start of a scan and the end no marker bytes occur by chance: a data byte 0xFF is followed by 0.
fn is_cut_short_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    bytes.starts_with(&[0xff, 0xd8]) && last([0xff, 0xd9]) <= last([0xff, 0xda])
}

/// Brings an image to `shape`, as planes `[channels, height, width]` of 0..=255.
///
/// With a border, the image is put into the middle of black (MNIST's 28x28 into 32x32). Otherwise its centre square is
/// resized bicubically with antialiasing: Catmull-Rom, widened by the scale when shrinking, as Pillow's `BICUBIC`.
pub(crate) fn fit(image: DynamicImage, shape: ImageShape, border: usize) -> Vec<u8> {
    if shape.channels == 1 {
        fit_square(&to_gray(image), shape, border).into_raw()
    } else {
        to_planes(&fit_square(&to_rgb(image), shape, border))
    }
}

type Pixels<P> = ImageBuffer<P, Vec<u8>>;

fn fit_square<P: Pixel<Subpixel = u8> + 'static>(
    image: &Pixels<P>,
    shape: ImageShape,
    border: usize,
) -> Pixels<P> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    let side = image.width().min(image.height());
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    let square = imageops::crop_imm(image, left, top, side, side);
    if border > 0 {
        let mut padded = ImageBuffer::new(width, height);
        imageops::replace(&mut padded, &*square, border as i64, border as i64);
        padded
    } else if (side, side) == (width, height) {
        square.to_image()
    } else {
        imageops::resize(&*square, width, height, FilterType::CatmullRom)
    }
}

/// RGB as 8 bits a channel; what is transparent shows white.
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

/// Gray as 8 bits; of colours, their luma of ITU-R 601-2, as Pillow's `convert("L")`.
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
