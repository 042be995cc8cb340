//! A batch's use of the codes, in a form that can be summed over shards.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::BatchPosition;

/// Sums over one shard of a batch; added over all shards they are the sums of the whole batch.
#[derive(Clone, Debug)]
pub struct CodeStatistics {
    /// How many positions chose each code, `[codes]`.
    pub counts: Tensor<1>,
    /// Sum of the latents that chose each code, `[codes, dimension]`.
    pub sums: Tensor<2>,
    /// For each code a latent that could replace it, `[codes, dimension]`. Its position in the whole batch depends only
    /// on the seed, the step and the code; shards that do not hold it contribute zero.
    pub candidates: Tensor<2>,
}

impl CodeStatistics {
    /// Statistics of latents `[positions, dimension]` and the codes `[positions]` that they chose, with
    /// `positions_per_image` of them in each image.
    pub(super) fn of(
        latents: Tensor<2>,
        codes: Tensor<1, Int>,
        code_count: usize,
        positions_per_image: usize,
        position: BatchPosition,
    ) -> Self {
        let device = latents.device();
        let [positions, dimension] = latents.dims();
        let counts = count(codes.clone(), code_count);
        let sums = Tensor::<2>::zeros([code_count, dimension], &device).select_assign(
            0,
            codes,
            latents.clone(),
            IndexingUpdateOp::Add,
        );

        let first = position.first_image * positions_per_image;
        let total = (position.total_images * positions_per_image).max(1);
        let mut rows = Vec::with_capacity(code_count);
        let mut elsewhere = Vec::with_capacity(code_count);
        for code in 0..code_count {
            let global = (mix(position.seed, position.step, code as u64) % total as u64) as usize;
            let here = (first..first + positions).contains(&global);
            rows.push(if here { (global - first) as i64 } else { 0 });
            elsewhere.push(!here);
        }
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [code_count]), &device);
        let elsewhere = TensorData::new(elsewhere, [code_count, 1]);
        let elsewhere = Tensor::<2, Bool>::from_data(elsewhere, &device);
        let candidates = latents
            .select(0, rows)
            .mask_fill(elsewhere.expand([code_count, dimension]), 0.0);

        Self {
            counts,
            sums,
            candidates,
        }
    }

    /// The statistics of several tables of codes as those of one.
    pub(in crate::bottleneck) fn one_below_another(tables: Vec<Self>) -> Self {
        let counts = tables.iter().map(|table| table.counts.clone()).collect();
        let sums = tables.iter().map(|table| table.sums.clone()).collect();
        let candidates = tables.into_iter().map(|table| table.candidates).collect();
        Self {
            counts: Tensor::cat(counts, 0),
            sums: Tensor::cat(sums, 0),
            candidates: Tensor::cat(candidates, 0),
        }
    }

    /// All three side by side, `[codes, 1 + 2 * dimension]`.
    pub(super) fn packed(self) -> Tensor<2> {
        Tensor::cat(
            vec![self.counts.unsqueeze_dim(1), self.sums, self.candidates],
            1,
        )
    }

    /// The inverse of [`CodeStatistics::packed`].
    pub(super) fn unpacked(packed: Tensor<2>) -> Self {
        let [_, columns] = packed.dims();
        let dimension = columns.saturating_sub(1) / 2;
        Self {
            counts: packed.clone().narrow(1, 0, 1).squeeze_dim(1),
            sums: packed.clone().narrow(1, 1, dimension),
            candidates: packed.narrow(1, 1 + dimension, dimension),
        }
    }
}

impl std::ops::Add for CodeStatistics {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            counts: self.counts + other.counts,
            sums: self.sums + other.sums,
            candidates: self.candidates + other.candidates,
        }
    }
}

/// A random number as a function of three numbers: SplitMix64 (Steele et al. 2014) over each in turn.
pub(super) fn mix(seed: u64, step: u64, index: u64) -> u64 {
    [seed, step, index].into_iter().fold(0, |state: u64, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// How many of `codes` `[positions]` are each of the `code_count` codes: `[code_count]`.
pub(crate) fn count(codes: Tensor<1, Int>, code_count: usize) -> Tensor<1> {
    let device = codes.device();
    let ones = Tensor::<1>::ones(codes.dims(), &device);
    Tensor::<1>::zeros([code_count], &device).select_assign(0, codes, ones, IndexingUpdateOp::Add)
}

/// `exp(entropy)` of the codes' use: the number of codes in an evenly used codebook of the same entropy. Between 1 and
/// the number of codes; 0 if nothing was counted.
pub fn perplexity(counts: &[f32]) -> f64 {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    if total <= 0.0 {
        return 0.0;
    }
    let entropy: f64 = counts
        .iter()
        .map(|&count| f64::from(count) / total)
        .filter(|&share| share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    entropy.exp()
}

/// How many codes were used at least once.
pub fn codes_in_use(counts: &[f32]) -> usize {
    counts.iter().filter(|&&count| count > 0.0).count()
}
