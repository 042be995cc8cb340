//! A trained model in use: it draws images from noise, and edits images. No training, no network, no terminal.
//!
//! A [`Pipeline`] is a whole model, which draws images and edits them. An [`Autoencoder`] is its first stage alone.
//! Both are read from a folder or from bytes in memory ([`ModelSource`](kiln_checkpoint::ModelSource)), so all of this
//! also runs in a browser.
//!
//! | module | contents |
//! | --- | --- |
//! | `pipeline/` | the one path from noise to images, and back |
//! | `autoencoder` | images to latents to images |
//! | [`devices`] | from a word such as `cuda:1` to a device that exists and works |
//! | [`pictures`] | images on the host, and as PNG and GIF |
//! | `plots` | curves as SVG and PNG |
//!
//! wasm32 has all of it except for the parts with letters, `plots` and the labels of [`pictures`]: a page draws those
//! itself.

#![recursion_limit = "256"]

mod autoencoder;
pub mod devices;
mod error;
#[cfg(not(target_arch = "wasm32"))]
mod font;
mod memory;
pub mod pictures;
mod pipeline;
#[cfg(not(target_arch = "wasm32"))]
pub mod plots;
mod suggestion;

pub use autoencoder::{Autoencoder, Reconstruction};
pub use devices::{DeviceError, Devices};
pub use error::Error;
pub use kiln_kernels::Precision;
pub use pipeline::{
    Classes, Interpolation, Moment, Observed, Observer, Pipeline, SampleOptions, Start, Stops,
    Wanted,
};
#[doc(hidden)]
pub use suggestion::suggestion;
