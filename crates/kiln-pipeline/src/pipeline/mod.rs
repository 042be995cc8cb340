//! A whole model: noise in, images out.
//!
//! ```text
//! model.rs       the model itself: loaded, guided, with what it says of drawing
//! options.rs     how to draw
//! drawing.rs     the one road: numbers and classes -> noise, labels -> denoiser -> sampler -> latents -> images
//! sampling.rs    what goes down that road: from noise, from an image, by a sampler of one's own, into a hole
//! denoiser.rs    the network as a denoiser, guided
//! observed.rs    who sees the steps
//! classes.rs     what a conditional model can be asked for
//! images.rs      images to latents and back
//! mask.rs        which part of an image is filled in
//! negative.rs    whether an image has light and dark the wrong way round
//! noises.rs      up the trajectory to an image's noise, and from noise to noise
//! finite.rs      whether what comes out of the networks is a number
//! ```

mod classes;
mod denoiser;
mod drawing;
mod finite;
mod images;
mod mask;
mod model;
mod negative;
mod noises;
mod observed;
mod options;
mod sampling;

pub use classes::Classes;
pub use drawing::Wanted;
pub use model::Pipeline;
pub use noises::{Interpolation, Stops};
pub use observed::{Moment, Observed, Observer};
pub use options::SampleOptions;
pub use sampling::Start;
