//! Work that is done again and again with other inputs of the same shapes.

use std::sync::Arc;
#[cfg(feature = "gpu")]
use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;

/// `work` on images and on a matrix, called many times: in drawing, a network on noisy samples and on what it is told of
/// them.
///
/// With the environment variable `KILN_GRAPHS=on`, a GPU records the launches of the first call with a shape and repeats
/// them in later calls with that shape, without the host in between (CUDA graphs). `work` must then do the same whatever
/// the numbers of its inputs are, must neither read results nor bring other numbers to the device, and must not depend
/// on anything that changes between calls. Such a first call does `work` five times.
///
/// Without it, and on a processor, each call just does `work`.
pub struct Repeated<'a> {
    work: Arc<Work<'a>>,
    #[cfg(feature = "gpu")]
    recorded: Mutex<Option<crate::gpu::recorded::Recorded<'a>>>,
}

pub(crate) type Work<'a> = dyn Fn(Tensor<4>, Tensor<2>) -> Tensor<4> + Send + Sync + 'a;

impl<'a> Repeated<'a> {
    /// Nothing is done before the first call.
    pub fn new(work: impl Fn(Tensor<4>, Tensor<2>) -> Tensor<4> + Send + Sync + 'a) -> Self {
        Self {
            work: Arc::new(work),
            #[cfg(feature = "gpu")]
            recorded: Mutex::default(),
        }
    }

    /// What `work` makes of these inputs.
    pub fn call(&self, images: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        #[cfg(feature = "gpu")]
        if records(&images) {
            use crate::gpu::recorded::Recorded;
            let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
            return match recorded.take_if(|recorded| recorded.fits(&images, &matrix)) {
                Some(again) => recorded.insert(again).call(images, matrix),
                None => {
                    // Frees the memory of another shape first.
                    *recorded = None;
                    let first = Recorded::new(images, matrix, self.work.clone());
                    recorded.insert(first).first()
                }
            };
        }
        (self.work)(images, matrix)
    }

    /// Whether a GPU has recorded launches to repeat.
    pub fn is_recorded(&self) -> bool {
        #[cfg(feature = "gpu")]
        {
            let recorded = self.recorded.lock();
            let recorded = recorded.unwrap_or_else(PoisonError::into_inner);
            (recorded.as_ref()).is_some_and(|recorded| recorded.is_recorded())
        }
        #[cfg(not(feature = "gpu"))]
        false
    }
}

/// Whether [`Repeated::call`] with such images records launches: on a GPU, if `KILN_GRAPHS` says so.
pub fn records(images: &Tensor<4>) -> bool {
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
