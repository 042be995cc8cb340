//! Data sets in several Parquet files, with images that do not shrink when they are packed.

use std::io::Cursor;
use std::sync::Arc;

use image::{GrayImage, ImageFormat, Luma};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::server::Files;

const SCHEMA: &str = "message table {
    REQUIRED GROUP image { REQUIRED BYTE_ARRAY bytes; }
    REQUIRED INT64 label;
}";
const FEATURES: &str = r#"{"info": {"features": {
    "image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}
}}}"#;

/// `count` tables of `rows` pictures of `side` x `side` pixels, in two row groups each: `data/train-00000-of-00005.parquet`.
pub fn tables(count: usize, rows: usize, side: u32) -> Files {
    let name = |table| format!("data/train-{table:05}-of-{count:05}.parquet");
    (0..count)
        .map(|table| (name(table), self::table(table * rows, rows, side)))
        .collect()
}

/// A table of the pictures from `first` on: each is told by the gray of its first pixel, which is its number.
fn table(first: usize, rows: usize, side: u32) -> Vec<u8> {
    let features = KeyValue::new("huggingface".to_owned(), FEATURES.to_owned());
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![features]))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let all: Vec<usize> = (first..first + rows).collect();
    for group in all.chunks(rows.div_ceil(2)) {
        let images: Vec<ByteArray> = group
            .iter()
            .map(|&number| png(number, side).into())
            .collect();
        let labels: Vec<i64> = group.iter().map(|&number| number as i64 % 3).collect();
        let mut columns = writer.next_row_group().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        (column
            .typed::<ByteArrayType>()
            .write_batch(&images, None, None))
        .unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        (column.typed::<Int64Type>().write_batch(&labels, None, None)).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn png(number: usize, side: u32) -> Vec<u8> {
    let mut state = number as u32;
    let picture = GrayImage::from_fn(side, side, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (x, y) {
            (0, 0) => Luma([number as u8]),
            _ => Luma([(state >> 24) as u8]),
        }
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}
