//! One dimension of a convolution: the inputs that each output reads, and their weights.
//!
//! All convolutions of the networks, and their input gradients, have the same structure along each dimension. Outputs
//! form cells of one or two, one cell for each point of a grid. The first outputs of all cells form one phase, the
//! second outputs another. Output `p` of cell `g` reads neighbouring inputs, from `step * g + origin` of its phase on,
//! and multiplies each by the sum of a range of the kernel.
//!
//! ```text
//!                              step  phases: (origin, weights of the inputs that are read)
//! convolution, stride s         s    (-before, [w0, w1, w2])
//!   its input gradient, s = 1   1    (before - 2, [w2, w1, w0])
//!   its input gradient, s = 2   1    two, of every second weight
//! doubling, then convolution    1    (-1, [w0, w1 + w2]), (0, [w0 + w1, w2])
//!   its input gradient          2    (-1, [w2, w1 + w2, w0 + w1, w0])
//! ```
//!
//! After doubling by repetition a kernel of three reads only two different inputs, so in two dimensions an output takes
//! 4 products instead of 9.

use std::ops::Range;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Inputs from one cell to the next.
    pub(crate) step: usize,
    /// As many as a cell has outputs.
    pub(crate) phases: Vec<Phase>,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// First input that the first cell reads; negative in the padding.
    pub(crate) origin: isize,
    /// For each input that is read, the range of the kernel whose sum is its weight.
    pub(crate) taps: Vec<Range<usize>>,
    /// Cells that have this output.
    pub(crate) count: usize,
}

fn single(tap: usize) -> Range<usize> {
    tap..tap + 1
}

impl Axis {
    /// A convolution with `before` zeros before the first input.
    pub(crate) fn convolution(kernel: usize, stride: usize, before: usize, outputs: usize) -> Self {
        Self {
            step: stride,
            phases: vec![Phase {
                origin: -(before as isize),
                taps: (0..kernel).map(single).collect(),
                count: outputs,
            }],
        }
    }

    /// The input gradient of [`Self::convolution`] at `inputs` inputs: input `y` and weight `i` contribute to output
    /// `(y + before - i) / stride`, if that is whole.
    pub(crate) fn convolution_back(
        kernel: usize,
        stride: usize,
        before: usize,
        inputs: usize,
    ) -> Self {
        let phase = |first: usize| {
            let taps: Vec<usize> = (0..kernel)
                .rev()
                .filter(|tap| (first + before + stride * kernel - tap).is_multiple_of(stride))
                .collect();
            let largest = taps.first().copied().unwrap_or_default() as isize;
            Phase {
                origin: (first as isize + before as isize - largest).div_euclid(stride as isize),
                taps: taps.into_iter().map(single).collect(),
                count: inputs.saturating_sub(first).div_ceil(stride),
            }
        };
        Self {
            step: 1,
            phases: (0..stride).map(phase).collect(),
        }
    }

    /// Every input twice, then a convolution by a kernel of three that keeps the size.
    pub(crate) fn doubled(inputs: usize) -> Self {
        let phase = |origin, taps: [Range<usize>; 2]| Phase {
            origin,
            taps: taps.to_vec(),
            count: inputs,
        };
        Self {
            step: 1,
            phases: vec![phase(-1, [0..1, 1..3]), phase(0, [0..2, 2..3])],
        }
    }

    /// The input gradient of [`Self::doubled`].
    pub(crate) fn doubled_back(inputs: usize) -> Self {
        Self {
            step: 2,
            phases: vec![Phase {
                origin: -1,
                taps: vec![2..3, 1..3, 0..2, 0..1],
                count: inputs,
            }],
        }
    }

    /// Outputs of a cell.
    pub(crate) fn cell(&self) -> usize {
        self.phases.len()
    }

    /// Cells.
    pub(crate) fn grid(&self) -> usize {
        let counts = self.phases.iter().map(|phase| phase.count);
        counts.max().unwrap_or_default()
    }

