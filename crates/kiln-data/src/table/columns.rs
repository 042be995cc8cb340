//! Finds the columns of a table with its images and its classes.

use parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::bytes::TableBytes;
use super::declared::{Declared, shown};
use crate::config::DataConfig;
use crate::names;

/// Names of the image column, if several columns are possible.
const IMAGES: [&str; 4] = ["image", "img", "images", "picture"];
/// Names of the class column, if the table does not declare it.
const LABELS: [&str; 3] = ["label", "labels", "fine_label"];
/// Names of columns with classes as text.
const TEXT_LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "category"];

/// The leaves of a table that matter.
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) label: Option<usize>,
    /// Whether only the column's name suggests that it holds classes.
    pub(super) label_is_guessed: bool,
    pub(super) class_names: Vec<String>,
    /// The columns of text, by leaf and name.
    pub(super) texts: Vec<(usize, String)>,
    /// A message about the choice, if any.
    pub(super) word: Option<String>,
    /// What is wrong with the description of the columns and what is used instead, if anything is.
    pub(super) complaint: Option<String>,
}

/// A leaf of the table that is a column, or the bytes of one.
struct Leaf<'a> {
    index: usize,
    column: &'a str,
    is_group: bool,
    descriptor: &'a ColumnDescriptor,
}

impl Columns {
    /// Finds the columns, or returns the problem, to follow the table's path in a sentence.
    pub(super) fn find(
        reader: &SerializedFileReader<TableBytes>,
        config: &DataConfig,
    ) -> Result<Self, String> {
        let metadata = reader.metadata().file_metadata();
        let schema = metadata.schema_descr();
        let fields = schema.root_schema().get_fields().iter();
        let fields: Vec<&str> = fields.map(|field| field.name()).collect();
        let mut declared = Declared::read(metadata.key_value_metadata(), &fields);
        let leaves = schema.columns().iter().enumerate();
        let leaves = leaves.filter_map(|(index, leaf)| {
            let (column, is_group) = match leaf.path().parts() {
                [column] => (column, false),
                [column, bytes] if bytes == "bytes" => (column, true),
                _ => return None,
            };
            (leaf.max_rep_level() == 0).then_some(Leaf {
                index,
                column,
                is_group,
                descriptor: leaf,
            })
        });
        let leaves: Vec<Leaf<'_>> = leaves.collect();
        let (image, word) =
            find_image(&leaves, &declared, config).map_err(|problem| match list_of_images(schema) {
                Some(column) if leaves.iter().all(|leaf| !IMAGES.contains(&leaf.column)) => format!(
                    "has lists of images in its column {}, but kiln reads one image per row: use a data set with an image in each row",
                    shown(column)
                ),
                _ => problem,
            })?;
        let (label, label_is_guessed) = find_label(&leaves, &declared, config)?;
        for leaf in [Some(image), label].into_iter().flatten() {
            check_compression(reader, leaf)?;
        }
        let class_names = label.map_or_else(Vec::new, |leaf| declared.class_names(leaf.column));
        let texts = leaves.iter().filter(is_text_column);
        Ok(Self {
            texts: texts
                .map(|leaf| (leaf.index, names::printable(leaf.column)))
                .collect(),
            image: image.index,
            label: label.map(|leaf| leaf.index),
            label_is_guessed,
            complaint: complaint(&declared, image, label, &class_names),
            class_names,
            word,
        })
    }
}

