//! Work that is done again and again with other inputs of the same shapes.

#[cfg(not(feature = "gpu"))]
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "gpu")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor};

use crate::AnyTensor;
#[cfg(feature = "gpu")]
use crate::gpu::recorded::Recorded;

/// Work on tensors, with a result `T`, that is done many times: a network's call in drawing, or a training step.
///
/// With the environment variable `KILN_GRAPHS=on`, a GPU records the launches of the first call with some shapes and repeats
/// them in later calls with those shapes on the same thread, without the host in between (on NVIDIA's cards these are CUDA
/// graphs). The work must then do the same whatever the numbers of its inputs are, must neither read results nor bring other
/// numbers to the device, and must not depend on anything that changes between calls. Such a first call does the work five
/// times. The two newest shapes are kept, because guidance asks with two.
pub struct Repeated<'a, T> {
    #[cfg(feature = "gpu")]
    recorded: Mutex<Vec<Recorded<'a, T>>>,
    #[cfg(not(feature = "gpu"))]
    recorded: PhantomData<fn() -> &'a T>,
}

/// Shapes that are kept.
#[cfg(feature = "gpu")]
const SHAPES: usize = 2;

impl<T> Default for Repeated<'_, T> {
    fn default() -> Self {
        Self {
            recorded: Default::default(),
        }
    }
}

impl<'a, T> Repeated<'a, T> {
    /// What `read` sees in the result of the work on `inputs`, all of them on `device`. The next call with the same shapes
    /// overwrites the tensors of that result: [`copied`] keeps one. `None` if launches are not recorded ([`records_launches`]),
    /// or if the GPU cannot record these.
    ///
    /// For new shapes, `work` makes the work of tensors that take the numbers of all later `inputs`.
    ///
    /// # Panics
    /// If the work does, or if the GPU fails while it repeats launches.
    pub fn call<W, R>(
        &self,
        device: &Device,
        inputs: Vec<AnyTensor>,
        work: impl FnOnce(Vec<AnyTensor>) -> W,
        read: impl FnOnce(&T) -> R,
    ) -> Option<R>
    where
        W: FnMut() -> T + Send + 'a,
    {
        #[cfg(feature = "gpu")]
        if records_launches() {
            let mut recorded = self.recorded();
            let place = (recorded.iter()).position(|known| known.fits(device, &inputs));
            let mut chosen = match place {
                Some(place) if !recorded[place].is_recorded() => return None,
                Some(place) => {
                    let mut known = recorded.remove(place);
                    known.write(inputs);
                    known
                }
                None => {
                    if recorded.len() == SHAPES {
                        // Its memory is free before the next one needs some.
                        recorded.remove(0);
                    }
                    Recorded::new(device, inputs, work)
                }
            };
            let result = chosen.is_recorded().then(|| {
                REPEATS.fetch_add(1, Ordering::Relaxed);
                read(chosen.repeat())
            });
            recorded.push(chosen);
            return result;
        }
        let _ = (device, inputs, work, read);
        None
    }

    /// Whether the newest call repeated launches that a GPU has recorded.
    pub fn is_recorded(&self) -> bool {
        #[cfg(feature = "gpu")]
        return (self.recorded().last()).is_some_and(Recorded::is_recorded);
        #[cfg(not(feature = "gpu"))]
        false
    }

    #[cfg(feature = "gpu")]
    fn recorded(&self) -> MutexGuard<'_, Vec<Recorded<'a, T>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static REPEATS: AtomicU64 = AtomicU64::new(0);

/// How often a GPU has repeated recorded launches since this process began.
pub fn repeats() -> u64 {
    REPEATS.load(Ordering::Relaxed)
}

/// Whether [`Repeated`] lets a GPU record launches: if `KILN_GRAPHS` says so.
pub fn records_launches() -> bool {
    #[cfg(feature = "gpu")]
    return crate::instructions::records();
    #[cfg(not(feature = "gpu"))]
    false
}

/// The same numbers in other memory, if the tensor is on a GPU; otherwise the tensor.
pub fn copied<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match AnyTensor::of(tensor.clone()) {
        Some(tensor) => tensor.copied().into_tensor(),
        None => tensor,
    }
}

impl<T> std::fmt::Debug for Repeated<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Repeated")
    }
}
