//! The page that shows what a diffusion model does: the engine behind it.
//!
//! The page asks, the engine answers. Both sides speak one protocol, whether the engine is native (`kiln play`) or runs in
//! the browser as WebAssembly (`kiln web`).
//!
//! | module | contents |
//! | --- | --- |
//! | [`protocol`] | questions and answers, as JSON with pictures as bytes behind it |
//! | [`Engine`] | answers them, with the models that a [`Shelf`] has |
//! | [`Server`] | serves page and engine to a browser on this machine; not on wasm32 |

mod engine;
pub mod protocol;
#[cfg(not(target_arch = "wasm32"))]
mod server;

pub use engine::{Engine, Listener, Refusal, Shelf};
#[cfg(not(target_arch = "wasm32"))]
pub use server::{Asset, ServeError, Server};
