//! How large images are.

/// The shape `[channels, height, width]` of every image of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for gray, 3 for RGB.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl ImageShape {
    /// The numbers that one image takes: `channels * height * width`.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}
