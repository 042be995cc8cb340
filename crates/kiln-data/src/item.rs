//! One image of a data set, before it is decoded.

use std::sync::Arc;

use image::{DynamicImage, GrayImage, RgbImage};

use crate::contents::Content;
use crate::decode;
use crate::image_shape::ImageShape;
use crate::undecodable::Unloaded;

/// One image that a source found.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) label: Option<u32>,
    pub(crate) picture: Picture,
}

/// Where an image comes from.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    /// An image file.
    Encoded { name: String, content: Content },
    /// Pixels `[channels, height, width]` of 0..=255, `start` bytes into a file that is in memory.
    Pixels {
        bytes: Arc<[u8]>,
        start: usize,
        shape: ImageShape,
    },
}

impl Item {
    pub(crate) fn name(&self) -> String {
        match &self.picture {
            Picture::Encoded { name, .. } => name.clone(),
            Picture::Pixels { start, shape, .. } => {
                format!("image {}", start / shape.elements().max(1))
            }
        }
    }

    /// The length of its file in bytes.
    pub(crate) fn size(&self) -> std::io::Result<u64> {
        match &self.picture {
            Picture::Encoded { content, .. } => content.size(),
            Picture::Pixels { shape, .. } => Ok(shape.elements() as u64),
        }
    }

    /// The image as `[channels, height, width]` of 0..=255, or the problem with it.
    pub(crate) fn load(&self, shape: ImageShape, border: usize) -> Result<Vec<u8>, Unloaded> {
        let image = match &self.picture {
            Picture::Encoded { content, .. } => {
                return Ok(decode::decode_to(&content.read()?, shape, border)?);
            }
            Picture::Pixels { .. } => self.original()?,
        };
        Ok(decode::fit(image, shape, border)?)
    }

    /// The image as it is in its file, or the problem with it.
    pub(crate) fn original(&self) -> Result<DynamicImage, Unloaded> {
        match &self.picture {
            Picture::Encoded { content, .. } => Ok(decode::decode(&content.read()?)?),
            Picture::Pixels {
                bytes,
                start,
                shape,
            } => {
                let planes = bytes.get(*start..start.saturating_add(shape.elements()));
                let image = planes.and_then(|planes| from_planes(planes, *shape));
                Ok(image.ok_or_else(|| "it is cut short".to_owned())?)
            }
        }
    }
}

/// `[channels, height, width]` to an image.
fn from_planes(planes: &[u8], shape: ImageShape) -> Option<DynamicImage> {
    let (width, height) = (
        u32::try_from(shape.width).ok()?,
        u32::try_from(shape.height).ok()?,
    );
    if shape.channels == 1 {
        return GrayImage::from_raw(width, height, planes.to_vec()).map(DynamicImage::from);
    }
    let (red, rest) = planes.split_at_checked(shape.height * shape.width)?;
    let (green, blue) = rest.split_at_checked(shape.height * shape.width)?;
    let pixels = red
        .iter()
        .zip(green)
        .zip(blue)
        .flat_map(|((&r, &g), &b)| [r, g, b])
        .collect();
    RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
}
