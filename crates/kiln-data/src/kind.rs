//! The kind of a file from its first bytes, whatever its name.

use image::ImageFormat;

/// This many bytes are enough to decide.
pub(crate) const START: usize = 512;

/// Why an image that is a Git LFS pointer cannot be decoded.
pub(crate) const POINTER: &str = "it is a Git LFS pointer: run `git lfs pull` in its repository";

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Empty,
    /// An image of a format that kiln decodes.
    Image(ImageFormat),
    /// An image of another format.
    OtherImage(&'static str),
    Zip,
    Gzip,
    Tar,
    /// An archive or a compressed file of another kind.
    Packed(&'static str),
    Parquet,
    /// A Parquet table that is encrypted as a whole.
    EncryptedParquet,
    /// The text by which Git LFS replaces a large file.
    Pointer,
    /// A web page, which a server sent instead of a file.
    Html,
    Other,
}

/// The first bytes of archives and compressed files that kiln does not read.
const PACKED: [(&[u8], &str); 9] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress"),
    (b"\x5d\0\0", "LZMA"),
];

/// The bytes at `from` in images that kiln does not read.
const OTHER_IMAGES: [(usize, &[u8], &str); 20] = [
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypcrx", "raw camera"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"\0\0\x01\0", "icon"),
    (0, b"DDS ", "DDS"),
    (0, b"#?RADIANCE", "HDR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"qoif", "QOI"),
    (0, b"farbfeld", "farbfeld"),
];

impl Kind {
    /// The kind of a file with these first bytes: [`START`] of them, or all.
    pub(crate) fn of(start: &[u8]) -> Self {
        let begins = |magic: &[u8]| start.starts_with(magic);
        if start.is_empty() {
            return Self::Empty;
        }
        if let Some(format) = image_format(start) {
            return Self::Image(format);
        }
        let other = OTHER_IMAGES.iter().find(|(from, magic, _)| {
            let rest = start.get(*from..).unwrap_or_default();
            rest.starts_with(magic)
        });
        if let Some((.., name)) = other {
            return Self::OtherImage(name);
        }
        if is_svg(start) {
            return Self::OtherImage("SVG");
        }
        if let Some((_, name)) = PACKED.iter().find(|(magic, _)| begins(magic)) {
            return Self::Packed(name);
        }
        if [&b"PK\x03\x04"[..], b"PK\x05\x06", b"PK\x07\x08"]
            .iter()
            .any(|magic| begins(magic))
        {
            return Self::Zip;
        }
        if begins(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if begins(b"PAR1") {
            Self::Parquet
        } else if begins(b"PARE") {
            Self::EncryptedParquet
        } else if begins(b"version https://git-lfs.github.com/spec/") {
            Self::Pointer
        } else if is_html(start) {
            Self::Html
        } else if is_tar(start) {
            Self::Tar
        } else {
            Self::Other
        }
    }

    /// The message about a data file of this unexpected kind, to follow its path; `None` if there is nothing more
    /// specific to say.
    pub(crate) fn problem(self) -> Option<String> {
        Some(match self {
            Self::Empty => "is empty: fetch it again".to_owned(),
            Self::Pointer => {
                "is a Git LFS pointer instead of the file: run `git lfs pull` in its repository"
                    .to_owned()
            }
            Self::Html => {
                "is an HTML page instead of the file, such as a login or an error page: fetch it again"
                    .to_owned()
            }
            Self::Packed(name) => {
                format!("is packed with {name}, which is not unpacked here: unpack it and pass the folder")
            }
            Self::Image(_) | Self::OtherImage(_) => {
                "is a single image: pass the folder that holds it".to_owned()
            }
            Self::EncryptedParquet => {
                "is an encrypted Parquet table, which kiln does not read: write it without encryption"
                    .to_owned()
            }
            Self::Zip | Self::Gzip | Self::Tar | Self::Parquet | Self::Other => return None,
        })
    }

    /// Why a file that should be an image cannot be decoded.
    pub(crate) fn in_place_of_an_image(self) -> String {
        match self {
            Self::Empty => "it is empty".to_owned(),
            Self::Pointer => POINTER.to_owned(),
            Self::Html => "it is an HTML page: fetch the image again".to_owned(),
            Self::OtherImage(name) => {
                format!("it is a {name} image, which kiln does not read: convert it to PNG or JPEG")
            }
            Self::Zip | Self::Gzip | Self::Tar | Self::Packed(_) => "it is an archive".to_owned(),
            Self::Image(_) | Self::Parquet | Self::EncryptedParquet | Self::Other => {
                "it is no image".to_owned()
            }
        }
    }
}

/// The format of an image that kiln decodes.
fn image_format(start: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(start).ok()?;
    let is_sure = match format {
        ImageFormat::Png
        | ImageFormat::Jpeg
        | ImageFormat::Gif
        | ImageFormat::WebP
        | ImageFormat::Tiff => true,
        // Many texts begin with these two letters, too: the next bytes must match.
        ImageFormat::Bmp => {
            let header = start.get(14..18).and_then(|size| size.try_into().ok());
            header.is_some_and(|size| {
                matches!(
                    u32::from_le_bytes(size),
                    12 | 16 | 40 | 52 | 56 | 64 | 108 | 124
                )
            })
        }
        ImageFormat::Pnm => {
            start.get(2).is_some_and(u8::is_ascii_whitespace)
                && start.get(3).is_some_and(|&byte| {
                    byte == b'#' || byte.is_ascii_digit() || start.starts_with(b"P7\n")
                })
        }
        _ => false,
    };
    is_sure.then_some(format)
}

/// Extensions of images: such a file is an image or is damaged. For all others the content decides.
const IMAGE_EXTENSIONS: [&str; 15] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff", "pnm", "ppm",
    "pgm", "pbm",
];

/// Whether a file has the extension of an image.
pub(crate) fn is_named_like_an_image(file_name: &str) -> bool {
    let ending = file_name.rsplit_once('.').map(|(_, ending)| ending);
    let is_named_so = |ending: &str| {
        IMAGE_EXTENSIONS
            .iter()
            .any(|known| ending.eq_ignore_ascii_case(known))
    };
    ending.is_some_and(is_named_so)
}

/// The text at the beginning of a file, lower case, without anything before the first element of a document.
fn text_start(start: &[u8]) -> String {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    String::from_utf8_lossy(start)
        .trim_start()
        .to_ascii_lowercase()
}

fn is_html(start: &[u8]) -> bool {
    let text = text_start(start);
    text.starts_with("<!doctype html")
        || text.starts_with("<html")
        || (text.starts_with("<?xml") && (text.contains("<html") || text.contains("<error>")))
        || (text.starts_with("<!--") && text.contains("<html"))
        || text.starts_with("<head")
}

fn is_svg(start: &[u8]) -> bool {
    let text = text_start(start);
    text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg"))
}

/// Whether a block is the header of a tar's first entry: its checksum is right.
fn is_tar(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<512>() else {
        return false;
    };
    let header = tar::Header::from_byte_slice(block);
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    // The checksum counts its own eight bytes as spaces.
    let expected = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    header.cksum().is_ok_and(|checksum| checksum == expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{self, Files, gzip};

    #[test]
    fn every_kind_is_told_by_its_beginning() {
        for format in examples::FORMATS {
            let bytes = examples::encode(format, 4, 3);
            assert_eq!(Kind::of(&bytes), Kind::Image(format));
        }
        let mut files = Files::default();
        files.add("a", vec![7]);
        assert_eq!(Kind::of(&files.zip()), Kind::Zip);
        assert_eq!(Kind::of(&files.tar()), Kind::Tar);
        assert_eq!(Kind::of(&gzip(&files.tar())), Kind::Gzip);
        for (bytes, kind) in [
            (&b""[..], Kind::Empty),
            (b"\xfd7zXZ\0\0\x04", Kind::Packed("xz")),
            (b"BZh91AY", Kind::Packed("bzip2")),
            (b"\x28\xb5\x2f\xfd\x04", Kind::Packed("zstd")),
            (b"7z\xbc\xaf\x27\x1c\0", Kind::Packed("7-Zip")),
            (b"Rar!\x1a\x07\0", Kind::Packed("RAR")),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                Kind::Pointer,
            ),
            (b"\n <!DOCTYPE HTML>\n<html>", Kind::Html),
            (b"\xef\xbb\xbf<html lang=en>", Kind::Html),
            (
                b"<?xml version='1.0'?><Error><Code>AccessDenied",
                Kind::Html,
            ),
            (b"<?xml version='1.0'?><svg>", Kind::OtherImage("SVG")),
            (b"\0\0\0\x20ftypheic", Kind::OtherImage("HEIC")),
            (b"\0\0\0\x20ftypavif", Kind::OtherImage("AVIF")),
            (b"PAR1\x15", Kind::Parquet),
        ] {
            assert_eq!(Kind::of(bytes), kind, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn texts_and_zeros_are_nothing_of_it() {
        for bytes in [
            &b"BMW is a make of cars"[..],
            b"P1 was the first",
            b"P5",
            b"II. The second chapter",
            b"GIF files are old",
            b"{\"a\": 1}",
            &[0; 512],
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(Kind::of(bytes), Kind::Other, "{shown}");
        }
    }
}
