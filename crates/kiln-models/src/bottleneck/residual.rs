//! Residual vector quantization (Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization"): several
//! codebooks of the same size, each for what the ones before it left over. A position has a code of each, and its vector
//! is their sum.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use kiln_kernels::nearest_codes;

use super::gradient::CodeGradient;
use super::vq::{
    CODEBOOK, COMMITMENT, CodeStatistics, CodebookConfig, VectorQuantizer, flatten, unflatten,
};
use super::{Layer, Passed};
use crate::BatchPosition;

/// The codebooks, in order: in a file `tables.N.embedding.weight`.
///
/// Seen from outside they are one list of vectors, the first table's first: code `c` of table `t` has the number
/// `t * codes + c`.
#[derive(Module, Debug)]
pub struct ResidualQuantizer {
    tables: Vec<VectorQuantizer>,
    #[module(skip)]
    gradient: CodeGradient,
}

impl ResidualQuantizer {
    /// So many tables, of `codes` vectors of `dimension` numbers each.
    pub fn new(tables: usize, codes: usize, dimension: usize, device: &Device) -> Self {
        Self {
            tables: (0..tables)
                .map(|_| VectorQuantizer::new(codes, dimension, device))
                .collect(),
            gradient: CodeGradient::default(),
        }
    }

    /// The vectors of one table.
    fn codes_of_a_table(&self) -> usize {
        let table = self.tables.first();
        table.map_or(0, |table| table.embedding.weight.dims()[0])
    }

    /// The code in each table, `[rows]` each, of latents `[rows, dimension]`, and the sum of their vectors. No gradients.
    fn choose(&self, rows: Tensor<2>) -> (Vec<Tensor<1, Int>>, Tensor<2>) {
        let mut left = rows.clone().without_autodiff();
        let mut codes = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            let vectors = table.codes();
            let chosen = nearest_codes(left.clone(), vectors.clone());
            left = left - vectors.select(0, chosen.clone());
            codes.push(chosen);
        }
        (codes, rows.without_autodiff() - left)
    }

    /// `[batch, tables, height, width]` in the numbering from outside.
    fn numbered(
        &self,
        codes: Vec<Tensor<1, Int>>,
        [batch, height, width]: [usize; 3],
    ) -> Tensor<4, Int> {
        let size = self.codes_of_a_table() as i64;
        let numbered = codes.into_iter().zip(0i64..).map(|(codes, table)| {
            let codes = codes.add_scalar(table * size);
            codes.reshape([batch, 1, height, width])
        });
        Tensor::cat(numbered.collect(), 1)
    }
}

