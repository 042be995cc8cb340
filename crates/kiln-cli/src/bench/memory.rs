//! The memory of this process, from Linux's `/proc/self/status`.

use std::fs;

/// The peak memory of this process, in bytes (`VmHWM`); `None` if the system does not tell.
pub fn peak_memory() -> Option<u64> {
    of_this_process("VmHWM")
}

/// The current memory of this process, in bytes (`VmRSS`); `None` if the system does not tell.
#[allow(dead_code, reason = "examples/peer.rs begins with it")]
pub fn resident_memory() -> Option<u64> {
    of_this_process("VmRSS")
}

fn of_this_process(key: &str) -> Option<u64> {
    bytes(&fs::read_to_string("/proc/self/status").ok()?, key)
}

/// The value of a line like `VmHWM:     5188 kB`.
fn bytes(status: &str, key: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let status =
            "Name:\tkiln\nVmHWMX:\t1 kB\nVmHWM:\t    5188 kB\nVmRSS:\t  12 kB\nThreads:\t2\n";
        assert_eq!(bytes(status, "VmHWM"), Some(5188 * 1024));
        assert_eq!(bytes(status, "VmRSS"), Some(12 * 1024));
        for (status, key) in [
            (status, "Vm"),
            (status, "Threads"),
            ("VmHWM: many kB", "VmHWM"),
            ("VmHWM: 18446744073709551615 kB", "VmHWM"),
            ("", "VmHWM"),
        ] {
            assert_eq!(bytes(status, key), None, "{status:?} {key}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_no_less_than_what_is_there_now() {
        let now = resident_memory().unwrap();
        let touched = vec![1u8; 1 << 22];
        assert!(touched.iter().map(|&byte| u64::from(byte)).sum::<u64>() > 0);
        assert!(peak_memory().unwrap() >= now);
    }
}
