//! The amount of free memory.

use std::fs;
use std::path::Path;

/// Bytes that this process can still allocate: the system's free memory, swap included, within the limits of its
/// control group and its address space (`ulimit -v`). `None` if the system does not tell (it is not Linux).
pub fn free_memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let meminfo = read(Path::new("/proc/meminfo"))?;
    let of_system = in_line(&meminfo, "MemAvailable:")?
        .saturating_add(in_line(&meminfo, "SwapFree:").unwrap_or_default());

    // The limit of a parent control group holds, too.
    let group = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::/"));
    let root = Path::new("/sys/fs/cgroup");
    let folders = root.join(group.unwrap_or_default());
    let folders = folders
        .ancestors()
        .take_while(|folder| folder.starts_with(root));
    let of_groups = folders.filter_map(|folder| {
        let number = |file: &str| read(&folder.join(file))?.trim().parse::<u64>().ok();
        let statistics = read(&folder.join("memory.stat")).unwrap_or_default();
        let used = number("memory.current")?.saturating_sub(cached(&statistics));
        Some(number("memory.max")?.saturating_sub(used))
    });

    let limits = read(Path::new("/proc/self/limits")).unwrap_or_default();
    let status = read(Path::new("/proc/self/status")).unwrap_or_default();
    let of_addresses = address_limit(&limits)
        .map(|limit| limit.saturating_sub(in_line(&status, "VmSize:").unwrap_or_default()));
    of_groups.chain(of_addresses).chain([of_system]).min()
}

/// The free bytes, if the system tells and they are fewer than `needed`.
pub fn too_little_memory(needed: f64) -> Option<f64> {
    let free = free_memory()? as f64;
    (needed > free).then_some(free)
}

/// The value of a line like `MemAvailable:  5188 kB`, in bytes.
fn in_line(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Bytes of a control group's memory that only cache files, from its `memory.stat`.
fn cached(statistics: &str) -> u64 {
    let lines = statistics.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_cache = ["active_file", "inactive_file"].contains(&name);
        is_cache.then(|| bytes.parse::<u64>().ok()).flatten()
    });
    lines.sum()
}

/// The soft limit in the line `Max address space  SOFT  HARD  bytes`; `None` if it is unlimited.
fn address_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_understood() {
        let meminfo = "MemTotal:  1000 kB\nMemAvailable:   24 kB\nSwapFree: 1 kB\n";
        assert_eq!(in_line(meminfo, "MemAvailable:"), Some(24 * 1024));
        assert_eq!(in_line(meminfo, "MemFree:"), None);
        assert_eq!(cached("anon 5\ninactive_file 7\nactive_file 9\n"), 16);
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax address space  4096000  unlimited  bytes \n";
        assert_eq!(address_limit(limits), Some(4_096_000));
        assert_eq!(address_limit(&limits.replace("4096000", "unlimited")), None);
        assert_eq!(address_limit(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_some() {
        assert!(free_memory().unwrap() > 1 << 20);
    }
}
