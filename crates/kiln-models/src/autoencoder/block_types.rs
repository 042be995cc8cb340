//! The levels of encoder and decoder, by their names in diffusers.

use serde::{Deserialize, Serialize};

/// One level of the encoder; every level but the last halves the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EncoderBlockType {
    /// Residual blocks.
    DownEncoderBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownEncoderBlock2D,
}

/// One level of the decoder; every level but the last doubles the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DecoderBlockType {
    /// Residual blocks.
    UpDecoderBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnUpDecoderBlock2D,
}
