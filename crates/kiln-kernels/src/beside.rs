//! The channels of two images side by side.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::arrays::{self, Array};
use crate::extension::{numbers, tensor, values};
use crate::{is_ours, is_ours_without_gradient};

/// Pixels that one task copies.
const PIXELS_PER_TASK: usize = 64;

/// Images, `[batch, height, width, channels]`.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved a few times per network call"
)]
pub enum Images {
    /// In one tensor.
    Whole(Tensor<4>),
    /// In two: the channels of the first, then those of the second.
    Beside(Tensor<4>, Tensor<4>),
}

impl Images {
    /// `[batch, height, width, channels]`.
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Self::Whole(images) => images.dims(),
            Self::Beside(first, second) => {
                let [batch, height, width, channels] = first.dims();
                [batch, height, width, channels + second.dims()[3]]
            }
        }
    }

    /// In one tensor.
    ///
    /// # Panics
    ///
    /// If the images have other sizes or are not as many.
    pub fn joined(self) -> Tensor<4> {
        match self {
            Self::Whole(images) => images,
            Self::Beside(first, second) => join(first, second),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Whole(images) => is_ours(images),
            Self::Beside(first, second) => is_ours(first) && is_ours(second),
        }
    }
}

impl From<Tensor<4>> for Images {
    fn from(images: Tensor<4>) -> Self {
        Self::Whole(images)
    }
}

/// Images with the channels of `first`, then those of `second`. In a model that only draws they stay in two places,
/// since a [`Convolution`](crate::Convolution) can read them there.
///
/// # Panics
///
/// If the images have other sizes or are not as many.
pub fn beside(first: Tensor<4>, second: Tensor<4>) -> Images {
    let stay = is_ours_without_gradient(&first) && is_ours_without_gradient(&second);
    match stay && fits(&first, &second) {
        true => Images::Beside(first, second),
        false => Images::Whole(join(first, second)),
    }
}

/// Whether both are images of the same size, as many, and have channels.
fn fits(first: &Tensor<4>, second: &Tensor<4>) -> bool {
    let ([same @ .., near], [of_second @ .., far]) = (first.dims(), second.dims());
    same == of_second && near > 0 && far > 0
}

fn join(first: Tensor<4>, second: Tensor<4>) -> Tensor<4> {
    if fits(&first, &second) && is_ours(&first) && is_ours(&second) {
        return Tensor::from_dispatch(<Dispatch as BesideOps>::kiln_beside(
            first.into_dispatch(),
            second.into_dispatch(),
        ));
    }
    Tensor::cat(vec![first, second], 3)
}

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait BesideOps: Backend {
    /// See [`Images::joined`].
    fn kiln_beside(first: FloatTensor<Self>, second: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Writes pixels with some channels of `first` and some of `second` each.
#[inline(always)]
pub(crate) fn put_beside([first, second]: [&[f32]; 2], [near, far]: Channels, pixels: &mut [f32]) {
    let both = first.chunks_exact(near).zip(second.chunks_exact(far));
    for (pixel, (first, second)) in pixels.chunks_exact_mut(near + far).zip(both) {
        let (to_first, to_second) = pixel.split_at_mut(near);
        to_first.copy_from_slice(first);
        to_second.copy_from_slice(second);
    }
}

/// Channels of the first and the second image.
type Channels = [usize; 2];

fn channels(first: &FlexTensor, second: &FlexTensor) -> Channels {
    [first, second].map(|images| images.shape()[3])
}

impl BesideOps for Flex {
    fn kiln_beside(first: FlexTensor, second: FlexTensor) -> FlexTensor {
        let [near, far] = channels(&first, &second);
        let mut shape = first.shape();
        let mut joined = arrays::array(shape.num_elements() / near * (near + far));
        let (left, right) = (values(&first), values(&second));
        joined
            .par_chunks_mut(PIXELS_PER_TASK * (near + far))
            .zip(numbers(&left).par_chunks(PIXELS_PER_TASK * near))
            .zip(numbers(&right).par_chunks(PIXELS_PER_TASK * far))
            .for_each(|((joined, left), right)| {
                put_beside([left, right], [near, far], joined);
            });
        shape[3] = near + far;
        tensor(joined, shape)
    }
}

impl<C: CheckpointStrategy> BesideOps for Autodiff<Flex, C> {
    fn kiln_beside(first: FloatTensor<Self>, second: FloatTensor<Self>) -> FloatTensor<Self> {
        let (first, first_node) = first.into_parts();
        let (second, second_node) = second.into_parts();
        let channels = channels(&first, &second);
        let output = Flex::kiln_beside(first, second);
        match BesideGradient
            .prepare::<C>([first_node, second_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(channels, output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct BesideGradient;

impl Backward<Flex, 2> for BesideGradient {
    type State = Channels;

    fn backward(
        self,
        operation: Ops<Channels, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [near, far] = operation.state;
        let gradient = values(&gradients.consume::<Flex>(&operation.node));
        let parts = [(0, near), (near, far)];
        for (parent, (from, channels)) in operation.parents.into_iter().zip(parts) {
            let Some(node) = parent else { continue };
            let part = part_of_pixels(numbers(&gradient), near + far, from, channels);
            let mut shape = gradient.shape();
            shape[3] = channels;
            gradients.register::<Flex>(node.id, tensor(part, shape));
        }
    }
}

/// Some channels, `from` on, of pixels that have `all`.
fn part_of_pixels(pixels: &[f32], all: usize, from: usize, channels: usize) -> Array {
    let mut part = arrays::array(pixels.len() / all * channels);
    part.par_chunks_mut(PIXELS_PER_TASK * channels)
        .zip(pixels.par_chunks(PIXELS_PER_TASK * all))
        .for_each(|(part, pixels)| {
            let pixels = pixels.chunks_exact(all);
            for (part, pixel) in part.chunks_exact_mut(channels).zip(pixels) {
                part.copy_from_slice(&pixel[from..from + channels]);
            }
        });
    part
}
