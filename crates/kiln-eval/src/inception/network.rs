//! The layers of InceptionV3, with torchvision's names, and their order.
//!
//! It is pytorch-fid's variant: average pools leave the padding out, and the last block's pool takes maxima.

use burn::tensor::{Device, Tensor};

use super::layer::{Layer, Pool, Reach};
use super::weights::Weights;
use crate::EvalError;
use Part::{Convolution, Halves, Pooled};
use Reach::{Halving, Same, Valid};

/// One operation on a feature map.
#[derive(Clone, Copy)]
enum Part {
    /// A convolution, normalisation and ReLU, by its name within the block.
    Convolution(&'static str, Reach),
    /// A pool of 3x3.
    Pooled(Pool),
    /// Two convolutions of the same map, side by side.
    Halves(&'static str, &'static str),
}

/// The operations of a block: parts one after the other in each branch, and all branches side by side.
type Branches = &'static [&'static [Part]];

/// The layers before the first block, then the blocks.
const NETWORK: &[(&str, Branches)] = &[
    ("", &[STEM]),
    ("Mixed_5b", A),
    ("Mixed_5c", A),
    ("Mixed_5d", A),
    ("Mixed_6a", B),
    ("Mixed_6b", C),
    ("Mixed_6c", C),
    ("Mixed_6d", C),
    ("Mixed_6e", C),
    ("Mixed_7a", D),
    ("Mixed_7b", E_WITH_AVERAGE),
    ("Mixed_7c", E_WITH_MAXIMUM),
];

const STEM: &[Part] = &[
    Convolution("Conv2d_1a_3x3", Halving),
    Convolution("Conv2d_2a_3x3", Valid),
    Convolution("Conv2d_2b_3x3", Same),
    Pooled(Pool::HalvingMaximum),
    Convolution("Conv2d_3b_1x1", Same),
    Convolution("Conv2d_4a_3x3", Valid),
    Pooled(Pool::HalvingMaximum),
];

const POOL_BRANCH: &[Part] = &[Pooled(Pool::Average), Convolution("branch_pool", Same)];

const A: Branches = &[
    &[Convolution("branch1x1", Same)],
    &[
        Convolution("branch5x5_1", Same),
        Convolution("branch5x5_2", Same),
    ],
    &[
        Convolution("branch3x3dbl_1", Same),
        Convolution("branch3x3dbl_2", Same),
        Convolution("branch3x3dbl_3", Same),
    ],
    POOL_BRANCH,
];

const B: Branches = &[
    &[Convolution("branch3x3", Halving)],
    &[
        Convolution("branch3x3dbl_1", Same),
        Convolution("branch3x3dbl_2", Same),
        Convolution("branch3x3dbl_3", Halving),
    ],
    &[Pooled(Pool::HalvingMaximum)],
];

const C: Branches = &[
    &[Convolution("branch1x1", Same)],
    &[
        Convolution("branch7x7_1", Same),
        Convolution("branch7x7_2", Same),
        Convolution("branch7x7_3", Same),
    ],
    &[
        Convolution("branch7x7dbl_1", Same),
        Convolution("branch7x7dbl_2", Same),
        Convolution("branch7x7dbl_3", Same),
        Convolution("branch7x7dbl_4", Same),
        Convolution("branch7x7dbl_5", Same),
    ],
    POOL_BRANCH,
];

const D: Branches = &[
    &[
        Convolution("branch3x3_1", Same),
        Convolution("branch3x3_2", Halving),
    ],
    &[
        Convolution("branch7x7x3_1", Same),
        Convolution("branch7x7x3_2", Same),
        Convolution("branch7x7x3_3", Same),
        Convolution("branch7x7x3_4", Halving),
    ],
    &[Pooled(Pool::HalvingMaximum)],
];

const E_BRANCH_1: &[Part] = &[Convolution("branch1x1", Same)];
const E_BRANCH_2: &[Part] = &[
    Convolution("branch3x3_1", Same),
    Halves("branch3x3_2a", "branch3x3_2b"),
];
const E_BRANCH_3: &[Part] = &[
    Convolution("branch3x3dbl_1", Same),
    Convolution("branch3x3dbl_2", Same),
    Halves("branch3x3dbl_3a", "branch3x3dbl_3b"),
];
const E_WITH_AVERAGE: Branches = &[E_BRANCH_1, E_BRANCH_2, E_BRANCH_3, POOL_BRANCH];
const E_WITH_MAXIMUM: Branches = &[
    E_BRANCH_1,
    E_BRANCH_2,
    E_BRANCH_3,
    &[Pooled(Pool::Maximum), Convolution("branch_pool", Same)],
];

/// A [`Part`] with its weights.
pub(super) enum Step {
    Layer(Box<Layer>),
    Pool(Pool),
    Branches(Vec<Vec<Step>>),
}

/// The network up to and including the block `last`.
pub(super) fn build(
    weights: &Weights,
    last: &str,
    device: &Device,
) -> Result<Vec<Step>, EvalError> {
    let end = NETWORK.iter().position(|(block, _)| *block == last);
    let blocks = NETWORK
        .iter()
        .take(end.map_or(NETWORK.len(), |end| end + 1));
    let steps = blocks.map(|(block, branches)| {
        let branch = |parts: &&[Part]| -> Result<Vec<Step>, EvalError> {
            parts
                .iter()
                .map(|&part| step(weights, block, part, device))
                .collect()
        };
        Ok(Step::Branches(
            branches.iter().map(branch).collect::<Result<_, _>>()?,
        ))
    });
    steps.collect()
}

fn step(weights: &Weights, block: &str, part: Part, device: &Device) -> Result<Step, EvalError> {
    let layer = |name: &str, reach| {
        let name = if block.is_empty() {
            name.to_owned()
        } else {
            format!("{block}.{name}")
        };
        Ok::<_, EvalError>(Step::Layer(Box::new(Layer::new(
            weights.folded(&name)?,
            reach,
            device,
        ))))
    };
    Ok(match part {
        Convolution(name, reach) => layer(name, reach)?,
        Pooled(pool) => Step::Pool(pool),
        Halves(left, right) => {
            Step::Branches(vec![vec![layer(left, Same)?], vec![layer(right, Same)?]])
        }
    })
}

/// Sends `[batch, height, width, channels]` through the steps.
pub(super) fn run(steps: &[Step], maps: Tensor<4>) -> Tensor<4> {
    steps.iter().fold(maps, |maps, step| match step {
        Step::Layer(layer) => layer.forward(maps),
        Step::Pool(pool) => pool.forward(maps),
        Step::Branches(branches) => {
            let outputs = branches
                .iter()
                .map(|branch| run(branch, maps.clone()))
                .collect();
            Tensor::cat(outputs, 3)
        }
    })
}