/// The column of images, and a message if there are several.
fn find_image<'a>(
    leaves: &'a [Leaf<'a>],
    declared: &Declared,
    config: &DataConfig,
) -> Result<(&'a Leaf<'a>, Option<String>), String> {
    let of_bytes = |leaf: &&Leaf<'_>| leaf.descriptor.physical_type() == Type::BYTE_ARRAY;
    let is_named = |leaf: &&Leaf<'_>| IMAGES.contains(&leaf.column) && !is_text(leaf.descriptor);
    // First columns declared as images, then columns with the form of one, then columns with the name of one.
    let all: Vec<&Leaf<'_>> = leaves.iter().filter(of_bytes).collect();
    let found = |is_right: &dyn Fn(&&Leaf<'_>) -> bool| -> Vec<&Leaf<'_>> {
        all.iter().copied().filter(|leaf| is_right(leaf)).collect()
    };
    let mut candidates =
        found(&|leaf| declared.is(leaf.column, "Image") && !is_text(leaf.descriptor));
    if candidates.is_empty() {
        candidates = found(&|leaf| leaf.is_group && !is_text(leaf.descriptor));
    }
    if candidates.is_empty() {
        candidates = found(&is_named);
    }
    let list = |leaves: &[&Leaf<'_>]| {
        let names: Vec<_> = leaves.iter().map(|leaf| shown(leaf.column)).collect();
        names.join(", ")
    };
    if let Some(wanted) = &config.image_column {
        let chosen = all
            .iter()
            .find(|leaf| leaf.column == wanted && !is_text(leaf.descriptor));
        return match chosen {
            Some(leaf) => Ok((leaf, None)),
            None if candidates.is_empty() => Err(no_images(leaves)),
            None => Err(format!(
                "has no column of images {}: set data.image_column to one of {}",
                shown(wanted),
                list(&candidates)
            )),
        };
    }
    let named = IMAGES
        .iter()
        .find_map(|name| candidates.iter().find(|leaf| leaf.column == *name));
    let Some(chosen) = named.or(candidates.first()).copied() else {
        return Err(no_images(leaves));
    };
    let word = (candidates.len() > 1).then(|| {
        format!(
            "it has several image columns ({}); using {} (--set data.image_column=NAME chooses another)",
            list(&candidates),
            shown(chosen.column)
        )
    });
    Ok((chosen, word))
}

fn no_images(leaves: &[Leaf<'_>]) -> String {
    let text = leaves
        .iter()
        .find(|leaf| IMAGES.contains(&leaf.column) && is_text(leaf.descriptor));
    match text {
        Some(leaf) => format!(
            "has only text in its column {}, such as the paths of files elsewhere: take a data set that holds its images",
            shown(leaf.column)
        ),
        None => {
            let names: Vec<_> = leaves.iter().map(|leaf| shown(leaf.column)).collect();
            let columns = match names.is_empty() {
                true => "no column that is no list".to_owned(),
                false => names.join(", "),
            };
            format!(
                "is not a Parquet table with a column of images (it has {columns}): take another data set"
            )
        }
    }
}

/// The first column whose rows are lists of images, or of possible images.
fn list_of_images(schema: &SchemaDescriptor) -> Option<&str> {
    let columns = schema.columns().iter();
    let mut lists = columns.filter(|leaf| {
        leaf.max_rep_level() > 0 && leaf.physical_type() == Type::BYTE_ARRAY && !is_text(leaf)
    });
    lists.find_map(|leaf| leaf.path().parts().first().map(String::as_str))
}

/// The column of classes, and whether only its name suggests it.
fn find_label<'a>(
    leaves: &'a [Leaf<'a>],
    declared: &Declared,
    config: &DataConfig,
) -> Result<(Option<&'a Leaf<'a>>, bool), String> {
    let of_numbers = |leaf: &&Leaf<'_>| {
        let kind = leaf.descriptor.physical_type();
        !leaf.is_group && matches!(kind, Type::INT32 | Type::INT64)
    };
    let all: Vec<&Leaf<'_>> = leaves.iter().filter(of_numbers).collect();
    let texts: Vec<&Leaf<'_>> = leaves.iter().filter(is_text_column).collect();
    if let Some(wanted) = &config.label_column {
        let mut both = all.iter().chain(&texts);
        let chosen = both.find(|leaf| leaf.column == wanted).copied();
        return match chosen {
            Some(leaf) => Ok((Some(leaf), false)),
            None => Err(format!(
                "has no column {} of whole numbers or text: set data.label_column to one that it has",
                shown(wanted)
            )),
        };
    }
    let is_class = |leaf: &&&Leaf<'_>| declared.is(leaf.column, "ClassLabel");
    let is_named = |leaf: &&&Leaf<'_>| LABELS.contains(&leaf.column);
    let class = all
        .iter()
        .find(|leaf| is_class(leaf) && is_named(leaf))
        .or_else(|| all.iter().find(is_class));
    if let Some(leaf) = class {
        return Ok((Some(leaf), false));
    }
    // A whole number that is declared as something else than a class is not a label.
    let is_declared = |leaf: &&&Leaf<'_>| declared.kind(leaf.column).is_some();
    let guessed = all.iter().find(|leaf| is_named(leaf) && !is_declared(leaf));
    let is_named = |leaf: &&&Leaf<'_>| TEXT_LABELS.contains(&leaf.column);
    let guessed = guessed.or_else(|| texts.iter().find(is_named));
    Ok((guessed.copied(), guessed.is_some()))
}

fn is_text_column(leaf: &&Leaf<'_>) -> bool {
    !leaf.is_group
        && leaf.descriptor.physical_type() == Type::BYTE_ARRAY
        && is_text(leaf.descriptor)
}

/// Whether a column of bytes is one of text.
fn is_text(leaf: &ColumnDescriptor) -> bool {
    leaf.converted_type() == ConvertedType::UTF8
        || matches!(leaf.logical_type_ref(), Some(LogicalType::String))
}

/// Refuses a column whose compression kiln cannot read.
fn check_compression(
    reader: &SerializedFileReader<TableBytes>,
    leaf: &Leaf<'_>,
) -> Result<(), String> {
    for group in reader.metadata().row_groups() {
        let compression = group
            .columns()
            .get(leaf.index)
            .map(|chunk| chunk.compression());
        if let Some(Compression::LZO) = compression {
            return Err(
                "is compressed by LZO, which kiln does not read: write it again with another compression, such as zstd"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// What is wrong with the description of the columns, and what is used nevertheless.
fn complaint(
    declared: &Declared,
    image: &Leaf<'_>,
    label: Option<&Leaf<'_>>,
    class_names: &[String],
) -> Option<String> {
    if declared.problems.is_empty() {
        return None;
    }
    let classes = match label {
        None => "no classes (--set data.label_column=NAME names their column)".to_owned(),
        Some(leaf) => {
            let names = match class_names.is_empty() && !is_text_column(&leaf) {
                true => ", which have numbers and no names",
                false => "",
            };
            format!("the classes of {}{names}", shown(leaf.column))
        }
    };
    Some(format!(
        "its metadata under `huggingface` {}; using the images of {} and {classes}",
        declared.problems.join(", "),
        shown(image.column)
    ))
}
