//! Pictures of many images: grids and comparisons as PNG, with words beside them, and the denoising as an animated GIF.
//!
//! Everything here starts from [`Images`]: pixels in [-1, 1] on the host. Values outside this range are clamped,
//! because a decoder may overshoot a little. One channel gives gray pictures, three give RGB.

mod album;
mod file;
mod gif;
mod grid;
mod images;
#[cfg(not(target_arch = "wasm32"))]
mod labels;
mod made_folder;

pub use album::{Album, Saved, make_new_folder};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use file::write as write_picture;
pub use file::{PictureError, make_folder};
pub use gif::{save_gif, save_looping_gif};
pub use grid::{
    Picture, columns_for, enlarged, grid, paired_grid, picture, save_png, stacked_grid,
};
pub use images::Images;
#[cfg(not(target_arch = "wasm32"))]
pub use labels::{Labels, labelled};
pub use made_folder::MadeFolder;