impl Layer for ResidualQuantizer {
    fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = latents.dims();
        let (_, sum) = self.choose(flatten(latents));
        unflatten(sum, [batch, height, width])
    }

    /// The terms are means over the tables. Gradients pass from the sum of the vectors to the latents, not table by table.
    fn pass(&self, encoded: Tensor<4>, _noise: Option<Tensor<4>>) -> Passed {
        let [batch, _, height, width] = encoded.dims();
        let positions = [batch, height, width];
        let latents = flatten(encoded);
        let (codes, _) = self.choose(latents.clone());
        let mut left = latents.clone();
        let mut sum = latents.zeros_like().without_autodiff();
        let mut terms = [Vec::new(), Vec::new()];
        for (table, codes) in self.tables.iter().zip(&codes) {
            let vectors = table.embedding.weight.val();
            let chosen = vectors.select(0, codes.clone());
            let fixed = chosen.clone().without_autodiff();
            let [codebook, commitment] = &mut terms;
            codebook.push((chosen - left.clone().without_autodiff()).square().mean());
            commitment.push((left.clone() - fixed.clone()).square().mean());
            left = left - fixed.clone();
            sum = sum + fixed;
        }
        let [codebook, commitment] = terms.map(|terms| Tensor::cat(terms, 0).mean());
        Passed {
            latents: unflatten(self.gradient.through(latents, sum), positions),
            codes: Some(self.numbered(codes, positions)),
            terms: vec![(CODEBOOK, codebook), (COMMITMENT, commitment)],
        }
    }

    fn term_names(&self) -> &'static [&'static str] {
        &[CODEBOOK, COMMITMENT]
    }

    fn codes(&self) -> Option<usize> {
        Some(self.tables.len() * self.codes_of_a_table())
    }

    fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        let [batch, _, height, width] = latents.dims();
        let (codes, _) = self.choose(flatten(latents));
        Some(self.numbered(codes, [batch, height, width]))
    }

    fn codebook(&self) -> Option<Tensor<2>> {
        let tables = self.tables.iter();
        let vectors = tables.map(|table| table.embedding.weight.val());
        Some(Tensor::cat(vectors.collect(), 0))
    }

    fn set_codebook(&mut self, vectors: Tensor<2>) {
        let size = self.codes_of_a_table();
        for (index, table) in self.tables.iter_mut().enumerate() {
            let own = vectors.clone().narrow(0, index * size, size);
            *table = table.clone().with_codes(own);
        }
    }

    fn statistics(
        &self,
        encoded: Tensor<4>,
        codes: Tensor<4, Int>,
        position: BatchPosition,
    ) -> Option<CodeStatistics> {
        let size = self.codes_of_a_table();
        let mut left = encoded.without_autodiff();
        let mut of_tables = Vec::with_capacity(self.tables.len());
        for (index, table) in self.tables.iter().enumerate() {
            let codes = codes.clone().narrow(1, index, 1).squeeze_dim::<3>(1);
            let codes = codes.sub_scalar((index * size) as i64);
            // Another seed, so that the same code of two tables does not start again at the same position.
            let position = BatchPosition {
                seed: position.seed.wrapping_add(index as u64),
                ..position
            };
            of_tables.push(table.statistics(left.clone(), codes.clone(), position));
            left = left - table.look_up(codes).without_autodiff();
        }
        Some(CodeStatistics::one_below_another(of_tables))
    }

    fn start_with_kmeans(
        &mut self,
        latents: Tensor<4>,
        iterations: usize,
        seed: u64,
        advance: &mut dyn FnMut(u64) -> bool,
    ) {
        let mut left = flatten(latents.without_autodiff());
        for table in &mut self.tables {
            *table = (table.clone()).with_kmeans_of(left.clone(), iterations, seed, advance);
            let vectors = table.codes();
            let chosen = nearest_codes(left.clone(), vectors.clone());
            left = left - vectors.select(0, chosen);
        }
    }

    fn prepare(&mut self, training: &CodebookConfig) {
        let plain = CodebookConfig {
            l2_normalize: false,
            gradient: CodeGradient::default(),
            ..training.clone()
        };
        for table in &mut self.tables {
            *table = plain.prepare(table.clone());
        }
        self.gradient = training.gradient;
    }

    fn finish(&mut self) {
        self.gradient = CodeGradient::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottleneck::fixtures::{Fixture, integers};
    use crate::bottleneck::vq::{CodebookTraining, CodebookUpdate};
    use crate::initialization::seeded;

    fn from(fixture: &Fixture) -> ResidualQuantizer {
        let mut quantizer = ResidualQuantizer::new(3, 24, 3, fixture.device());
        let tables = fixture.floats::<3>("residual.tables");
        quantizer.set_codebook(tables.reshape([3 * 24, 3]));
        quantizer
    }

    /// The reference numbers each table's codes from zero.
    fn within_tables(codes: Tensor<4, Int>) -> Vec<i32> {
        let [batch, tables, height, width] = codes.dims();
        let table = Tensor::<1, Int>::arange(0..tables as i64, &codes.device());
        let first = table.reshape([1, tables, 1, 1]).mul_scalar(24);
        integers(codes - first.expand([batch, tables, height, width]))
    }

    #[test]
    fn equals_the_reference() {
        let fixture = Fixture::others(&Device::flex().autodiff());
        let mut quantizer = from(&fixture);
        quantizer.prepare(&CodebookConfig {
            update: CodebookUpdate::Gradient,
            ..CodebookConfig::default()
        });
        let latents = fixture.floats::<4>("latents").require_grad();
        let passed = quantizer.pass(latents.clone(), None);
        fixture.assert_close("residual.quantized", passed.latents.clone());
        let codes = within_tables(passed.codes.clone().expect("codes"));
        assert_eq!(codes, fixture.integers("residual.chosen"));
        let [codebook, commitment] = [CODEBOOK, COMMITMENT].map(|term| {
            let term = passed.term(term);
            term.expect("a term")
        });
        let losses = fixture.floats::<1>("residual.losses").mean();
        for term in [&codebook, &commitment] {
            let difference = (term.clone() - losses.clone()).abs();
            assert!(difference.into_scalar::<f32>() < 1e-5);
        }
        // The reference's loss has one value and the gradients of both terms.
        let through = (passed.latents * fixture.floats("upstream")).sum();
        let gradients = (through + codebook + commitment).backward();
        let of_latents = latents.grad(&gradients).expect("a gradient");
        fixture.assert_close("residual.latents_gradient", of_latents);
        let of_tables = (quantizer.tables.iter()).map(|table| {
            let gradient = table.embedding.weight.grad(&gradients);
            gradient.expect("a gradient").unsqueeze_dim::<3>(0)
        });
        fixture.assert_close(
            "residual.tables_gradient",
            Tensor::cat(of_tables.collect(), 0),
        );
    }

    #[test]
    fn decoding_finds_the_codes_of_training() {
        let fixture = Fixture::others(&Device::flex());
        let quantizer = from(&fixture);
        let latents = fixture.floats::<4>("latents");
        fixture.assert_close("residual.quantized", quantizer.decodable(latents.clone()));
        let chosen = within_tables(quantizer.chosen(latents).expect("codes"));
        assert_eq!(chosen, fixture.integers("residual.chosen"));
    }

    #[test]
    fn kmeans_and_averages_bring_each_table_nearer_to_what_is_left() {
        let device = Device::flex();
        let fixture = Fixture::others(&device);
        let latents = fixture.floats::<4>("latents");
        let config = CodebookConfig {
            decay: 0.5,
            ..CodebookConfig::default()
        };
        let mut quantizer = ResidualQuantizer::new(3, 4, 3, &device);
        quantizer.prepare(&config);
        let errors = |quantizer: &ResidualQuantizer| {
            let mut few = quantizer.clone();
            let mut errors = Vec::new();
            while !few.tables.is_empty() {
                let decoded = few.decodable(latents.clone());
                let error = (decoded - latents.clone()).square().mean();
                errors.push(error.into_scalar::<f32>());
                few.tables.pop();
            }
            errors
        };
        quantizer.start_with_kmeans(latents.clone(), 10, 1, &mut |_| true);
        let [three, two, one] = errors(&quantizer)[..] else {
            panic!("three tables")
        };
        assert!(three < 0.7 * two && two < 0.7 * one, "{three} {two} {one}");

        // From random codes, moving averages come near that.
        let mut quantizer = seeded(ResidualQuantizer::new(3, 4, 3, &device), 0);
        quantizer.prepare(&config);
        let mut state = CodebookTraining::new(&config, quantizer.codebook().expect("codes"));
        for step in 0..100 {
            let position = BatchPosition {
                seed: 0,
                step,
                first_image: 0,
                total_images: 2,
            };
            let codes = quantizer.chosen(latents.clone()).expect("codes");
            let statistics = Layer::statistics(&quantizer, latents.clone(), codes, position);
            let vectors = quantizer.codebook().expect("codes");
            let (next, vectors) = state.update(&config, vectors, statistics.expect("codes"));
            state = next;
            quantizer.set_codebook(vectors);
        }
        let averaged = errors(&quantizer)[0];
        assert!(averaged < 1.5 * three, "{averaged} {three}");
    }
}
