//! The errors of using a model.

use burn::tensor::TensorReadError;
use kiln_checkpoint::CheckpointError;
use kiln_data::ImageShape;
use kiln_diffusion::DiffusionError;
use thiserror::Error;

/// A model, a request or a device does not work. Each message is one sentence.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's folder is missing, incomplete or damaged.
    #[error(transparent)]
    Model(#[from] CheckpointError),
    /// The schedule does not allow the requested sampling.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// The U-Net's classes are not rows of a table.
    #[error(
        "the model's unet/config.json has a `class_embed_type`, and only a table of classes (`num_class_embeds` alone) can be sampled from; use another model"
    )]
    ClassEmbedding,
    /// A class was requested from a model without classes.
    #[error(
        "the model was trained without class labels, so it cannot be asked for a class; leave the class out, or use a model with classes"
    )]
    NoClasses,
    /// Guidance was requested from a model that has neither classes nor a guide.
    #[error(
        "the model cannot be guided: it was trained without class labels and has no guide; leave the guidance out, or name a worse version of the model as its guide (`--guide`, or `kiln model guide` before a distillation)"
    )]
    NoGuide,
    /// There is no such class.
    #[error("the model has no class `{class}`; {advice}")]
    NoSuchClass {
        /// The requested class.
        class: String,
        /// The possible classes, as advice.
        advice: String,
    },
    /// The model needs a class to draw.
    #[error("the model was never trained without a class label, so it needs a class; name one")]
    ClassNeeded,
    /// The model has no null class.
    #[error(
        "guidance needs a model that was also trained without labels, and this one has no null class; leave the guidance out, or train with label dropout"
    )]
    NoNullClass,
    /// The model takes steps that are too long to be taken back.
    #[error(
        "the model was distilled to draw in few long steps, which cannot be taken back to an image's noise; use the model that it was distilled from"
    )]
    NoWayBack,
    /// The image's shape differs from the model's.
    #[error(
        "the image is {} and the model's images are {}; fit it first",
        words(given),
        words(expected)
    )]
    ImageShape {
        /// The shape of the image.
        given: ImageShape,
        /// The model's value.
        expected: ImageShape,
    },
    /// The mask's size differs from the image's.
    #[error(
        "the mask has {width}x{height} pixels and the image {image_width}x{image_height}; give one gray mask of the same size"
    )]
    MaskShape {
        /// The mask's pixels from left to right.
        width: usize,
        /// The mask's pixels from top to bottom.
        height: usize,
        /// The image's pixels from left to right.
        image_width: usize,
        /// The image's pixels from top to bottom.
        image_height: usize,
    },
    /// The model does not record the size of its latents.
    #[error(
        "the model's unet/config.json has no `sample_size`, so the size of the images is unknown; add it: the side of the latents or, without a first stage, of the images"
    )]
    NoSampleSize,
    /// Images that do not fit into memory.
    #[error(
        "{} about {needed:.1} GB of memory, and {free:.1} GB are free: {}",
        match images { 1 => "an image needs".to_owned(), images => format!("{images} images need") },
        match images { 1 => "use a model of a smaller sample_size", _ => "draw fewer, or fewer at a time (--batch)" }
    )]
    Memory {
        /// The requested number of images.
        images: usize,
        /// The required memory, in units of 10^9 bytes.
        needed: f64,
        /// The free memory, in the same unit.
        free: f64,
    },
    /// Images with another number of channels.
    #[error(
        "the images have {channels} channel(s) but the model takes {expected}; use data.channels = {expected}"
    )]
    ImageChannels {
        /// The images' number.
        channels: usize,
        /// The model's value.
        expected: usize,
    },
    /// Images that the model's levels cannot halve.
    #[error(
        "images of {height}x{width} do not fit the model: its sides must be multiples of {factor}"
    )]
    ImageSize {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// The required divisor of both.
        factor: usize,
    },
    /// The U-Net's output is not finite.
    #[error(
        "the model is broken: in step {step}, at timestep {timestep:.0}, its network's output is not finite (NaN or infinity); `kiln doctor` examines it, and training it again from a good checkpoint with a lower learning rate may repair it"
    )]
    NetworkNotFinite {
        /// The step, from 1.
        step: usize,
        /// The timestep in the network's input.
        timestep: f64,
    },
    /// The output of another part of the model is not finite.
    #[error(
        "the model is broken: {0} has numbers that are not finite (NaN or infinity); `kiln doctor` examines it"
    )]
    NotFinite(&'static str),
    /// A picture could not be written.
    #[error(transparent)]
    Picture(#[from] crate::pictures::PictureError),
    /// An observer ended the drawing.
    #[error("the drawing was stopped before its end")]
    Stopped,
    /// The device failed while computing.
    #[error("the device failed: {0}")]
    Compute(#[from] TensorReadError),
}

/// "28x28 with 1 channel(s)".
fn words(shape: &ImageShape) -> String {
    let ImageShape {
        channels,
        height,
        width,
    } = shape;
    format!("{width}x{height} with {channels} channel(s)")
}