    /// The inputs that the cells in `cells` read, padding included.
    pub(crate) fn reads(&self, cells: Range<usize>) -> Range<isize> {
        let ranges = self.phases.iter().filter_map(|phase| {
            let last = cells.end.min(phase.count).checked_sub(1)?;
            let from = (self.step * cells.start) as isize + phase.origin;
            let to = (self.step * last + phase.taps.len()) as isize + phase.origin;
            (cells.start <= last && !phase.taps.is_empty()).then_some(from..to)
        });
        ranges
            .reduce(|all, range| all.start.min(range.start)..all.end.max(range.end))
            .unwrap_or(0..0)
    }

    /// Whether it is a kernel of three whose outputs, like its inputs, are neighbours.
    pub(crate) fn is_plain_three(&self) -> bool {
        self.step == 1
            && matches!(&self.phases[..], [phase] if phase.taps.len() == 3
                && phase.taps.iter().all(|taps| taps.len() == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Output `o` in terms of the inputs, as weights `[inputs]`; inputs outside are zeros.
    fn matrix(axis: &Axis, kernel: &[f32], inputs: usize, outputs: usize) -> Vec<Vec<f32>> {
        let mut rows = vec![vec![0.0; inputs]; outputs];
        for (index, phase) in axis.phases.iter().enumerate() {
            for cell in 0..phase.count {
                let reads = axis.reads(cell..cell + 1);
                for (offset, taps) in phase.taps.iter().enumerate() {
                    let input = (axis.step * cell + offset) as isize + phase.origin;
                    assert!(reads.contains(&input));
                    if let Some(weight) = usize::try_from(input)
                        .ok()
                        .and_then(|input| rows[cell * axis.cell() + index].get_mut(input))
                    {
                        *weight += kernel[taps.clone()].iter().sum::<f32>();
                    }
                }
            }
        }
        rows
    }

    fn transposed(rows: &[Vec<f32>], inputs: usize) -> Vec<Vec<f32>> {
        (0..inputs)
            .map(|input| rows.iter().map(|row| row[input]).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn the_gradient_is_the_transposed_convolution(
            kernel in 1usize..6, stride in 1usize..4, before in 0usize..4, after in 0usize..4, inputs in 1usize..12,
        ) {
            prop_assume!(inputs + before + after >= kernel);
            let outputs = (inputs + before + after - kernel) / stride + 1;
            let weights: Vec<f32> = (1..=kernel).map(|tap| tap as f32).collect();
            let there = matrix(&Axis::convolution(kernel, stride, before, outputs), &weights, inputs, outputs);
            for (output, row) in there.iter().enumerate() {
                for (input, weight) in row.iter().enumerate() {
                    let expected = (input + before).checked_sub(stride * output).and_then(|tap| weights.get(tap));
                    prop_assert_eq!(*weight, expected.copied().unwrap_or_default());
                }
            }
            let back = matrix(&Axis::convolution_back(kernel, stride, before, inputs), &weights, outputs, inputs);
            prop_assert_eq!(back, transposed(&there, inputs));
        }

        #[test]
        fn doubling_is_repetition_and_a_convolution(inputs in 1usize..9) {
            let weights = [1.0, 10.0, 100.0];
            let there = matrix(&Axis::doubled(inputs), &weights, inputs, 2 * inputs);
            let wide = matrix(&Axis::convolution(3, 1, 1, 2 * inputs), &weights, 2 * inputs, 2 * inputs);
            for (row, wide) in there.iter().zip(&wide) {
                let folded: Vec<f32> = wide.chunks(2).map(|pair| pair.iter().sum()).collect();
                prop_assert_eq!(row, &folded);
            }
            let back = matrix(&Axis::doubled_back(inputs), &weights, 2 * inputs, inputs);
            prop_assert_eq!(back, transposed(&there, inputs));
        }
    }
}
