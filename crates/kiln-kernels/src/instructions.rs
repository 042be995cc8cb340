//! Which vector instructions run: chosen once, when the program first needs them.

use std::sync::OnceLock;

use pulp::{Arch, WithSimd};

/// Set to `portable`, `avx2` or `avx512` to use no better instructions than those, for tests and comparisons.
const LIMIT: &str = "KILN_INSTRUCTIONS";

/// Runs `work` with the best vector instructions of this processor: AVX-512, AVX2 with FMA, NEON, or whatever
/// the compiler makes of plain arithmetic.
#[inline]
pub(crate) fn vectorized<W: WithSimd>(work: W) -> W::Output {
    static CHOSEN: OnceLock<Arch> = OnceLock::new();
    CHOSEN
        .get_or_init(|| limited(std::env::var(LIMIT).ok().as_deref()))
        .dispatch(work)
}

/// Whether this crate's operators are wanted: not if the environment says `KILN_KERNELS=burn`.
pub(crate) fn wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var("KILN_KERNELS").as_deref() != Ok("burn"))
}

/// The vector instructions that the operators use: `avx512`, `avx2`, `neon` or `portable`.
///
/// It is the best set that this processor has. The environment variable `KILN_INSTRUCTIONS` limits it to the set
/// that it names.
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
    fn the_limit_is_kept() {
        assert!(matches!(limited(Some("portable")), Arch::Scalar));
        #[cfg(target_arch = "x86_64")]
        assert!(matches!(limited(Some("avx2")), Arch::V3(_) | Arch::Scalar));
    }
}
