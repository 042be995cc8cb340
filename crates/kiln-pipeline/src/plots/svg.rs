//! SVG that looks the same in every program.
//!
//! ImageMagick's own renderer has three faults. It takes `opacity` as the opacity of the fill, even beside
//! `fill="none"`, and paints the area below a curve black. It adds each text's `dy` to the earlier ones. It draws
//! letters with the stroke of the previous element. So colours are opaque, `y` is the position of a text's baseline,
//! and a text says that its letters have no stroke.

use std::fmt::Write as _;

/// The output of plotters, without the first two attributes and with the third.
pub(super) fn plain(svg: &str) -> String {
    let mut plain = String::with_capacity(svg.len());
    for line in svg.lines() {
        let is_tag = line.starts_with('<');
        let line = match line.strip_prefix("<text ").and_then(with_baseline) {
            Some(text) => text,
            None => line.to_owned(),
        };
        // A name may contain the same words, with its quotation marks escaped.
        plain += &match is_tag {
            true => line.replace(" opacity=\"1\"", ""),
            false => line,
        };
        plain.push('\n');
    }
    plain
}

/// A text's tag with `dy` added to its `y`.
fn with_baseline(attributes: &str) -> Option<String> {
    let (before, after) = attributes.split_once(" y=\"")?;
    let (y, after) = after.split_once("\" dy=\"")?;
    let (dy, after) = after.split_once('"')?;
    let (_, size) = after.split_once("font-size=\"")?;
    let size: f64 = size.split_once('"')?.0.parse().ok()?;
    let shift = match dy.strip_suffix("em") {
        Some(share) => share.parse::<f64>().ok()? * size,
        None => dy.strip_suffix("ex")?.parse::<f64>().ok()? * EX * size,
    };
    let y = y.parse::<f64>().ok()? + shift;
    let mut text = String::new();
    let _ = write!(text, "<text {before} y=\"{y:.1}\" stroke=\"none\"{after}");
    Some(text)
}

/// The height of an x, as a share of the font's size.
const EX: f64 = 0.55;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_are_absolute_and_colours_opaque() {
        let svg = "<svg width=\"9\">\n\
            <polyline fill=\"none\" opacity=\"1\" stroke=\"#000000\" points=\"0,0 1,1 \"/>\n\
            <text x=\"12\" y=\"220\" dy=\"0.76em\" font-size=\"10\" opacity=\"1\" transform=\"rotate(270, 12, 220)\">\n\
            y=&quot;1&quot; dy=\"2em\" opacity=\"1\"\n\
            </text>\n\
            <text x=\"1\" y=\"20\" dy=\"-0.5ex\" font-size=\"10\">\n";
        let expected = "<svg width=\"9\">\n\
            <polyline fill=\"none\" stroke=\"#000000\" points=\"0,0 1,1 \"/>\n\
            <text x=\"12\" y=\"227.6\" stroke=\"none\" font-size=\"10\" transform=\"rotate(270, 12, 220)\">\n\
            y=&quot;1&quot; dy=\"2em\" opacity=\"1\"\n\
            </text>\n\
            <text x=\"1\" y=\"17.2\" stroke=\"none\" font-size=\"10\">\n";
        assert_eq!(plain(svg), expected);
    }
}
