//! The optional observer of a drawing's steps.

use burn::tensor::Tensor;
use kiln_diffusion::sampler::StepTaken;

use super::finite::Watch;
use super::options::SampleOptions;
use crate::Error;

/// A moment of the denoising of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Steps done, from 0 (pure noise) to the number of steps.
    pub steps_done: usize,
    /// The latents `[batch, channels, h, w]` with the noise that they still have; [`Pipeline::decode`](super::Pipeline::decode)
    /// shows them.
    pub latents: &'a Tensor<4>,
    /// The clean latents that the network predicted at the beginning of the last step, of the same shape; `None` before
    /// the first step.
    pub clean: Option<&'a Tensor<4>>,
}

/// Sees every moment of a drawing. An error ends the drawing, which returns it. Use [`Error::Stopped`] if nothing went
/// wrong.
pub type Observer<'a> = dyn FnMut(Moment<'_>) -> Result<(), Error> + 'a;

/// Options with an optional observer: `&options` alone, or [`SampleOptions::observed`].
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

    pub(super) fn see(&mut self, moment: Moment<'_>) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), |observer| observer(moment))
    }

    /// Runs a walk whose steps are all observed. An error of the observer ends it. `walk` gets a watch for its network,
    /// and the watch's error has priority.
    pub(super) fn follow<W>(
        &mut self,
        walk: impl FnOnce(&Watch, &mut dyn FnMut(StepTaken<'_>)) -> Result<W, Error>,
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
