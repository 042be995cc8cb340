//! Products of tiles on the matrix unit of Intel processors since 2023 (Advanced Matrix Extensions; Intel's Software
//! Developer's Manual, volume 1, chapter 18).
//!
//! The unit has eight registers of 16 rows of 64 bytes. `tdpbf16ps` multiplies 16 rows of 32 bf16 numbers with 16
//! pairs of rows of 16, and adds the products to 16 by 16 sums in `f32`: 16,384 operations in 16 cycles.
//!
//! Rust has no stable intrinsics for these instructions yet.
#![allow(unsafe_code, reason = "only assembly can use the matrix unit")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::{Left, RIGHT_STEP, SUMS, TILE};
use crate::instructions::instructions;

/// Whether this process may use the unit. A process must ask Linux for permission first, because threads that use it
/// need 8 KiB more for their registers.
pub(super) fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        // A limit on the vector instructions excludes these, too.
        instructions() == "avx512" && has_bf16_tiles() && is_permitted()
    })
}

fn has_bf16_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    let features = __cpuid_count(7, 0).edx;
    features & BF16 != 0 && features & TILES != 0
}

fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this request reads and writes no memory of ours. A kernel that does not know it answers with an error.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    answer == 0
}

/// The form of the eight registers, as `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static EIGHT_FULL_REGISTERS: Configuration = {
    let (mut bytes_of_row, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        bytes_of_row[register] = 64;
        rows[register] = 16;
        register += 1;
    }
    Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes_of_row,
        rows,
    }
};

/// `sums += left right`.
///
/// # Panics
///
/// If there is no such unit, or if `left` does not have 32 rows of as many numbers as `right` has rows.
pub(super) fn multiply_add(left: Left, right: &[u32], sums: &mut [f32; SUMS]) {
    let Left { values, stride } = left;
    let steps = right.len() / RIGHT_STEP;
    assert!(is_there());
    assert!(steps * TILE <= stride && 31 * stride + steps * TILE <= values.len());
    if steps == 0 {
        return;
    }
    // SAFETY: the unit is there and permitted. `ldtilecfg` reads the 64 bytes of a valid configuration. The tile
    // registers are configured and released within this block, and the compiler uses none of them.
    //
    // The first loads read, and the stores write, 16 rows of 64 bytes, 128 bytes apart, from bytes 0, 64, 2048 and 2112
    // of the 4096 bytes of `sums` on. In step `s < steps` the loads read
    // - of `values` 16 rows of 64 bytes, `2 stride` bytes apart, from byte `64 s` and from byte `32 stride + 64 s` on:
    //   the last of them ends at byte `62 stride + 64 (s + 1)`, and as many are there, as asserted;
    // - of `right` 16 rows of 64 bytes, one after the other, from byte `2048 s` and from byte `2048 s + 1024` on:
    //   all within its `2048 steps` bytes.
    // No memory has to be aligned.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm0, [{sums} + {row}*1]",
            "tileloadd tmm1, [{sums} + {row}*1 + 64]",
            "tileloadd tmm2, [{sums} + {row}*1 + 2048]",
            "tileloadd tmm3, [{sums} + {row}*1 + 2112]",
            "2:",
            "tileloadd tmm4, [{upper} + {stride}*1]",
            "tileloadd tmm5, [{lower} + {stride}*1]",
            "tileloadd tmm6, [{right} + {line}*1]",
            "tileloadd tmm7, [{right} + {line}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {right}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}*1], tmm0",
            "tilestored [{sums} + {row}*1 + 64], tmm1",
            "tilestored [{sums} + {row}*1 + 2048], tmm2",
            "tilestored [{sums} + {row}*1 + 2112], tmm3",
            "tilerelease",
            configuration = in(reg) &raw const EIGHT_FULL_REGISTERS,
            upper = inout(reg) values.as_ptr() => _,
            lower = inout(reg) values[16 * stride..].as_ptr() => _,
            stride = in(reg) 2 * stride,
            right = inout(reg) right.as_ptr() => _,
            line = in(reg) 64usize,
            steps = inout(reg) steps => _,
            sums = in(reg) sums.as_mut_ptr(),
            row = in(reg) 128usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_left_factor_that_is_too_short_is_refused() {
        let left = Left {
            values: &[0; 31 * 32],
            stride: 32,
        };
        multiply_add(left, &[0; RIGHT_STEP], &mut [0.0; SUMS]);
    }
}
