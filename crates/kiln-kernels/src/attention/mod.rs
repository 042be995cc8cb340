//! Self-attention (Vaswani et al. 2017) without a matrix of tokens by tokens in memory.
//!
//! ```text
//! s[j, i] = scale k[j].q[i]          scale = 1 / sqrt(head_channels)
//! p[j, i] = e^(s[j, i] - max over j) / (sum over j of the same)
//! out[i]  = sum over j of p[j, i] v[j]
//! ```
//!
//! and the backward pass, where `d` is the gradient of the quantity after it:
//!
//! ```text
//! dp[j, i] = v[j].dout[i]
//! ds[j, i] = p[j, i] (dp[j, i] - sum over j of p[j, i] dp[j, i])
//! dq[i] = scale sum over j of ds[j, i] k[j]
//! dk[j] = scale sum over i of ds[j, i] q[i]
//! dv[j] = sum over i of p[j, i] dout[i]
//! ```
//!
//! One block of queries `i` at a time is multiplied with all keys `j`. The queries run along vectors: maxima and sums
//! of a softmax are then vector operations, and keys and values are read in place. The backward pass computes the
//! probabilities again, so the forward pass keeps only one number per query and head for the maximum, and one for the
//! sum.

mod backward;
mod extension;
mod forward;
mod heads;
mod rounded;

use burn::backend::Dispatch;
use burn::tensor::activation::softmax;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, module};

use crate::is_ours;
pub(crate) use extension::AttentionOps;
pub(crate) use heads::Heads;

/// Self-attention of the tokens of each image: `softmax(Q K^T / sqrt(head_channels)) V`, head by head.
///
/// `qkv` is `[batch, tokens, 3 * heads * head_channels]`: queries, keys and values side by side, each with one head
/// after the other. The result is `[batch, tokens, heads * head_channels]`.
///
/// Besides the result this needs memory for 64 queries by all tokens, and twice as much in training.
///
/// Under [`with_precision`](crate::with_precision) the factors of its products are bf16 numbers: on the processor where
/// nothing is learnt and there are at least 64 tokens, which needs memory for the keys and values as such numbers; on GPUs
/// where something is learnt, while drawing there is Burn's attention.
///
/// # Panics
///
/// If the last dimension does not divide into queries, keys and values of `heads` heads.
pub fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    assert!(
        heads > 0 && width % (3 * heads) == 0,
        "{width} channels do not divide into queries, keys and values of {heads} heads: project to 3 times as many channels as the heads have together."
    );
    let channels = width / (3 * heads);
    if (is_ours(&qkv) || learns_on_gpu(&qkv)) && batch * tokens * channels > 0 {
        let heads = Heads {
            tokens,
            heads,
            channels,
        };
        return Tensor::from_dispatch(<Dispatch as AttentionOps>::kiln_attention(
            qkv.into_dispatch(),
            heads,
        ));
    }
    let [query, key, value] = [0, 1, 2].map(|part| -> Tensor<4> {
        qkv.clone()
            .narrow(2, part * heads * channels, heads * channels)
            .reshape([batch, tokens, heads, channels])
            .swap_dims(1, 2)
    });
    let attended = if query.is_autodiff() {
        // Burn has no kernel for the gradient of an attention, and would compose it of the same operators.
        let scale = (channels as f64).sqrt().recip();
        let scores = crate::matmul(query * scale, key.swap_dims(2, 3));
        crate::matmul(softmax(scores, 3), value)
    } else {
        let options = AttentionModuleOptions::default();
        module::attention(query, key, value, None, None, options)
    };
    attended
        .swap_dims(1, 2)
        .reshape([batch, tokens, heads * channels])
}

/// Whether to use this crate's operator on a GPU. In drawing, Burn has a kernel.
fn learns_on_gpu(qkv: &Tensor<3>) -> bool {
    #[cfg(feature = "gpu")]
    return qkv.is_autodiff() && crate::gpu::has(qkv);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = qkv;
        false
    }
}
