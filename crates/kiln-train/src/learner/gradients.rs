//! The gradients of a whole module.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, MultiGradientsParams};
use burn::tensor::{Device, Tensor};
use kiln_kernels::euclidean_norm;

/// The gradients of all devices on the first one, summed in the order of the devices, so that every run gives the same
/// bits.
///
/// The devices share the parameters: each parameter's gradients are summed on one device. Clipping needs the norm of
/// the sums before any weight moves, so all sums then move to the first device.
pub(crate) fn summed<M: Module>(
    module: &M,
    mut gradients: MultiGradientsParams,
) -> GradientsParams {
    struct Sum<'a> {
        parts: &'a mut [(GradientsParams, Device)],
        /// The number of visited parameters.
        place: usize,
        sum: GradientsParams,
    }
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let devices: Vec<Device> = (self.parts.iter())
                .map(|(_, device)| device.clone().inner())
                .collect();
            let Some(own) = devices.get(self.place % devices.len().max(1)) else {
                return;
            };
            self.place += 1;
            // Burn's `remove` would begin with a device that depends on the parameter's random name.
            let gradients = self.parts.iter_mut();
            let gradients = gradients.filter_map(|(part, _)| part.remove::<D>(param.id));
            let sum = gradients
                .map(|gradient| gradient.to_device(own))
                .reduce(|sum, gradient| sum + gradient);
            if let Some(sum) = sum {
                self.sum.register(param.id, sum.to_device(&devices[0]));
            }
        }
    }
    let mut sum = Sum {
        parts: &mut gradients.grads,
        place: 0,
        sum: GradientsParams::new(),
    };
    module.visit(&mut sum);
    sum.sum
}

/// The gradients of `network`, removed from those of all networks.
pub(crate) fn taken<M: Module>(network: &M, all: &mut GradientsParams) -> GradientsParams {
    struct Taken<'a> {
        all: &'a mut GradientsParams,
        own: GradientsParams,
    }
    impl ModuleVisitor for Taken<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.all.remove::<D>(param.id) {
                self.own.register(param.id, gradient);
            }
        }
    }
    let mut taken = Taken {
        all,
        own: GradientsParams::new(),
    };
    network.visit(&mut taken);
    taken.own
}

/// The Euclidean norm of all gradients of `module` together.
pub(crate) fn gradient_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    euclidean_norm(&flat(module, gradients))
}

/// All gradients of `module`, in the order of its parameters.
pub(crate) fn flat<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<Tensor<1>> {
    struct All<'a> {
        gradients: &'a GradientsParams,
        flat: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            self.flat
                .extend(gradient.map(|gradient| gradient.reshape([-1])));
        }
    }
    let mut all = All {
        gradients,
        flat: Vec::new(),
    };
    module.visit(&mut all);
    all.flat
}
