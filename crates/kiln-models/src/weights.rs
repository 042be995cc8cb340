//! Reads and writes weights in safetensors files, under diffusers' keys.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use crc32c::crc32c_append;
use half::{bf16, f16};
use kiln_kernels::{Store, tensor_in_store};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Map, json};

use crate::WeightsError;
use crate::keys::{KeyPath, current_key};
use crate::parameters::Parameter;
use crate::stored::{SafetensorsFile, StoredTensor};

/// The type of the numbers in a weights file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsType {
    /// Exact: loading gives what was saved.
    #[default]
    F32,
    /// Half the size, to three digits.
    F16,
}

/// Loads a safetensors file of F32, F16, BF16 or F64 tensors into a module, as f32.
///
/// # Errors
/// If the file cannot be read, and those of [`load_weights_from_bytes`].
pub fn load_weights<M: Module>(module: M, path: &Path) -> Result<M, WeightsError> {
    let unreadable = |source| WeightsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let name = path.display().to_string();
    let file = SafetensorsFile::open(file, &name).map_err(|problem| match problem {
        SafeTensorError::IoError(source) => unreadable(source),
        problem => problem.into(),
    })?;
    load_weights_from_tensors(module, file.tensors())
}

/// Loads the bytes of a safetensors file, for instance one compiled into the program.
///
/// # Errors
/// If the bytes are damaged; if a parameter of the module is missing or a tensor is left over; if a shape differs; if a
/// number is not finite. These errors come before the module is touched.
pub fn load_weights_from_bytes<M: Module>(module: M, bytes: &[u8]) -> Result<M, WeightsError> {
    load_weights_from_tensors(module, SafeTensors::deserialize(bytes)?.iter())
}

/// Loads tensors under diffusers' keys, today's or those from before 2023, from any source: one file, several, or
/// another format than safetensors. The numbers of one tensor are read at a time.
///
/// In a module that only draws on the processor, matrices and kernels of 4,096 numbers or more stay in a store that
/// [lets them](StoredTensor::to_keep) until something needs them, see [`tensor_in_store`].
///
/// # Errors
/// Those of [`load_weights_from_bytes`], except for damaged bytes; and if a tensor cannot be read.
pub fn load_weights_from_tensors<M: Module>(
    module: M,
    given: impl IntoIterator<Item = (impl AsRef<str>, impl StoredTensor)>,
) -> Result<M, WeightsError> {
    let parameters = Parameter::shapes_of(&module);

    let mut tensors = BTreeMap::new();
    let mut unused = Vec::new();
    for (key, tensor) in given {
        let current = current_key(key.as_ref());
        if !parameters.contains_key(&current) && !is_weight(tensor.dtype()) {
            continue;
        }
        if !parameters.contains_key(&current) || tensors.contains_key(&current) {
            unused.push(key.as_ref().to_owned());
        } else {
            tensors.insert(current, tensor);
        }
    }
    unused.sort();
    let missing = parameters.keys().filter(|key| !tensors.contains_key(*key));
    let missing: Vec<String> = missing.cloned().collect();
    if !missing.is_empty() || !unused.is_empty() {
        return Err(WeightsError::Keys { missing, unused });
    }

    let mut values = BTreeMap::new();
    for (key, parameter) in parameters {
        let Some(tensor) = tensors.remove(&key) else {
            continue;
        };
        if tensor.shape() != parameter.shape {
            return Err(WeightsError::Shape {
                key,
                found: tensor.shape().to_vec(),
                expected: parameter.shape,
            });
        }
        let transposed_from = match parameter.shape[..] {
            [rows, columns] if parameter.transposed => Some([rows, columns]),
            _ => None,
        };
        // Everything is read here, so that what is wrong is said now, also what is read again later.
        let weight = Weight {
            key: key.clone(),
            tensor,
            transposed_from,
        };
        let kept = weight.to_keep().filter(|_| parameter.can_stay_stored);
        let value = match kept {
            Some(kept) => Value::Stored(Arc::new(Kept {
                checksum: weight.read(|_| ())?,
                weight: kept,
            })),
            None => Value::InMemory(weight.all()?.0),
        };
        values.insert(key, value);
    }
    Ok(module.map(&mut Filling {
        values,
        path: KeyPath::default(),
    }))
}

