//! The choice of vector instructions, made once, when the program first needs them.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::sync::OnceLock;

use pulp::{Arch, WithSimd};

/// Set to one of [`LIMITS`] to use at most these instructions, for tests and comparisons.
const LIMIT: &str = "KILN_INSTRUCTIONS";
const LIMITS: &[&str] = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
    &["portable", "avx2", "avx512"]
} else if cfg!(target_arch = "aarch64") {
    &["portable", "neon"]
} else {
    &["portable"]
};
/// Set to `burn` to use Burn's own operators.
const KERNELS: &str = "KILN_KERNELS";

/// Set to `on` to let GPUs repeat recorded launches.
const GRAPHS: &str = "KILN_GRAPHS";

/// An environment variable with an unknown value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSetting {
    variable: &'static str,
    value: String,
    known: &'static [&'static str],
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variable,
            value,
            known,
        } = self;
        let known = known.join(", ");
        write!(
            formatter,
            "the environment variable {variable} is {value:?}: set it to one of {known}, or unset it"
        )
    }
}

impl Error for UnknownSetting {}

/// Refuses environment variables that this crate does not understand. Call it when a program starts; the operators
/// themselves treat unknown values as not set.
///
/// # Errors
/// Names the variable and its valid values.
pub fn check_environment() -> Result<(), UnknownSetting> {
    check(LIMIT, LIMITS, env::var_os(LIMIT))?;
    check(KERNELS, &["burn"], env::var_os(KERNELS))?;
    check(GRAPHS, &["on", "off"], env::var_os(GRAPHS))
}

fn check(
    variable: &'static str,
    known: &'static [&'static str],
    value: Option<OsString>,
) -> Result<(), UnknownSetting> {
    match value {
        Some(value) if !value.is_empty() && known.iter().all(|known| value != *known) => {
            let value = value.to_string_lossy().into_owned();
            Err(UnknownSetting {
                variable,
                value,
                known,
            })
        }
        _ => Ok(()),
    }
}

/// Runs `work` with the best vector instructions of this processor: AVX-512, AVX2 with FMA, NEON, or plain arithmetic
/// as the compiler translates it.
#[inline]
pub(crate) fn vectorized<W: WithSimd>(work: W) -> W::Output {
    static CHOSEN: OnceLock<Arch> = OnceLock::new();
    CHOSEN
        .get_or_init(|| limited(env::var(LIMIT).ok().as_deref()))
        .dispatch(work)
}

/// Whether this crate's operators are used at all: not with `KILN_KERNELS=burn`.
pub fn own_operators() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| env::var(KERNELS).as_deref() != Ok("burn"))
}

/// Whether GPUs repeat recorded launches: with `KILN_GRAPHS=on`.
#[cfg(feature = "gpu")]
pub(crate) fn records() -> bool {
    static RECORDS: OnceLock<bool> = OnceLock::new();
    *RECORDS.get_or_init(|| env::var(GRAPHS).as_deref() == Ok("on"))
}

/// The vector instructions that the operators use: `avx512`, `avx2`, `neon` or `portable`.
///
/// It is the best set that this processor has, within the limit of the environment variable `KILN_INSTRUCTIONS`.
pub fn instructions() -> &'static str {
    struct Name;

    impl WithSimd for Name {
        type Output = &'static str;

        fn with_simd<S: pulp::Simd>(self, _: S) -> &'static str {
            match S::F32_LANES {
                16 => "avx512",
                8 => "avx2",
                4 => "neon",
                _ => "portable",
            }
        }
    }

    vectorized(Name)
}

fn limited(limit: Option<&str>) -> Arch {
    match limit {
        Some("portable") => Arch::Scalar,
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Some("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        for fine in [
            None,
            Some(""),
            LIMITS.first().copied(),
            LIMITS.last().copied(),
        ] {
            assert_eq!(check(LIMIT, LIMITS, fine.map(OsString::from)), Ok(()));
        }
        // Those of other processors are not known, either.
        let foreign = match cfg!(target_arch = "aarch64") {
            true => "avx2",
            false => "neon",
        };
        for bogus in ["bogus", "PORTABLE", "portable ", foreign] {
            let error = check(LIMIT, LIMITS, Some(bogus.into())).unwrap_err();
            let sentence = error.to_string();
            assert!(
                sentence.contains("KILN_INSTRUCTIONS") && sentence.contains("one of portable"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn the_limit_is_kept() {
        assert!(matches!(limited(Some("portable")), Arch::Scalar));
        #[cfg(target_arch = "x86_64")]
        assert!(matches!(limited(Some("avx2")), Arch::V3(_) | Arch::Scalar));
    }
}
