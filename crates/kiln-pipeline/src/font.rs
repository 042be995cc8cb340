//! The letters of plots and labels, from a compiled-in font.

use std::sync::Once;

use plotters::style::{FontStyle, register_font};

/// The one font of all plots and labels.
pub(crate) const FONT: &str = "sans-serif";

/// Registers the compiled-in font with plotters, which needs it to draw text.
pub(crate) fn use_own_font() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let font = include_bytes!("../fonts/DejaVuSans-subset.ttf");
        // A test checks that the font can be read. If it could not, drawing would report it.
        let _ = register_font(FONT, FontStyle::Normal, font);
    });
}
