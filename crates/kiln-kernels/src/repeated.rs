//! Work that is done again and again with other inputs of the same shapes.

use std::sync::Arc;
#[cfg(feature = "gpu")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;

#[cfg(feature = "gpu")]
use crate::gpu::recorded::Recorded;

/// `work` on images `[batch, channels, height, width]` and on a matrix, called many times: in drawing, a network on noisy
/// samples and on what it is told of them.
///
/// With the environment variable `KILN_GRAPHS=on`, a GPU records the launches of the first call with a shape and repeats
/// them in later calls with that shape on the same thread, without the host in between (on NVIDIA's cards these are CUDA
/// graphs). `work` must then do the same whatever the numbers of its inputs are, must neither read results nor bring other
/// numbers to the device, and must not depend on anything that changes between calls. Such a first call does `work` five
/// times. The two newest shapes are kept, because guidance asks with two. If a GPU cannot record `work`, each call does it.
///
/// Without it, and on a processor, each call just does `work`.
pub struct Repeated<'a> {
    work: Arc<Work<'a>>,
    #[cfg(feature = "gpu")]
    recorded: Mutex<Vec<Recorded<'a>>>,
}

type Work<'a> = dyn Fn(Tensor<4>, Tensor<2>) -> Tensor<4> + Send + Sync + 'a;

/// Shapes that are kept.
#[cfg(feature = "gpu")]
const SHAPES: usize = 2;

impl<'a> Repeated<'a> {
    /// Nothing is done before the first call.
    pub fn new(work: impl Fn(Tensor<4>, Tensor<2>) -> Tensor<4> + Send + Sync + 'a) -> Self {
        Self {
            work: Arc::new(work),
            #[cfg(feature = "gpu")]
            recorded: Mutex::default(),
        }
    }

    /// What `work` makes of `images` and `matrix`.
    ///
    /// # Panics
    /// If `work` does, or if the GPU fails while it repeats launches.
    pub fn call(&self, images: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        #[cfg(feature = "gpu")]
        if records_launches(&images) && crate::gpu::has(&matrix) && !matrix.is_autodiff() {
            let mut recorded = self.recorded();
            let place = (recorded.iter()).position(|known| known.fits(&images, &matrix));
            let mut chosen = match place {
                Some(place) if !recorded[place].is_recorded() => {
                    return (self.work)(images, matrix);
                }
                Some(place) => {
                    let mut known = recorded.remove(place);
                    known.write(images, matrix);
                    known
                }
                None => {
                    if recorded.len() == SHAPES {
                        // Its memory is free before the next one needs some.
                        recorded.remove(0);
                    }
                    let work = self.work.clone();
                    Recorded::new(images, matrix, move |images, matrix| work(images, matrix))
                }
            };
            let result = chosen.repeat();
            recorded.push(chosen);
            return result;
        }
        (self.work)(images, matrix)
    }

    /// Whether the newest call repeated launches that a GPU has recorded.
    pub fn is_recorded(&self) -> bool {
        #[cfg(feature = "gpu")]
        return (self.recorded().last()).is_some_and(Recorded::is_recorded);
        #[cfg(not(feature = "gpu"))]
        false
    }

    #[cfg(feature = "gpu")]
    fn recorded(&self) -> MutexGuard<'_, Vec<Recorded<'a>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether [`Repeated::call`] with such images records launches: on a GPU, without autodiff, if `KILN_GRAPHS` says so.
pub fn records_launches(images: &Tensor<4>) -> bool {
    #[cfg(feature = "gpu")]
    {
        crate::instructions::records() && crate::gpu::has(images) && !images.is_autodiff()
    }
    #[cfg(not(feature = "gpu"))]
    {
        let _ = images;
        false
    }
}

impl std::fmt::Debug for Repeated<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Repeated")
    }
}
