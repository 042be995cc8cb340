//! What is made from a model's weights once, and kept for all steps of a sampler.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::{numbers, values};
use crate::convolution::{Geometry, Weights};
use crate::stored::StoredOps;

/// What was made from the weights of models that are not being trained, for each set of weights and each `K`.
pub(crate) struct Prepared<K, V>(Mutex<Vec<Kept<K, V>>>);

struct Kept<K, V> {
    /// Kept alive, so that no other tensor can get its address.
    weights: Vec<FlexTensor>,
    key: K,
    value: V,
}

impl<K: Copy + PartialEq, V: Clone> Prepared<K, V> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// What `make` makes of `weights`, from an earlier call if possible.
    ///
    /// It is kept as long as the model lives. What belongs to models that are gone, or have changed, is dropped when
    /// something new is added. The caller must hold each tensor once.
    pub(crate) fn get(&self, weights: &[&FlexTensor], key: K, make: impl FnOnce() -> V) -> V {
        // The caller's tensor, and the clone made here.
        let belongs_to_a_model = |weight: &&FlexTensor| Arc::strong_count(&weight.data_arc()) > 2;
        if !weights.iter().all(belongs_to_a_model) {
            return make();
        }
        let known = |kept: &Vec<Kept<K, V>>| {
            let found = kept.iter().find(|kept| kept.is_of(weights, key))?;
            Some(found.value.clone())
        };
        if let Some(value) = known(&self.lock()) {
            return value;
        }
        // Do not hold the lock: the threads that share this work may call this function for other work in the meantime.
        let value = make();
        let mut kept = self.lock();
        if let Some(value) = known(&kept) {
            return value;
        }
        kept.retain(|known| !known.weights.iter().any(FlexTensor::is_unique));
        kept.push(Kept {
            weights: weights.iter().map(|&weight| weight.clone()).collect(),
            key,
            value: value.clone(),
        });
        value
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept<K, V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: PartialEq, V> Kept<K, V> {
    fn is_of(&self, weights: &[&FlexTensor], key: K) -> bool {
        let same = |(known, weight): (&FlexTensor, &&FlexTensor)| {
            known.layout() == weight.layout() && Arc::ptr_eq(&known.data_arc(), &weight.data_arc())
        };
        self.key == key
            && self.weights.len() == weights.len()
            && self.weights.iter().zip(weights).all(same)
    }
}

static CONVOLUTIONS: Prepared<Geometry, Arc<Weights>> = Prepared::new();

/// The weights of a forward convolution.
pub(crate) fn prepared(weight: &FlexTensor, geometry: &Geometry) -> Arc<Weights> {
    CONVOLUTIONS.get(&[weight], *geometry, || {
        let weight = Flex::kiln_for_one_use(values(weight));
        Arc::new(Weights::new(&geometry.forward(), numbers(&weight)))
    })
}
