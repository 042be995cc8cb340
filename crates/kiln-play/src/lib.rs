//! The page that shows what a diffusion model does: the engine behind it.
//!
//! The page asks, the engine answers. Both sides speak one protocol, whether the engine is native (`kiln play`) or runs in
//! the browser as WebAssembly (`kiln web`).
//!
//! | module | contents |
//! | --- | --- |
//! | [`protocol`] | questions and answers, as JSON with pictures as bytes behind it |
//! | [`Engine`] | answers them, with the models that a [`Shelf`] has |

mod engine;
pub mod protocol;

pub use engine::{Engine, Refusal, Shelf};
