//! The letters of plots and labels, from a font that is compiled in.

use std::sync::Once;

use plotters::style::{FontStyle, register_font};

/// The one font of all plots and labels.
pub(crate) const FONT: &str = "sans-serif";

/// Makes the compiled-in font known to plotters; without it nothing with text in it can be drawn.
pub(crate) fn use_own_font() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let font = include_bytes!("../fonts/DejaVuSans-subset.ttf");
        // That the font can be read is tested; were it not, drawing would say so.
        let _ = register_font(FONT, FontStyle::Normal, font);
    });
}
