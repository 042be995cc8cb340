//! The network as a denoiser, with labels and guidance.

use std::borrow::Borrow;

use burn::tensor::{Int, Tensor, TensorData};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::{Denoiser, Guidance, Level, NetworkDenoiser};
use kiln_kernels::{is_cpu, on_the_pool, with_precision};
use kiln_models::EmbeddedLevels;

use super::finite::Watch;
use super::model::Pipeline;
use super::options::SampleOptions;
use crate::Error;

/// The labels of a batch, `[batch]`, and the label of the null class, if there is one.
type Labels = (Tensor<1, Int>, Option<usize>);

/// A model's networks, each with the levels at which a drawing asks it: they are embedded once for all batches and steps.
pub(super) struct Networks<'a> {
    unet: EmbeddedLevels<'a>,
    guide: Option<EmbeddedLevels<'a>>,
}

impl Pipeline {
    /// The network as a denoiser of a batch with one image for each of `classes`, guided by the model's guide or its
    /// null class, as `options` say. `options` also determine the clipping of clean latents and the precision; their
    /// other fields do not matter.
    ///
    /// It works at any level. See [`Self::trajectory`] for the levels of a drawing, and [`Self::noise`] for its first
    /// noise.
    ///
    /// # Errors
    /// The errors of [`Self::check_classes`].
    pub fn denoiser<'a>(
        &'a self,
        classes: &[Option<usize>],
        options: &'a SampleOptions,
    ) -> Result<impl Denoiser + use<'a>, Error> {
        let networks = self.networks(&[], options);
        self.denoiser_with(networks, classes, options, |_, zt, network| network(zt))
    }

    /// The networks for a drawing along `levels`. They work at any other level, too.
    pub(super) fn networks(&self, levels: &[Level], options: &SampleOptions) -> Networks<'_> {
        let DiffusionModel { unet, guide, .. } = &self.model;
        let told = |level: &Level| (level.timestep, level.rates.noise_power());
        self.compute(options, || Networks {
            unet: unet.embed_levels(levels.iter().map(told)),
            guide: guide.as_ref().map(|guide| {
                let asked = |level: &&Level| options.guidance.scale_at(**level) != 1.0;
                let levels = levels.iter().filter(asked);
                guide.unet.embed_levels(levels.map(told))
            }),
        })
    }

    /// [`Self::denoiser`] with a `watch` on the output of the `networks`.
    pub(super) fn watched_denoiser<'a, 'n>(
        &'a self,
        networks: &'a Networks<'n>,
        classes: &[Option<usize>],
        options: &'a SampleOptions,
        watch: &'a Watch,
    ) -> Result<impl Denoiser + use<'a, 'n>, Error> {
        self.denoiser_with(networks, classes, options, |level, zt, network| {
            watch.ask(zt, level, network)
        })
    }

    /// `ask` passes latents at a level to the guided network and returns its output.
    fn denoiser_with<'a, 'n, N, A>(
        &'a self,
        networks: N,
        classes: &[Option<usize>],
        options: &'a SampleOptions,
        ask: A,
    ) -> Result<impl Denoiser + use<'a, 'n, N, A>, Error>
    where
        'n: 'a,
        N: Borrow<Networks<'n>> + 'a,
        A: Fn(Level, Tensor<4>, &dyn Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> + 'a,
    {
        let output = |unet: &EmbeddedLevels, zt: Tensor<4>, level: Level, labels| {
            let noise_power = level.rates.noise_power();
            self.compute(options, || {
                unet.forward_at(zt, level.timestep, noise_power, labels)
            })
        };
        let conditions = self.labels(classes, options.guidance)?;
        let guided = move |zt: Tensor<4>, level: Level| {
            let Networks { unet, guide } = networks.borrow();
            let labels = || conditions.as_ref().map(|(labels, _)| labels.clone());
            let network = |zt| output(unet, zt, level, labels());
            match (guide, &conditions) {
                (Some(guide), _) => {
                    let worse = |zt| output(guide, zt, level, labels());
                    options.guidance.guide_by(zt, level, network, worse)
                }
                (None, Some((labels, Some(null_label)))) => {
                    let network = |zt, labels| output(unet, zt, level, Some(labels));
                    (options.guidance).guide(zt, level, labels, *null_label, network)
                }
                (None, _) => network(zt),
            }
        };
        Ok(NetworkDenoiser {
            network: move |zt: Tensor<4>, level: Level| ask(level, zt, &|zt| guided(zt, level)),
            prediction: self.model.scheduler.prediction,
            clip: options.clip,
        })
    }

    /// The result of the networks' `work`, in the precision of the options.
    fn compute<R: Send>(&self, options: &SampleOptions, work: impl FnOnce() -> R + Send) -> R {
        let work = || with_precision(options.precision, work);
        // A GPU has a queue for each thread.
        match is_cpu(&self.device) {
            true => on_the_pool(work),
            false => work(),
        }
    }

    /// Checks that the model can draw the classes in `options`, with their guidance.
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::NoSuchClass`], [`Error::ClassNeeded`], [`Error::NoGuide`] or
    /// [`Error::NoNullClass`] if it cannot.
    pub fn check_classes(&self, options: &SampleOptions) -> Result<(), Error> {
        let mut classes = options.conditions();
        classes.try_for_each(|class| self.label(class, options.guidance).map(drop))
    }

    /// The network's label for this class, or for the null class if there is none; `None` for a network without
    /// classes.
    pub(super) fn label(
        &self,
        class: Option<usize>,
        guidance: Guidance,
    ) -> Result<Option<usize>, Error> {
        let needs_null_class = guidance.scale() != 1.0 && self.model.guide.is_none();
        match (&self.classes, class) {
            (None, Some(_)) => Err(Error::NoClasses),
            (None, None) if needs_null_class => Err(Error::NoGuide),
            (None, None) => Ok(None),
            (Some(known), _) if needs_null_class && !known.has_null_class() => {
                Err(Error::NoNullClass)
            }
            (Some(known), class) => known.label(class).map(Some),
        }
    }

    fn labels(
        &self,
        classes: &[Option<usize>],
        guidance: Guidance,
    ) -> Result<Option<Labels>, Error> {
        let labels = classes.iter().map(|&class| self.label(class, guidance));
        let labels: Option<Vec<usize>> = labels.collect::<Result<_, _>>()?;
        let null_label = self.classes.as_ref().and_then(|known| known.null_label());
        Ok(labels
            .filter(|_| self.classes.is_some())
            .map(|labels| (self.integers(labels), null_label)))
    }

    pub(super) fn integers(&self, values: Vec<usize>) -> Tensor<1, Int> {
        let count = values.len();
        let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }
}
