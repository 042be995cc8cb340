//! The parameters of a module as in a weights file.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use kiln_kernels::{can_stay_stored, for_one_use};

use crate::keys::KeyPath;

/// Fewer numbers than this always are in memory.
const FEW: usize = 1 << 12;

/// A parameter as in a file.
pub(crate) struct Parameter {
    /// In PyTorch's layout.
    pub shape: Vec<usize>,
    /// Whether Burn's layout is transposed.
    pub transposed: bool,
    /// Whether its numbers may stay where they are stored.
    pub can_stay_stored: bool,
    /// In Burn's layout.
    pub values: Vec<f32>,
}

impl Parameter {
    /// A module's parameters under their diffusers keys.
    pub(crate) fn all_of<M: Module>(module: &M) -> BTreeMap<String, Self> {
        Listing::of(module, true)
    }

    /// Like [`Self::all_of`] without the values, so that a fresh module need not draw them.
    pub(crate) fn shapes_of<M: Module>(module: &M) -> BTreeMap<String, Self> {
        Listing::of(module, false)
    }
}

struct Listing {
    path: KeyPath,
    with_values: bool,
    parameters: BTreeMap<String, Parameter>,
}

impl Listing {
    fn of<M: Module>(module: &M, with_values: bool) -> BTreeMap<String, Parameter> {
        let mut listing = Self {
            path: KeyPath::default(),
            with_values,
            parameters: BTreeMap::new(),
        };
        module.visit(&mut listing);
        listing.parameters
    }
}

impl ModuleVisitor for Listing {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.lazy_shape().to_vec();
        let transposed = self.path.is_transposed();
        if transposed {
            shape.reverse();
        }
        let is_large = D > 1 && param.lazy_shape().num_elements() >= FEW;
        let values = if self.with_values {
            for_one_use(param.val()).into_data().iter::<f32>().collect()
        } else {
            Vec::new()
        };
        let parameter = Parameter {
            shape,
            transposed,
            can_stay_stored: is_large && can_stay_stored(&param.lazy_device()),
            values,
        };
        self.parameters.insert(self.path.key(), parameter);
    }
}
