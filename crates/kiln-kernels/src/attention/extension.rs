//! The connection of attention to Burn.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::Shape;

use super::heads::{Heads, Softmax};
use super::{backward, forward, rounded};
use crate::arrays::Array;
use crate::extension::{numbers, tensor, values};
use crate::precision::{self, Factors};

/// Attention on a backend's own tensors. `f32` and the shape have been checked before.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub(crate) trait AttentionOps: Backend {
    /// See [`crate::attention`].
    fn kiln_attention(qkv: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn kiln_attention(qkv: FlexTensor, heads: Heads) -> FlexTensor {
        if precision::current().factors == Factors::F32 || !rounded::pays(&heads) {
            return attended(&qkv, &heads).0;
        }
        let output = rounded::attend(&heads, numbers(&values(&qkv)));
        result(output, &qkv, &heads)
    }
}

fn result(output: Array, qkv: &FlexTensor, heads: &Heads) -> FlexTensor {
    let shape = [qkv.shape()[0], heads.tokens, heads.inner()];
    tensor(output, Shape::new(shape))
}

fn attended(qkv: &FlexTensor, heads: &Heads) -> (FlexTensor, Softmax) {
    let (output, softmax) = forward::attend(heads, numbers(&values(qkv)));
    (result(output, qkv, heads), softmax)
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Flex, C> {
    fn kiln_attention(qkv: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let (output, softmax) = attended(&qkv, &heads);
        match AttentionGradient
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => {
                let state = State {
                    qkv,
                    softmax,
                    heads,
                };
                operation.finish(state, output)
            }
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

/// The backward pass.
#[derive(Debug)]
struct AttentionGradient;

#[derive(Clone, Debug)]
struct State {
    qkv: FlexTensor,
    softmax: Softmax,
    heads: Heads,
}

impl Backward<Flex, 1> for AttentionGradient {
    type State = State;

    fn backward(
        self,
        operation: Ops<State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let State {
            qkv,
            softmax,
            heads,
        } = operation.state;
        let output_gradient = gradients.consume::<Flex>(&operation.node);
        let [node] = operation.parents;
        if let Some(node) = node {
            let gradient = backward::gradient(
                &heads,
                numbers(&values(&qkv)),
                &softmax,
                numbers(&values(&output_gradient)),
            );
            gradients.register::<Flex>(node.id, tensor(gradient, qkv.shape()));
        }
    }
}
