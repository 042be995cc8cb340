//! Pictures of many images: grids and comparisons as PNG, the denoising as an animated GIF.
//!
//! Everything here starts from [`Images`]: pixels in [-1, 1] on the host. Values outside that range are clamped, as
//! a decoder may overshoot a little. One channel gives gray pictures, three give RGB.

mod file;
mod gif;
mod grid;
mod images;

pub(crate) use file::write as write_picture;
pub use file::{PictureError, make_folder};
pub use gif::{save_gif, save_looping_gif};
pub use grid::{Picture, columns_for, grid, paired_grid, picture, save_png};
pub use images::Images;
