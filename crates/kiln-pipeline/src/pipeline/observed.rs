//! Who sees the steps of a drawing, if anybody does.

use burn::tensor::Tensor;
use kiln_diffusion::sampler::Progress;

use super::finite::Watch;
use super::options::SampleOptions;
use crate::Error;

/// A moment of the denoising of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Steps done, from 0 (nothing but noise) to the number of steps.
    pub steps_done: usize,
    /// The latents `[batch, channels, h, w]` with the noise that they still have; [`Pipeline::decode`](super::Pipeline::decode)
    /// shows them.
    pub latents: &'a Tensor<4>,
    /// What the network took for the clean latents at the beginning of the step that led here, of the same shape; none
    /// before the first step.
    pub clean: Option<&'a Tensor<4>>,
}

/// Sees every moment of a drawing. An error ends the drawing, which returns it: [`Error::Stopped`], where nothing went wrong.
pub type Observer<'a> = dyn FnMut(Moment<'_>) -> Result<(), Error> + 'a;

/// How to draw, and who sees it: `&options` alone, or [`SampleOptions::observed`].
pub struct Observed<'a> {
    pub(super) options: &'a SampleOptions,
    pub(super) eyes: Eyes<'a>,
}

impl SampleOptions {
    /// These options, with an observer of every moment of each batch.
    ///
    /// ```no_run
    /// # use std::path::Path;
    /// # let device = burn::tensor::Device::flex();
    /// # let pipeline = kiln_pipeline::Pipeline::load(Path::new("model"), &device)?;
    /// let options = pipeline.default_options();
    /// let images = pipeline.sample(options.observed(&mut |moment| {
    ///     println!("step {} of {}", moment.steps_done, options.steps);
    ///     Ok(())
    /// }))?;
    /// # Ok::<(), kiln_pipeline::Error>(())
    /// ```
    pub fn observed<'a>(&'a self, observer: &'a mut Observer<'a>) -> Observed<'a> {
        Observed {
            options: self,
            eyes: Eyes(Some(observer)),
        }
    }
}

impl<'a> From<&'a SampleOptions> for Observed<'a> {
    fn from(options: &'a SampleOptions) -> Self {
        Self {
            options,
            eyes: Eyes::closed(),
        }
    }
}

/// An observer, or none.
pub(super) struct Eyes<'a>(Option<&'a mut Observer<'a>>);

impl Eyes<'_> {
    /// No observer.
    pub(super) fn closed() -> Self {
        Self(None)
    }

    /// The same observer, for a while.
    pub(super) fn lent(&mut self) -> Eyes<'_> {
        Eyes(self.0.as_mut().map(|observer| &mut **observer as _))
    }

    pub(super) fn see(&mut self, moment: Moment<'_>) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), |observer| observer(moment))
    }

    /// A walk whose every step is seen, up to an error of the observer's, which ends it. `walk` gets a watch for the network that
    /// it asks: what that finds comes first.
    pub(super) fn follow<W>(
        &mut self,
        walk: impl FnOnce(&Watch, &mut dyn FnMut(Progress<'_>)) -> Result<W, Error>,
    ) -> Result<W, Error> {
        let watch = Watch::default();
        let mut seen = Ok(());
        let walked = walk(&watch, &mut |progress| {
            watch.set_steps_done(progress.step);
            if seen.is_ok() && !watch.has_failed() {
                seen = self.see(Moment {
                    steps_done: progress.step,
                    latents: progress.z,
                    clean: Some(progress.z0),
                });
                if seen.is_err() {
                    watch.end();
                }
            }
        })?;
        watch.finish()?;
        seen.map(|()| walked)
    }
}
