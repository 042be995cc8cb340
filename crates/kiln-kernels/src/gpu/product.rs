//! Products of matrices with a fixed kernel.
//!
//! Burn would try some thirty kernels for each shape, in each process that sees it first, which takes minutes.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::ops::permute;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::routines::TileSizeSelection;
use cubek::matmul::multi_level::routines::batch::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use super::{AnyTensor, Gpu, fused};
use crate::precision::Factors;

/// `[.., m, k]` times `[.., k, n]`, with the same dimensions before.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait ProductOps: Backend {
    /// See the trait.
    fn kiln_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        precision: Factors,
    ) -> FloatTensor<Self>;
}

/// The number format of the factors.
pub(super) fn format(precision: Factors) -> DType {
    match precision {
        Factors::F32 => DType::F32,
        Factors::Bf16 => DType::BF16,
    }
}

/// The product of two matrices, each of them transposed first if that is wanted.
fn product(
    name: &'static str,
    [left, right]: [&AnyTensor; 2],
    transposed: [bool; 2],
    precision: Factors,
) -> AnyTensor {
    let dimensions = left.shape().num_dims();
    let (row, column) = (dimensions - 2, dimensions - 1);
    let mut shape: Shape = left.shape().clone();
    shape[row] = left.shape()[if transposed[0] { column } else { row }];
    shape[column] = right.shape()[if transposed[1] { row } else { column }];
    fused::queue_one(
        name,
        vec![left.clone(), right.clone()],
        shape,
        move |inputs| {
            let [left, right]: [CubeTensor; 2] = inputs
                .try_into()
                .unwrap_or_else(|_| unreachable!("two inputs"));
            multiplied(left, right, transposed, precision)
        },
    )
}

/// [`product`] of matrices on the card, `f32` and without gaps.
pub(super) fn multiplied(
    left: CubeTensor,
    right: CubeTensor,
    transposed: [bool; 2],
    precision: Factors,
) -> CubeTensor {
    let ready = |tensor: CubeTensor, transposed| {
        let tensor = cast(tensor, format(precision));
        let mut axes: Vec<usize> = (0..tensor.shape().num_dims()).collect();
        if transposed {
            let last = axes.len() - 1;
            axes.swap(last - 1, last);
        }
        permute(tensor, &axes)
    };
    let (left, right) = (ready(left, transposed[0]), ready(right, transposed[1]));
    let factors = ElemType::Float(match precision {
        Factors::F32 => FloatKind::F32,
        Factors::Bf16 => FloatKind::BF16,
    });
    let made = init_matmul_output(&left, &right, DType::F32);
    let by = |strategy: Strategy| {
        launch_ref(
            &strategy.into(),
            &made.client,
            InputBinding::new(left.clone().binding(), factors),
            InputBinding::new(right.clone().binding(), factors),
            made.clone().binding(),
            &mut MatmulElems::from_globals(&MatmulGlobalElems {
                lhs: factors,
                rhs: factors,
                out: ElemType::Float(FloatKind::F32),
            }),
        )
    };
    // Each needs less of the card than the one before: matrix units, much memory for a cube, little, none.
    by(Strategy::SimpleCyclicCmma(Default::default()))
        .or_else(|_| by(Strategy::SimpleUnit(Default::default())))
        .or_else(|_| {
            let tile_size = TileSizeSelection::MinTileSize;
            let small = BlueprintStrategy::Inferred(SimpleUnitSelectionArgs { tile_size });
            by(Strategy::SimpleUnit(small))
        })
        .or_else(|_| by(Strategy::Naive))
        .expect("the plainest kernel multiplies any matrices");
    made
}

impl ProductOps for Gpu {
    fn kiln_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        precision: Factors,
    ) -> FloatTensor<Self> {
        let factors = [&AnyTensor(left), &AnyTensor(right)];
        product("kiln_product", factors, [false, false], precision).0
    }
}

impl<C: CheckpointStrategy> ProductOps for Autodiff<Gpu, C> {
    fn kiln_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        precision: Factors,
    ) -> FloatTensor<Self> {
        let (left, left_node) = left.into_parts();
        let (right, right_node) = right.into_parts();
        let factors = [AnyTensor(left), AnyTensor(right)];
        let output = product(
            "kiln_product",
            factors.each_ref(),
            [false, false],
            precision,
        )
        .0;
        match Gradient
            .prepare::<C>([left_node, right_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((factors, precision), output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct Gradient;

impl Backward<Gpu, 2> for Gradient {
    type State = ([AnyTensor; 2], Factors);

    fn backward(
        self,
        operation: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([left, right], precision) = operation.state;
        let gradient = AnyTensor(gradients.consume::<Gpu>(&operation.node));
        let [left_node, right_node] = operation.parents;
        if let Some(node) = left_node {
            let made = product(
                "kiln_product_left",
                [&gradient, &right],
                [false, true],
                precision,
            );
            gradients.register::<Gpu>(node.id, made.0);
        }
        if let Some(node) = right_node {
            let made = product(
                "kiln_product_right",
                [&left, &gradient],
                [true, false],
                precision,
            );
            gradients.register::<Gpu>(node.id, made.0);
        }
    }
}
