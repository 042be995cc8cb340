//! A picture's way through the first stage: latents, codes, and back.

use burn::tensor::{Int, Tensor, TensorData};
use kiln_checkpoint::FirstStage;
use kiln_models::Autoencoder;
use kiln_pipeline::Pipeline;
use kiln_pipeline::pictures::Images;

use super::drawing::tell_images;
use super::pictures::{self, Bytes};
use super::{Refusal, Tell};
use crate::protocol::{Answer, Sheet};

/// How much stronger than it is the difference of a reconstruction is shown.
const AMPLIFIED: f64 = 4.0;
/// Codes in a row of the codebook's picture.
const CODES_IN_A_ROW: usize = 64;

/// Tells a picture's latents, codes and reconstruction.
pub(super) fn encode(
    pipeline: &Pipeline,
    bytes: &[u8],
    given: &Sheet,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let network = network(pipeline)?;
    let original = pictures::read(bytes, given, pipeline.image_shape())?.first(1);
    let z0 = pipeline.encode(&original)?;
    let reconstruction = pipeline.decode(z0.clone())?;
    let device = pipeline.device();
    let difference = (reconstruction.to_tensor(&device) - original.to_tensor(&device)).abs();
    // Black is no difference.
    let difference = Images::from_tensor(difference * AMPLIFIED - 1.0)?;
    let mut bytes = Bytes::default();
    let (codes, colours) = match vectors(network) {
        Some(vectors) => {
            let chosen = network.bottleneck.chosen(network.denormalised(z0.clone()));
            let codes = match chosen {
                Some(codes) => codes.try_into_data_as::<i64>()?.iter::<i64>().collect(),
                None => Vec::new(),
            };
            (codes, Some(bytes.add(&colours(vectors)?)))
        }
        None => (Vec::new(), None),
    };
    let answer = Answer::Encoded {
        latents: bytes.add_latents(z0)?,
        codes: codes.into_iter().map(|code| code as u32).collect(),
        colours,
        codebook: network.bottleneck.codes().unwrap_or(0) as u32,
        reconstruction: bytes.add(&reconstruction),
        difference: bytes.add(&difference),
        amplified: AMPLIFIED,
        psnr: pictures::psnr(&reconstruction, &original),
    };
    tell.tell(answer, bytes)
}

/// Tells what the decoder makes of codes, one for each latent.
pub(super) fn decode(
    pipeline: &Pipeline,
    codes: &[u32],
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let network = network(pipeline)?;
    let refused = |sentence: &str| Err(Refusal::Question(sentence.to_owned()));
    let Some(vectors) = vectors(network) else {
        return refused("this first stage has no codebook with one code for each latent");
    };
    let [_, height, width] = pipeline.latent_shape();
    let [rows, channels] = vectors.dims();
    if codes.len() != height * width {
        return Err(Refusal::Question(format!(
            "{} codes: this first stage takes {}",
            codes.len(),
            height * width
        )));
    }
    if let Some(unknown) = codes.iter().find(|&&code| code as usize >= rows) {
        return Err(Refusal::Question(format!(
            "there is no code {unknown}: the codebook has 0 to {}",
            rows - 1
        )));
    }
    let latents = rows_of(vectors, codes.iter().map(|&code| i64::from(code)));
    let latents = latents
        .reshape([1, height, width, channels])
        .permute([0, 3, 1, 2]);
    let images = pipeline.decode(network.normalised(latents))?;
    tell_images(&images, tell)
}

fn network(pipeline: &Pipeline) -> Result<&Autoencoder, Refusal> {
    match &pipeline.model().first_stage {
        Some(FirstStage { network, .. }) => Ok(network),
        None => Err(Refusal::Question(
            "this model draws pixels: it has no first stage".to_owned(),
        )),
    }
}

/// The codebook `[codes, channels]`, if each latent goes through one code.
fn vectors(network: &Autoencoder) -> Option<Tensor<2>> {
    let vectors = network.bottleneck.codebook()?;
    let is_single = network.bottleneck.codes() == Some(vectors.dims()[0]);
    is_single.then_some(vectors)
}

fn rows_of(vectors: Tensor<2>, rows: impl Iterator<Item = i64>) -> Tensor<2> {
    let rows: Vec<i64> = rows.collect();
    let count = rows.len();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &vectors.device());
    vectors.select(0, rows)
}

/// A pixel for each code, [`CODES_IN_A_ROW`]: its first three numbers as red, green and blue, so that near codes have near
/// colours. What is left of the last row is black.
fn colours(vectors: Tensor<2>) -> Result<Images, Refusal> {
    let scale = vectors.clone().abs().max().into_scalar::<f32>().max(1e-6);
    let [codes, channels] = vectors.dims();
    let shown = if channels < 3 { 1 } else { 3 };
    let rows = codes.div_ceil(CODES_IN_A_ROW);
    let left = Tensor::full(
        [rows * CODES_IN_A_ROW - codes, shown],
        -1.0,
        &vectors.device(),
    );
    let colours = Tensor::cat(vec![vectors.narrow(1, 0, shown) / scale, left], 0);
    let colours = colours
        .reshape([1, rows, CODES_IN_A_ROW, shown])
        .permute([0, 3, 1, 2]);
    Ok(Images::from_tensor(colours)?)
}
