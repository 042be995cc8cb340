//! Tensors whose numbers stay in a store, such as a file, until something reads them.
//!
//! A network that only draws needs the weights of its convolutions once: to put them into the order in which the
//! products read them. Before and after that they need not be in memory.

#![allow(
    unsafe_code,
    reason = "Burn lets tensors have their own kind of memory only so"
)]

use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Shape, Tensor, TensorData};
use burn_std::{AccessError, AccessPolicy, AllocationController};

use crate::arrays::{self, Array};
use crate::{instructions, is_ours_without_gradient};

/// The beginning of a panic's message if a store cannot be read any more. The reason follows.
pub const MODEL_IS_GONE: &str = "the model cannot be used any more";

/// A place from which numbers can be read at any time, and again.
pub trait Store: Send + Sync + 'static {
    /// Fills an array of their number with all of them, row by row.
    ///
    /// # Errors
    /// If they are not there any more.
    fn read(&self, numbers: &mut [f32]) -> io::Result<()>;
}

/// Whether a tensor's numbers [can stay](tensor_in_store) in a store: on the processor, without gradients, and with this
/// crate's operators.
pub fn can_stay_stored(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_)) && instructions::own_operators()
}

/// A tensor of the numbers in `store`.
///
/// [`Convolution`](crate::Convolution) and [`pointwise_weight`](crate::pointwise_weight) read them for an order of their own, and
/// [`for_one_use`] for a copy. Any other operation reads them into memory, where they stay as long as the tensor.
///
/// Operations panic with [`MODEL_IS_GONE`] if the store cannot be read.
pub fn tensor_in_store<const D: usize>(
    store: Arc<dyn Store>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let bytes = bytes(store, shape.iter().product());
    Tensor::from_data(TensorData::from_bytes(bytes, shape, DType::F32), device)
}

/// A tensor of the same numbers, which are not kept in memory for it longer than it lives.
pub fn for_one_use<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if !is_ours_without_gradient(&tensor) {
        return tensor;
    }
    Tensor::from_dispatch(<Dispatch as StoredOps>::kiln_for_one_use(
        tensor.into_dispatch(),
    ))
}

/// On a backend's own tensors. `f32` has been checked before.
#[backend_extension(Flex)]
pub(crate) trait StoredOps: Backend {
    /// See [`for_one_use`].
    fn kiln_for_one_use(tensor: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl StoredOps for Flex {
    fn kiln_for_one_use(tensor: FlexTensor) -> FlexTensor {
        if !is_stored(&tensor) {
            return tensor;
        }
        let stored = tensor.data_arc();
        let mut read = arrays::array(stored.len() / size_of::<f32>()).into_bytes();
        stored.copy_into(&mut read);
        FlexTensor::new(read, tensor.layout().clone(), tensor.dtype())
    }
}

/// Whether a tensor's numbers are in a store, and not in memory. kiln makes no other memory of this kind.
pub(crate) fn is_stored(tensor: &FlexTensor) -> bool {
    tensor.data_arc().property() == AllocationProperty::File
}

/// See [`tensor_in_store`].
pub(crate) fn stored(store: Arc<dyn Store>, shape: Shape) -> FlexTensor {
    let bytes = bytes(store, shape.num_elements());
    FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32)
}

fn bytes(store: Arc<dyn Store>, numbers: usize) -> Bytes {
    let stored = Stored {
        store,
        len: numbers,
        read: OnceLock::new(),
    };
    // SAFETY: the memory is an array of floats, which are initialized before a store fills them.
    unsafe { Bytes::from_controller(Box::new(stored), numbers * size_of::<f32>()) }
}

struct Stored {
    store: Arc<dyn Store>,
    len: usize,
    /// What was read by an operation that needs memory.
    read: OnceLock<Array>,
}

impl Stored {
    fn in_memory(&self) -> &Array {
        self.read.get_or_init(|| {
            let mut array = arrays::array(self.len);
            self.copy(&mut array);
            array
        })
    }

    /// Refuses what would have to be read first, if `policy` forbids it.
    fn check(&self, policy: AccessPolicy) -> Result<(), AccessError> {
        match self.read.get() {
            None if !policy.copy_allowed() => Err(AccessError::WouldCopy),
            _ => Ok(()),
        }
    }

    /// # Panics
    /// If the store cannot be read: the callers of [`AllocationController`] would panic, too, but with less of a reason.
    fn copy(&self, numbers: &mut [f32]) {
        if let Err(problem) = self.store.read(numbers) {
            panic!("{MODEL_IS_GONE}: {problem}");
        }
    }
}

impl AllocationController for Stored {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        match self.read.get() {
            Some(read) => read.property(),
            None => AllocationProperty::File,
        }
    }

    fn capacity(&self) -> usize {
        self.len * size_of::<f32>()
    }

    unsafe fn memory_mut(
        &mut self,
        policy: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        self.check(policy)?;
        self.in_memory();
        let Some(read) = self.read.get_mut() else {
            unreachable!("it was just read");
        };
        // SAFETY: the caller keeps the promises of this function.
        unsafe { read.memory_mut(policy) }
    }

    fn memory(&self, policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        self.check(policy)?;
        self.in_memory().memory(policy)
    }

    fn duplicate(&self) -> Option<Box<dyn AllocationController>> {
        let is_read = self.read.get().is_some();
        (!is_read).then(|| -> Box<dyn AllocationController> {
            Box::new(Self {
                store: self.store.clone(),
                len: self.len,
                read: OnceLock::new(),
            })
        })
    }

    unsafe fn copy_into(&self, into: &mut [u8]) {
        let is_read = self.read.get().is_some();
        match bytemuck::try_cast_slice_mut(into) {
            Ok(numbers) if !is_read && numbers.len() == self.len => self.copy(numbers),
            _ => into.copy_from_slice(&bytemuck::cast_slice(self.in_memory())[..into.len()]),
        }
    }
}
