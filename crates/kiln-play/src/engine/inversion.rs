//! From a picture back to its noise.

use kiln_diffusion::sampler::Sampler;
use kiln_pipeline::{Moment, Pipeline, SampleOptions};

use super::drawing::options;
use super::pictures::{self, Bytes};
use super::{Refusal, Tell};
use crate::protocol::{Answer, Drawing, Sheet};

/// More corrections of a step bring nothing.
const MOST_REFINEMENTS: u32 = 16;

/// Tells a picture's noise, and what DDIM draws from it.
pub(super) fn invert(
    pipeline: &Pipeline,
    drawing: &Drawing,
    bytes: &[u8],
    given: &Sheet,
    refinements: u32,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let drawing = Drawing {
        count: Some(1),
        guidance: drawing.guidance.or(Some(1.0)),
        ..drawing.clone()
    };
    let options = SampleOptions {
        sampler: Sampler::default(),
        ..options(pipeline, &drawing)?
    };
    let original = pictures::read(bytes, given, pipeline.image_shape())?.first(1);
    let refinements = refinements.min(MOST_REFINEMENTS) as usize;
    let mut observer = |_: Moment<'_>| tell.check();
    let noise = pipeline.invert(&original, refinements, options.observed(&mut observer))?;
    let mut observer = |_: Moment<'_>| tell.check();
    let again = pipeline.sample_from(noise.clone(), options.observed(&mut observer))?;
    let reconstruction = match pipeline.has_first_stage() {
        true => Some(pipeline.decode(pipeline.encode(&original)?)?),
        false => None,
    };
    let variance = noise.clone().square().mean().into_scalar::<f32>();
    let mut bytes = Bytes::default();
    let answer = Answer::Inverted {
        noise: bytes.add_latents(noise)?,
        deviation: f64::from(variance).sqrt(),
        again: bytes.add(&again),
        psnr: pictures::psnr(&again, &original),
        psnr_of_first_stage: reconstruction.map(|images| pictures::psnr(&images, &original)),
    };
    tell.tell(answer, bytes)
}
