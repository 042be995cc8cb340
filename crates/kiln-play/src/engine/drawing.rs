//! Drawing: from the page's words to the pipeline's, and from its moments to the page.

use burn::tensor::Tensor;
use kiln_diffusion::sampler::InpaintOptions;
use kiln_diffusion::{Guidance, slerp};
use kiln_pipeline::pictures::Images;
use kiln_pipeline::{Error, Moment, Pipeline, Precision, SampleOptions, Start};

use super::pictures::{self, Bytes};
use super::{Refusal, Tell};
use crate::protocol::{Answer, Drawing, Sheet, Watch};

/// More images than a page shows.
const MOST_IMAGES: usize = 1024;
/// More images between noises than a page shows.
const MOST_PLACES: usize = 256;

/// The pipeline's options for what the page wants.
pub(super) fn options(pipeline: &Pipeline, drawing: &Drawing) -> Result<SampleOptions, Refusal> {
    let own = pipeline.default_options();
    let scale = drawing.guidance.unwrap_or(own.guidance.scale());
    let interval = (drawing.guidance_interval).unwrap_or(own.guidance.interval());
    let mut levels = own.levels;
    levels.spacing = drawing.spacing.unwrap_or(levels.spacing);
    let classes = drawing.classes.as_ref().map_or(own.classes, |classes| {
        classes.iter().map(|&class| class as usize).collect()
    });
    let options = SampleOptions {
        seed: drawing.seed.into(),
        count: drawing.count.map_or(own.count, |count| count as usize),
        first: drawing.first.map_or(own.first, u64::from),
        steps: drawing.steps.map_or(own.steps, |steps| steps as usize),
        sampler: drawing.sampler.unwrap_or(own.sampler),
        guidance: Guidance::new(scale, interval)?,
        levels,
        classes,
        // A browser has nothing else, and a link leads to the same picture in both.
        precision: Precision::F32,
        ..own
    };
    if options.images() > MOST_IMAGES {
        return Err(Refusal::Question(format!(
            "{} images are more than a page shows ({MOST_IMAGES})",
            options.images()
        )));
    }
    Ok(options)
}

/// Draws from noise, or from an image with a strength, and shows the steps.
pub(super) fn draw(
    pipeline: &Pipeline,
    drawing: &Drawing,
    watch: Watch,
    from: Option<(&Images, f64)>,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let options = options(pipeline, drawing)?;
    let (start, steps) = match from {
        None => (Start::Noise, options.steps),
        Some((original, strength)) => {
            let levels = pipeline.last_part(&options, strength)?;
            let start = Start::Image { original, strength };
            (start, levels.len().saturating_sub(1))
        }
    };
    let walked = SampleOptions {
        steps,
        ..options.clone()
    };
    let calls = walked.calls() as u32;
    // Both closures tell the page, one after the other.
    let tell = std::cell::RefCell::new((tell, 0, Ok(())));
    let show = |step: usize, images: Images, is_whole: bool| {
        let (tell, first, failure) = &mut *tell.borrow_mut();
        let mut bytes = Bytes::default();
        let answer = Answer::Moment {
            step: step as u32,
            steps: steps as u32,
            calls,
            first: *first,
            images: bytes.add(&images),
        };
        if is_whole {
            *first += images.len() as u32;
        }
        tell.tell(answer, bytes).map_err(|refusal| {
            *failure = Err(refusal);
            Error::Stopped
        })
    };
    let mut observer = |moment: Moment<'_>| {
        let shown = match watch {
            Watch::Noisy => Some(moment.latents),
            Watch::Clean => moment.clean.or(Some(moment.latents)),
            Watch::Nothing => None,
        };
        match shown.filter(|_| moment.steps_done < steps) {
            Some(latents) => show(moment.steps_done, pipeline.decode(latents.clone())?, false),
            None => tell.borrow().0.check(),
        }
    };
    let observed = options.observed(&mut observer);
    let drawn = pipeline.sample_each(start, observed, |images| show(steps, images, true));
    let (_, _, failure) = tell.into_inner();
    failure.and(drawn.map_err(Refusal::from))
}

/// Fills in the hole of a picture.
pub(super) fn inpaint(
    pipeline: &Pipeline,
    drawing: &Drawing,
    bytes: &[u8],
    given: &Sheet,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let options = options(pipeline, drawing)?;
    let shape = pipeline.image_shape();
    let both = Sheet { count: 2, ..*given };
    let original = pictures::read(bytes, &both, shape)?.first(1);
    let place = given.at + given.width * given.height * 4;
    let mask = Sheet {
        at: place,
        count: 1,
        ..*given
    };
    let gray = kiln_data::ImageShape {
        channels: 1,
        ..shape
    };
    let mask = pictures::read(bytes, &mask, gray)?;
    let mut observer = |_: Moment<'_>| tell.check();
    let observed = options.observed(&mut observer);
    let images = pipeline.inpaint(&original, &mask, InpaintOptions::default(), observed)?;
    tell_images(&images, tell)
}

/// Draws images between four noises, at `places` across and down.
pub(super) fn between(
    pipeline: &Pipeline,
    drawing: &Drawing,
    corners: [u32; 4],
    places: &[[f64; 2]],
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let is_between = |rate: &f64| (0.0..=1.0).contains(rate);
    if !(1..=MOST_PLACES).contains(&places.len()) || !places.as_flattened().iter().all(is_between) {
        return Err(Refusal::Question(format!(
            "{} places between four noises: there must be 1 to {MOST_PLACES}, each from 0 to 1 across and down",
            places.len()
        )));
    }
    let options = options(pipeline, drawing)?;
    let noises = corners.map(|seed| pipeline.noise(seed.into(), 0));
    let dims = noises[0].dims();
    let mut corners = Vec::new();
    for noise in noises {
        let noise = noise.try_into_data_as::<f32>()?;
        corners.push(noise.iter::<f32>().collect::<Vec<_>>());
    }
    let mut between = Vec::new();
    for &[across, down] in places {
        let left = slerp(&corners[0], &corners[2], down);
        let right = slerp(&corners[1], &corners[3], down);
        between.extend(slerp(&left, &right, across));
    }
    let shape = [places.len(), dims[1], dims[2], dims[3]];
    let noises = burn::tensor::TensorData::new(between, shape);
    let noises = Tensor::from_data(noises, &pipeline.device());
    let mut observer = |_: Moment<'_>| tell.check();
    let images = pipeline.sample_from(noises, options.observed(&mut observer))?;
    tell_images(&images, tell)
}

pub(super) fn tell_images(images: &Images, tell: &mut Tell<'_>) -> Result<(), Refusal> {
    let mut bytes = Bytes::default();
    let images = bytes.add(images);
    tell.tell(Answer::Pictures { images }, bytes)
}