/// Whether weights can have this type. Integers beside them count steps or batches.
fn is_weight(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    !matches!(dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// Writes a module's parameters as a safetensors file that diffusers reads, with `metadata` in its header (`format` is
/// added). The file appears only when it is complete.
///
/// # Errors
/// If it cannot be written, and if a number is not finite in the file's type.
pub fn save_weights<M: Module>(
    module: &M,
    path: &Path,
    weights_type: WeightsType,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let mut tensors = BTreeMap::new();
    for (key, parameter) in Parameter::all_of(module) {
        let mut values = parameter.values;
        if let (true, [rows, columns]) = (parameter.transposed, &parameter.shape[..]) {
            values = transposed(&values, *columns, *rows);
        }
        let encoded = match weights_type {
            WeightsType::F32 => finite(&values).map(|values| bytes(values, f32::to_le_bytes)),
            WeightsType::F16 => {
                let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                let finite = halves.iter().all(|half| half.is_finite());
                finite.then(|| bytes(&halves, f16::to_le_bytes))
            }
        };
        let Some(encoded) = encoded else {
            return Err(WeightsError::NotFinite { key });
        };
        tensors.insert(key, (parameter.shape, encoded));
    }
    write_file(path, weights_type, metadata, &tensors).map_err(|source| WeightsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// A tensor that is the weight of this key.
struct Weight<T> {
    key: String,
    tensor: T,
    /// The rows and columns of a matrix whose transpose is the weight.
    transposed_from: Option<[usize; 2]>,
}

impl<T: StoredTensor> Weight<T> {
    /// See [`StoredTensor::to_keep`].
    fn to_keep(&self) -> Option<Weight<Box<dyn StoredTensor + Send + Sync>>> {
        Some(Weight {
            key: self.key.clone(),
            tensor: self.tensor.to_keep()?,
            transposed_from: self.transposed_from,
        })
    }

    /// Shows all numbers, in the layout of the file, in pieces one after the other. Returns a checksum of how they are stored.
    fn read(&self, mut see: impl FnMut(&[f32])) -> Result<u32, WeightsError> {
        let key = || self.key.clone();
        let decode: fn(&[u8], &mut Vec<f32>) = match self.tensor.dtype() {
            Dtype::F32 => |bytes, to| decode(bytes, f32::from_le_bytes, to),
            Dtype::F16 => |bytes, to| decode(bytes, |two| f16::from_le_bytes(two).to_f32(), to),
            Dtype::BF16 => |bytes, to| decode(bytes, |two| bf16::from_le_bytes(two).to_f32(), to),
            Dtype::F64 => |bytes, to| decode(bytes, |eight| f64::from_le_bytes(eight) as f32, to),
            other => {
                return Err(WeightsError::Type {
                    key: key(),
                    found: other.to_string(),
                });
            }
        };
        let (mut numbers, mut checksum, mut are_finite) = (Vec::new(), 0, true);
        let read = self.tensor.pieces(&mut |piece| {
            decode(piece, &mut numbers);
            are_finite &= finite(&numbers).is_some();
            checksum = crc32c_append(checksum, piece);
            see(&numbers);
        });
        read.map_err(|source| WeightsError::Tensor { key: key(), source })?;
        match are_finite {
            true => Ok(checksum),
            false => Err(WeightsError::NotFinite { key: key() }),
        }
    }

    /// All numbers, in Burn's layout, and the checksum.
    fn all(&self) -> Result<(Vec<f32>, u32), WeightsError> {
        let mut numbers = Vec::with_capacity(self.tensor.shape().iter().product());
        let checksum = self.read(|piece| numbers.extend_from_slice(piece))?;
        let numbers = match self.transposed_from {
            Some([rows, columns]) => transposed(&numbers, rows, columns),
            None => numbers,
        };
        Ok((numbers, checksum))
    }

    /// [`Self::all`], written to `into`, which has room for just them.
    fn read_into(&self, into: &mut [f32]) -> Result<u32, WeightsError> {
        if self.transposed_from.is_some() {
            let (numbers, checksum) = self.all()?;
            into.copy_from_slice(&numbers);
            return Ok(checksum);
        }
        let mut rest = into;
        self.read(|piece| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.len());
            now.copy_from_slice(piece);
            rest = later;
        })
    }
}

/// Replaces `to` by the little-endian numbers in `bytes`.
fn decode<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f32, to: &mut Vec<f32>) {
    to.clear();
    to.extend(bytes.as_chunks().0.iter().map(|&bytes| number(bytes)));
}

/// A weight that was checked when its model was loaded, and is read when something wants it.
struct Kept {
    weight: Weight<Box<dyn StoredTensor + Send + Sync>>,
    /// Of what was checked.
    checksum: u32,
}

impl Store for Kept {
    fn read(&self, numbers: &mut [f32]) -> io::Result<()> {
        let Weight { key, tensor, .. } = &self.weight;
        let problem = match self.weight.read_into(numbers) {
            Ok(checksum) if checksum == self.checksum => return Ok(()),
            Ok(_) => "it is not what it was when the model was loaded".to_owned(),
            Err(problem) => problem.to_string(),
        };
        let place = tensor.place();
        Err(io::Error::other(format!("`{key}` in {place}: {problem}")))
    }
}

/// The value of a parameter, in Burn's layout.
enum Value {
    InMemory(Vec<f32>),
    Stored(Arc<dyn Store>),
}

/// Replaces a module's parameters by the values of the same key.
struct Filling {
    path: KeyPath,
    values: BTreeMap<String, Value>,
}

impl ModuleMapper for Filling {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let tensor = match self.values.remove(&self.path.key()) {
            Some(Value::InMemory(numbers)) => {
                Tensor::from_data(TensorData::new(numbers, shape), &device)
            }
            Some(Value::Stored(store)) => tensor_in_store(store, shape.dims(), &device),
            None => return param,
        };
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// The values, if all of them are finite.
fn finite(values: &[f32]) -> Option<&[f32]> {
    values
        .iter()
        .all(|value| value.is_finite())
        .then_some(values)
}

fn bytes<T: Copy, const SIZE: usize>(values: &[T], encode: fn(T) -> [u8; SIZE]) -> Vec<u8> {
    values.iter().flat_map(|&value| encode(value)).collect()
}

/// A `[rows, columns]` matrix as `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let column = |column| values.iter().skip(column).step_by(columns).take(rows);
    (0..columns).flat_map(column).copied().collect()
}

/// Writes a safetensors file under a temporary name and renames it when it is on the disk.
///
/// By hand, because the library writes metadata in an order that changes from run to run.
fn write_file(
    path: &Path,
    weights_type: WeightsType,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>,
) -> io::Result<()> {
    let mut metadata = metadata.clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut offset = 0;
    for (key, (shape, bytes)) in tensors {
        let end = offset + bytes.len();
        let entry = json!({
            "dtype": match weights_type { WeightsType::F32 => "F32", WeightsType::F16 => "F16" },
            "shape": shape,
            "data_offsets": [offset, end],
        });
        header.insert(key.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The numbers start at a multiple of 8 bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = BufWriter::new(File::create(&temporary)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (_, bytes) in tensors.values() {
            file.write_all(bytes)?;
        }
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        match cfg!(unix) {
            true => File::open(folder.unwrap_or(Path::new(".")))?.sync_all(),
            false => Ok(()),
        }
    };
    write().inspect_err(|_| {
        // The rest of a failed write is useless; the caller gets the error of the write itself.
        let _ = fs::remove_file(&temporary);
    })
}
