//! The format of the numbers that are multiplied.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{bf16_instructions, is_cpu};

/// The format of the numbers that are multiplied: by convolutions, and in models that only draw also by attention and linear
/// layers.
///
/// Weights, activations, normalisations, losses and gradients are `f32` in either case, and so are the sums of the
/// products: only their factors are rounded, and the inputs that convolutions keep for the backward pass, which are f16 (and
/// at most 65,504). On GPUs the factors of products of matrices are rounded, too, and so is the result of each convolution, as by
/// PyTorch's autocast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// "Brain floating point": the range of `f32` with 8 significant bits, a relative error of up to 1/256.
    Bf16,
    /// [`Bf16`](Self::Bf16) on a processor with [instructions for it](bf16_instructions), `F32` everywhere else.
    Auto,
}

/// What convolutions multiply, after the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    F32,
    Bf16,
}

impl Precision {
    /// Whether [`with_precision`] makes a difference on `device`, or is not needed.
    pub fn runs_on(self, device: &Device) -> bool {
        self != Self::Bf16 || is_cpu(device) || device.supports_dtype(DType::BF16)
    }

    /// What runs on `device` under [`with_precision`]: `F32` or `Bf16`.
    pub fn in_use(self, device: &Device) -> Self {
        let fast = is_cpu(device) && bf16_instructions().is_some();
        match self {
            Self::Bf16 if fast || !is_cpu(device) => Self::Bf16,
            Self::Auto if fast => Self::Bf16,
            _ => Self::F32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Auto => "auto",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::F32, Self::Bf16, Self::Auto]
            .into_iter()
            .find(|precision| precision.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not a precision; write f32, bf16 or auto"))
    }
}

/// What this crate's operators for processors multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) factors: Factors,
    /// Also for layers for which others are faster.
    pub(crate) exactly: bool,
}

#[derive(Clone, Copy)]
struct Requested {
    precision: Precision,
    /// Also where `f32` is faster.
    exactly: bool,
}

thread_local! {
    static REQUESTED: Cell<Requested> = const {
        Cell::new(Requested { precision: Precision::F32, exactly: false })
    };
}

/// Runs `work`, in which numbers of `precision` are multiplied; and so they are for the gradients of convolutions, whenever
/// those are computed.
///
/// Other frameworks call this autocast. It applies to this thread, and to `f32` tensors. A processor without
/// [instructions for bf16](bf16_instructions) multiplies `f32` numbers instead, which is many times faster there, and so do
/// layers of few channels where it is faster.
pub fn with_precision<R>(precision: Precision, work: impl FnOnce() -> R) -> R {
    with(
        Requested {
            precision,
            exactly: false,
        },
        work,
    )
}

/// Like [`with_precision`], on any processor and for any layer: to test the effect of rounding on results.
pub fn with_exact_precision<R>(precision: Precision, work: impl FnOnce() -> R) -> R {
    with(
        Requested {
            precision,
            exactly: true,
        },
        work,
    )
}

fn with<R>(requested: Requested, work: impl FnOnce() -> R) -> R {
    struct Restore(Requested);
    impl Drop for Restore {
        fn drop(&mut self) {
            REQUESTED.set(self.0);
        }
    }
    let _restore = Restore(REQUESTED.replace(requested));
    work()
}

/// The precision of this crate's operators for processors.
pub(crate) fn current() -> Chosen {
    let Requested { precision, exactly } = REQUESTED.get();
    let is_fast = || bf16_instructions().is_some();
    let factors = match precision {
        Precision::Bf16 if exactly || is_fast() => Factors::Bf16,
        Precision::Auto if is_fast() => Factors::Bf16,
        _ => Factors::F32,
    };
    Chosen { factors, exactly }
}

/// The precision of products on GPUs.
#[cfg(feature = "gpu")]
pub(crate) fn requested() -> Factors {
    match REQUESTED.get().precision {
        Precision::Bf16 => Factors::Bf16,
        Precision::F32 | Precision::Auto => Factors::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Auto] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert!("f16".parse::<Precision>().unwrap_err().contains("`f16`"));
    }

    #[test]
    fn precisions_nest_and_end_with_their_work() {
        with_exact_precision(Precision::Bf16, || {
            with_precision(Precision::F32, || {
                assert_eq!(current().factors, Factors::F32)
            });
            assert_eq!(current().factors, Factors::Bf16);
        });
        let panics =
            std::panic::catch_unwind(|| with_exact_precision(Precision::Bf16, || panic!("x")));
        assert!(panics.is_err());
        assert_eq!(current().factors, Factors::F32);
    }

    #[test]
    fn bf16_is_for_processors_that_are_made_for_it() {
        for precision in [Precision::Bf16, Precision::Auto] {
            let used = with_precision(precision, current).factors;
            assert_eq!(used == Factors::Bf16, bf16_instructions().is_some());
        }
    }
}
