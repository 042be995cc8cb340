//! Weights that are reordered once for all steps of a sampler.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;

use super::{numbers, values};
use crate::convolution::{Geometry, Weights};

/// Weights of a model that is not being trained.
struct Kept {
    /// Kept alive, so that no other tensor can get its address.
    weight: FlexTensor,
    geometry: Geometry,
    weights: Arc<Weights>,
}

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// The weights of a forward convolution, from an earlier call if possible.
///
/// A model's weights are kept as long as the model lives. Weights of models that are gone, or have changed, are dropped
/// when new ones are added.
pub(crate) fn prepared(weight: &FlexTensor, geometry: &Geometry) -> Arc<Weights> {
    let prepare = || Arc::new(Weights::new(&geometry.forward(), numbers(&values(weight))));
    // The caller's tensor, and the clone made here.
    let belongs_to_a_model = Arc::strong_count(&weight.data_arc()) > 2;
    if !belongs_to_a_model || !weight.is_contiguous() {
        return prepare();
    }
    let same = |known: &&Kept| {
        known.geometry == *geometry
            && known.weight.layout() == weight.layout()
            && std::ptr::eq(known.weight.bytes(), weight.bytes())
    };
    let known = |kept: &Vec<Kept>| Some(Arc::clone(&kept.iter().find(same)?.weights));
    if let Some(weights) = known(&KEPT.lock().unwrap_or_else(PoisonError::into_inner)) {
        return weights;
    }
    // Do not hold the lock: the threads that share this work may call this function for other work in the meantime.
    let weights = prepare();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(weights) = known(&kept) {
        return weights;
    }
    kept.retain(|known| !known.weight.is_unique());
    kept.push(Kept {
        weight: weight.clone(),
        geometry: *geometry,
        weights: Arc::clone(&weights),
    });
    weights
}
