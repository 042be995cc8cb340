//! Pictures of many images: grids and comparisons as PNG, with words beside them, the denoising as an animated GIF.
//!
//! Everything here starts from [`Images`]: pixels in [-1, 1] on the host. Values outside that range are clamped, as
//! a decoder may overshoot a little. One channel gives gray pictures, three give RGB.

mod album;
mod file;
mod gif;
mod grid;
mod images;
mod labels;

pub use album::{Album, Saved, make_new_folder};
pub(crate) use file::write as write_picture;
pub use file::{PictureError, make_folder};
pub use gif::{save_gif, save_looping_gif};
pub use grid::{Picture, columns_for, enlarged, grid, paired_grid, picture, save_png};
pub use images::Images;
pub use labels::{Labels, labelled};

pub use crate::run_folder::made_folder::MadeFolder;
