//! Two-dimensional convolution of channels-last images, `[batch, height, width, channels]`.
//!
//! ```text
//! geometry   the sizes that a caller asks for, and their two stencils: forward, and back to the input
//! axis       one dimension of a stencil: the inputs that an output reads
//! window     the padded inputs of a block of outputs, normalised on the way if the caller wants it
//! weights    the kernel in the order in which products read it
//! direct     products of gathered pixels and weights
//! winograd   the same for 3x3 kernels with 2.25 times fewer multiplications
//! stencil    computes a stencil, block by block, and the gradient of its weights
//! ```

mod axis;
mod direct;
mod geometry;
mod stencil;
mod weights;
mod window;
mod winograd;

pub(crate) use geometry::Geometry;
pub use geometry::{Padding, Sampling};
pub(crate) use stencil::{Start, Weights, apply, weight_gradient};
pub(crate) use window::{Pixels, Source};
