//! The machine on which the figures were measured.

use std::{fmt, fs, thread};

use kiln_kernels::{bf16_instructions, instructions, own_operators};
use serde::Serialize;

/// The properties that determine a program's speed on a processor.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's model, if the system tells it.
    pub processor: String,
    /// Logical processors that this program may use.
    pub cores: usize,
    /// Threads for computing: the same number, unless `RAYON_NUM_THREADS` says otherwise.
    pub threads: usize,
    /// The processor's vector instructions, among the sets that kiln's kernels and `gemm` can use.
    pub vector_instructions: Vec<&'static str>,
    /// Those that kiln's kernels use: see `kiln_kernels::instructions`; none if Burn's kernels run instead.
    pub kernels: Option<&'static str>,
    /// Those with which they multiply bf16 numbers, if the processor has any.
    pub bf16: Option<&'static str>,
}

impl Machine {
    /// The machine that this program runs on.
    pub fn here() -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            processor: model_name(&information).map_or_else(
                || format!("unknown ({})", std::env::consts::ARCH),
                str::to_owned,
            ),
            cores: thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            vector_instructions: vector_instructions(),
            kernels: own_operators().then(instructions),
            bf16: bf16_instructions(),
        }
    }
}

/// For example "Intel(R) Xeon(R) Processor, cores: 2, threads used: 2, with avx2 fma avx512f; kernels for avx512, no fast bf16".
impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instructions = match self.vector_instructions.as_slice() {
            [] => "no vector instructions that kiln looks for".to_owned(),
            some => some.join(" "),
        };
        let kernels = match self.kernels {
            None => "Burn's kernels".to_owned(),
            Some(set) => format!("kernels for {set}"),
        };
        write!(
            formatter,
            "{}, cores: {}, threads used: {}, with {instructions}; {kernels}, {}",
            self.processor,
            self.cores,
            self.threads,
            match self.bf16 {
                Some(bf16) => format!("bf16 by {bf16}"),
                None => "no fast bf16".to_owned(),
            }
        )
    }
}

fn model_name(information: &str) -> Option<&str> {
    let line = |line: &'_ str| line.starts_with("model name");
    let (_, name) = information
        .lines()
        .find(|text| line(text))?
        .split_once(':')?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

#[cfg(target_arch = "x86_64")]
fn vector_instructions() -> Vec<&'static str> {
    let sets = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    sets.into_iter()
        .filter_map(|(name, found)| found.then_some(name))
        .collect()
}

/// Every 64-bit ARM has NEON; on other architectures there is no check.
#[cfg(not(target_arch = "x86_64"))]
fn vector_instructions() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") {
        vec!["neon"]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_gives_the_name() {
        let information =
            "processor\t: 0\nmodel\t\t: 167\nmodel name\t: A (R) B: C\n\nmodel name\t: D\n";
        assert_eq!(model_name(information), Some("A (R) B: C"));
        assert_eq!(model_name("processor : 0\nBogoMIPS : 4"), None);
        assert_eq!(model_name("model name :"), None);
    }

    #[test]
    fn a_machine_is_one_line_with_its_numbers() {
        let machine = Machine {
            processor: "A".into(),
            cores: 4,
            threads: 2,
            vector_instructions: vec!["avx2", "fma"],
            kernels: Some("avx2"),
            bf16: None,
        };
        assert_eq!(
            machine.to_string(),
            "A, cores: 4, threads used: 2, with avx2 fma; kernels for avx2, no fast bf16"
        );
        assert!(Machine::here().cores > 0 && Machine::here().threads > 0);
    }
}
