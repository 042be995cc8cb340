//! Self-attention that learns, with scores in memory for some images at a time.
//!
//! The formulas are at [`crate::attention`]. Only `qkv` is kept from the forward pass: the backward pass computes the
//! scores and probabilities again. The products are those of [`super::product`], which use the card's matrix units.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::{permute, reshape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::arguments::{flat, memory, number, of_first_dimension};
use super::copy::copy;
use super::product::multiplied;
use super::update::{grid, sum_over_cube};
use super::{AnyTensor, Gpu, UNITS, fused};
use crate::attention::{AttentionOps, Heads};
use crate::precision::{self, Factors};

/// Scores that are computed at a time, unless one head of one image has more: 64 MiB. The backward pass has their gradients,
/// too.
const MOST_SCORES: usize = 1 << 24;

/// What both passes need to know.
#[derive(Clone, Copy, Debug)]
struct Options {
    heads: Heads,
    precision: Factors,
}

impl AttentionOps for Gpu {
    fn kiln_attention(qkv: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        attended(&AnyTensor(qkv), Options::of(heads)).0
    }
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Gpu, C> {
    fn kiln_attention(qkv: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let (qkv, options) = (AnyTensor(qkv), Options::of(heads));
        let output = attended(&qkv, options).0;
        match Gradient.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish((qkv, options), output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

impl Options {
    fn of(heads: Heads) -> Self {
        Self {
            heads,
            precision: precision::requested(),
        }
    }
}

fn attended(qkv: &AnyTensor, options: Options) -> AnyTensor {
    let Heads { tokens, .. } = options.heads;
    let shape = [qkv.shape()[0], tokens, options.heads.inner()].into();
    fused::queue_one(
        "kiln_attention",
        vec![qkv.clone()],
        shape,
        move |mut inputs| {
            let qkv = inputs.pop().unwrap_or_else(|| unreachable!("one input"));
            forward(qkv, &options)
        },
    )
}

#[derive(Debug)]
struct Gradient;

impl Backward<Gpu, 1> for Gradient {
    type State = (AnyTensor, Options);

    fn backward(
        self,
        operation: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (qkv, options) = operation.state;
        let gradient = AnyTensor(gradients.consume::<Gpu>(&operation.node));
        let [node] = operation.parents;
        let Some(node) = node else { return };
        let shape = qkv.shape().clone();
        let made = fused::queue_one(
            "kiln_attention_backward",
            vec![qkv, gradient],
            shape,
            move |inputs| {
                let [qkv, gradient]: [CubeTensor; 2] = inputs
                    .try_into()
                    .unwrap_or_else(|_| unreachable!("two inputs"));
                backward(qkv, gradient, &options)
            },
        );
        gradients.register::<Gpu>(node.id, made.0);
    }
}

fn forward(qkv: CubeTensor, options: &Options) -> CubeTensor {
    let parts = split(qkv, &options.heads);
    let [output] = over_rows(&parts[0], |rows| {
        let [query, key, value] = parts.each_ref().map(|part| of_first_dimension(part, rows));
        let probabilities = probabilities(query, key, options);
        [multiplied(
            probabilities,
            value,
            [false, false],
            options.precision,
        )]
    });
    without_heads(output, &options.heads)
}

fn backward(qkv: CubeTensor, gradient: CubeTensor, options: &Options) -> CubeTensor {
    let precision = options.precision;
    let parts = split(qkv, &options.heads);
    let gradient = with_heads(gradient, &options.heads);
    let made = over_rows(&parts[0], |rows| {
        let [query, key, value] = parts.each_ref().map(|part| of_first_dimension(part, rows));
        let gradient = of_first_dimension(&gradient, rows);
        let probabilities = probabilities(query.clone(), key.clone(), options);
        let of_value = multiplied(
            probabilities.clone(),
            gradient.clone(),
            [true, false],
            precision,
        );
        let of_scores = multiplied(gradient, value, [false, true], precision);
        let tokens = options.heads.tokens;
        score_gradients::launch(
            &of_scores.client,
            grid(number(rows.1 * tokens)),
            CubeDim::new_1d(UNITS),
            flat(&probabilities),
            flat(&of_scores),
            number(rows.1 * tokens),
            tokens as u32,
        );
        let of_query = multiplied(of_scores.clone(), key, [false, false], precision);
        let of_key = multiplied(of_scores, query, [true, false], precision);
        [of_query, of_key, of_value]
    });
    joined(made, &options.heads)
}

/// The probabilities of keys `[rows, queries, keys]`.
fn probabilities(query: CubeTensor, key: CubeTensor, options: &Options) -> CubeTensor {
    let [rows, tokens, _] = sizes(&query);
    let scores = multiplied(query, key, [false, true], options.precision);
    softmax::launch(
        &scores.client,
        grid(number(rows * tokens)),
        CubeDim::new_1d(UNITS),
        flat(&scores),
        number(rows * tokens),
        tokens as u32,
    );
    scores
}

/// `[rows, tokens, channels]`, where a row is a head of an image.
fn sizes(part: &CubeTensor) -> [usize; 3] {
    let shape = part.shape();
    [shape[0], shape[1], shape[2]]
}

/// What `work` makes of all rows, some at a time, each of the shape of `part`. It gets the first row and their number.
fn over_rows<const N: usize>(
    part: &CubeTensor,
    work: impl Fn((usize, usize)) -> [CubeTensor; N],
) -> [CubeTensor; N] {
    let [rows, tokens, channels] = sizes(part);
    let most = (MOST_SCORES / (tokens * tokens)).clamp(1, rows);
    if most == rows {
        return work((0, rows));
    }
    let made = [(); N].map(|()| memory(part, [rows, tokens, channels]));
    for first in (0..rows).step_by(most) {
        let some = work((first, most.min(rows - first)));
        for (some, all) in some.iter().zip(&made) {
            copy(some, all, first * tokens * channels);
        }
    }
    made
}

/// `[batch, tokens, heads channels]` to `[batch heads, tokens, channels]`.
fn with_heads(tensor: CubeTensor, heads: &Heads) -> CubeTensor {
    let Heads {
        tokens,
        heads,
        channels,
    } = *heads;
    let batch = tensor.shape()[0];
    let tensor = reshape(tensor, [batch, tokens, heads, channels].into());
    let tensor = into_contiguous(permute(tensor, &[0, 2, 1, 3]));
    reshape(tensor, [batch * heads, tokens, channels].into())
}

/// The reverse of [`with_heads`].
fn without_heads(tensor: CubeTensor, heads: &Heads) -> CubeTensor {
    let inner = heads.inner();
    let Heads {
        tokens,
        heads,
        channels,
    } = *heads;
    let batch = tensor.shape()[0] / heads;
    let tensor = reshape(tensor, [batch, heads, tokens, channels].into());
    let tensor = into_contiguous(permute(tensor, &[0, 2, 1, 3]));
    reshape(tensor, [batch, tokens, inner].into())
}

/// Queries, multiplied by the scale of the scores, keys and values, each `[batch heads, tokens, channels]`.
fn split(qkv: CubeTensor, heads: &Heads) -> [CubeTensor; 3] {
    let qkv = into_contiguous(qkv);
    let Heads {
        tokens, channels, ..
    } = *heads;
    let rows = qkv.shape()[0] * heads.heads;
    let parts = [(); 3].map(|()| memory(&qkv, [rows, tokens, channels]));
    let numbers = rows * tokens * channels;
    let [query, key, value] = parts.each_ref().map(flat);

    split_heads::launch(
        &qkv.client,
        grid(number(numbers).div_ceil(UNITS)),
        CubeDim::new_1d(UNITS),
        flat(&qkv),
        query,
        key,
        value,
        number(numbers),
        tokens as u32,
        heads.heads as u32,
        channels as u32,
        heads.scale(),
    );

    parts
}

/// The gradient of `qkv`, from those of the parts that [`split`] makes.
fn joined(parts: [CubeTensor; 3], heads: &Heads) -> CubeTensor {
    let Heads {
        tokens, channels, ..
    } = *heads;
    let [rows, ..] = sizes(&parts[0]);
    let qkv = memory(&parts[0], [rows / heads.heads, tokens, heads.row()]);
    let numbers = rows * tokens * channels;
    let [query, key, value] = parts.map(into_contiguous);

    join_heads::launch(
        &qkv.client,
        grid(number(numbers).div_ceil(UNITS)),
        CubeDim::new_1d(UNITS),
        flat(&query),
        flat(&key),
        flat(&value),
        flat(&qkv),
        number(numbers),
        tokens as u32,
        heads.heads as u32,
        channels as u32,
        heads.scale(),
    );

    qkv
}

/// Where the query with this number of a part is in `qkv`. The key comes `heads * channels` numbers later, and the value
/// after as many more.
#[cube]
fn place_of_query(number: u32, tokens: u32, heads: u32, channels: u32) -> u32 {
    let channel = number % channels;
    let token = number / channels % tokens;
    let row = number / channels / tokens;
    let (head, image) = (row % heads, row / heads);
    (image * tokens + token) * 3u32 * heads * channels + head * channels + channel
}

#[cube(launch)]
fn split_heads(
    qkv: &Tensor<f32>,
    query: &mut Tensor<f32>,
    key: &mut Tensor<f32>,
    value: &mut Tensor<f32>,
    numbers: u32,
    tokens: u32,
    heads: u32,
    channels: u32,
    scale: f32,
) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < numbers {
        let place = place_of_query(number, tokens, heads, channels);
        let inner = heads * channels;
        query[number as usize] = qkv[place as usize] * scale;
        key[number as usize] = qkv[(place + inner) as usize];
        value[number as usize] = qkv[(place + 2u32 * inner) as usize];
    }
}

#[cube(launch)]
fn join_heads(
    query: &Tensor<f32>,
    key: &Tensor<f32>,
    value: &Tensor<f32>,
    qkv: &mut Tensor<f32>,
    numbers: u32,
    tokens: u32,
    heads: u32,
    channels: u32,
    scale: f32,
) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < numbers {
        let place = place_of_query(number, tokens, heads, channels);
        let inner = heads * channels;
        qkv[place as usize] = query[number as usize] * scale;
        qkv[(place + inner) as usize] = key[number as usize];
        qkv[(place + 2u32 * inner) as usize] = value[number as usize];
    }
}

/// The largest of all units' numbers, for all units of the cube.
#[cube]
fn largest_of_cube(own: f32) -> f32 {
    let mut largest = Shared::<[f32]>::new_slice(comptime![UNITS as usize]);
    largest[UNIT_POS as usize] = own;
    sync_cube();
    let mut active = comptime![UNITS / 2].runtime();
    while active > 0 {
        if UNIT_POS < active {
            let other = largest[(UNIT_POS + active) as usize];
            largest[UNIT_POS as usize] = max(largest[UNIT_POS as usize], other);
        }
        active /= 2;
        sync_cube();
    }
    let found = largest[0];
    // The memory may be used again.
    sync_cube();
    found
}

/// Scores become probabilities: a cube has one query.
#[cube(launch)]
fn softmax(scores: &mut Tensor<f32>, queries: u32, keys: u32) {
    let query = CUBE_POS as u32;
    // The last cubes have no query if the grid is larger.
    let first = select(query < queries, UNIT_POS, keys);
    let begin = query * keys;
    let mut largest = f32::min_value();
    let mut key = first;
    while key < keys {
        largest = max(largest, scores[(begin + key) as usize]);
        key += UNITS;
    }
    let largest = largest_of_cube(largest);
    let mut sum = 0.0f32;
    let mut key = first;
    while key < keys {
        sum += (scores[(begin + key) as usize] - largest).exp();
        key += UNITS;
    }
    let factor = 1.0f32 / sum_over_cube(sum);
    let mut key = first;
    while key < keys {
        let place = (begin + key) as usize;
        scores[place] = (scores[place] - largest).exp() * factor;
        key += UNITS;
    }
}

/// The gradients of probabilities become those of scores: a cube has one query.
#[cube(launch)]
fn score_gradients(
    probabilities: &Tensor<f32>,
    gradients: &mut Tensor<f32>,
    queries: u32,
    keys: u32,
) {
    let query = CUBE_POS as u32;
    let first = select(query < queries, UNIT_POS, keys);
    let begin = query * keys;
    let mut sum = 0.0f32;
    let mut key = first;
    while key < keys {
        let place = (begin + key) as usize;
        sum += probabilities[place] * gradients[place];
        key += UNITS;
    }
    let sum = sum_over_cube(sum);
    let mut key = first;
    while key < keys {
        let place = (begin + key) as usize;
        gradients[place] = probabilities[place] * (gradients[place] - sum);
        key += UNITS;
    }
}
