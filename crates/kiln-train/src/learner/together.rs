//! The update of all weights of a network in one operator, on a GPU.
//!
//! Burn calls its optimizer for one parameter at a time, which would launch some kernels for each. Here the optimizer
//! finds all parameters updated already, and only hands them over: see [`super::update`].

use std::collections::{HashMap, VecDeque};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use kiln_kernels::{AnyTensor, Together, Weight};
use kiln_models::ema::replace_value;

/// What the optimizer knows of a network's parameters on a GPU after the process's first step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The moments of the parameters, and the numbers of their steps.
    pub(crate) moments: HashMap<ParamId, ([AnyTensor; 2], usize)>,
    /// See [`Together::update`].
    report: Option<AnyTensor>,
}

impl Known {
    /// The norm of the last step's gradients, and the number of that step; of the first step whose norm was not finite, if
    /// there was one. It waits for the GPU.
    pub(crate) fn norm(&self) -> Option<(f64, usize)> {
        let report = self
            .report
            .clone()?
            .into_tensor::<1>()
            .try_into_data()
            .ok()?;
        let mut numbers = report.iter::<f64>();
        Some((numbers.next()?, numbers.nth(1)? as usize))
    }
}

/// A network's parameters with gradients, in order, on a GPU.
#[derive(Default)]
pub(crate) struct Parameters {
    pub(crate) ids: Vec<ParamId>,
    gradients: Vec<AnyTensor>,
    weights: Vec<AnyTensor>,
    /// Whether the network has no others.
    all: bool,
}

impl Parameters {
    /// `None` unless they are on a GPU.
    pub(crate) fn of<N: Module>(network: &N, gradients: &GradientsParams) -> Option<Self> {
        let mut visitor = Gathered {
            gradients,
            found: Some(Parameters {
                all: true,
                ..Parameters::default()
            }),
        };
        network.visit(&mut visitor);
        visitor.found.filter(|found| !found.ids.is_empty())
    }

    /// Whether the moments of all of them are known.
    pub(crate) fn are_in(&self, known: &Known) -> bool {
        self.ids.iter().all(|id| known.moments.contains_key(id))
    }

    /// The weights after an update, each with the number of its steps; and the average after it, unless the network has
    /// parameters without gradients. The moments must be known.
    pub(crate) fn update<N: Module>(
        self,
        together: Together,
        known: &mut Known,
        average: &mut Option<N>,
    ) -> Updated {
        let averages = average.as_ref().filter(|_| self.all).and_then(tensors);
        let averages = averages.filter(|averages| averages.len() == self.weights.len());
        let averaged = averages.is_some();
        let mut averages = averages.into_iter().flatten();
        let (mut weights, mut times) = (Vec::new(), Vec::new());
        for (id, weight) in self.ids.iter().zip(self.weights) {
            if let Some((moments, time)) = known.moments.remove(id) {
                times.push(time + 1);
                weights.push(Weight {
                    weight,
                    moments,
                    average: averages.next(),
                });
            }
        }
        let before = known.report.take();
        let (weights, report) = together.update(self.gradients, weights, times.clone(), before);
        known.report = report;
        for ((&id, weight), &time) in self.ids.iter().zip(&weights).zip(&times) {
            known.moments.insert(id, (weight.moments.clone(), time));
        }
        if let Some(moved) = average.take_if(|_| averaged) {
            let values = weights.iter().filter_map(|weight| weight.average.clone());
            *average = Some(moved.map(&mut Replaced(values.collect())));
        }
        Updated {
            weights: weights.into_iter().zip(times).collect(),
            averaged,
        }
    }
}

/// See [`Parameters::update`].
pub(crate) struct Updated {
    pub(crate) weights: VecDeque<(Weight<AnyTensor>, usize)>,
    /// Whether the average has followed.
    pub(crate) averaged: bool,
}

struct Gathered<'a> {
    gradients: &'a GradientsParams,
    found: Option<Parameters>,
}

impl ModuleVisitor for Gathered<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let Some(found) = &mut self.found else { return };
        let Some(gradient) = self.gradients.get::<D>(parameter.id) else {
            found.all = false;
            return;
        };
        let weight = AnyTensor::of(parameter.val().without_autodiff());
        match weight.zip(AnyTensor::of(gradient)) {
            Some((weight, gradient)) => {
                found.ids.push(parameter.id);
                found.weights.push(weight);
                found.gradients.push(gradient);
            }
            None => self.found = None,
        }
    }
}

/// All parameters of a network, if they are on a GPU.
pub(crate) fn tensors<N: Module>(network: &N) -> Option<Vec<AnyTensor>> {
    struct All(Option<Vec<AnyTensor>>);
    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            let Some(found) = &mut self.0 else { return };
            match AnyTensor::of(parameter.val().without_autodiff()) {
                Some(tensor) => found.push(tensor),
                None => self.0 = None,
            }
        }
    }
    let mut all = All(Some(Vec::new()));
    network.visit(&mut all);
    all.0
}

/// Gives each parameter its new value.
pub(crate) struct Replaced(pub(crate) VecDeque<AnyTensor>);

impl ModuleMapper for Replaced {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.pop_front() {
            Some(value) => replace_value(parameter, value.into_tensor()),
            None => parameter,
        }
    }
}
