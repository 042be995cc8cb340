//! How much memory there is for a network and its images.

use std::fs;
use std::path::Path;

use crate::{Autoencoder, UNet2dConfig, VqVaeConfig};

/// Feature maps of a residual block that are there in a backward pass: the inputs of its two convolutions, and what is just
/// being made of them. A VQ-VAE of two levels was measured to have 3.1, a U-Net of one level 6.
const MAPS_OF_A_BLOCK: usize = 3;
/// Feature maps that are there while a network only draws: a layer's input and its output.
const MAPS_OF_DRAWING: f64 = 2.0;

/// Bytes that this process can still get: what the system has free, swap included, but no more than what the limits of its
/// control group and of its address space (`ulimit -v`) leave. None where the system does not tell (it is not Linux).
pub fn free_memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let meminfo = read(Path::new("/proc/meminfo"))?;
    let of_system = in_line(&meminfo, "MemAvailable:")?
        .saturating_add(in_line(&meminfo, "SwapFree:").unwrap_or_default());

    // A limit above a control group holds for it, too.
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

/// The bytes that are free, where the system tells and they are fewer than `needed`.
pub fn too_little_memory(needed: f64) -> Option<f64> {
    let free = free_memory()? as f64;
    (needed > free).then_some(free)
}

/// How many numbers a network keeps for one image, at least: what can be known before anything is allocated.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMaps {
    /// In a training step, until the backward pass.
    pub training: f64,
    /// While it only draws.
    pub drawing: f64,
}

impl FeatureMaps {
    /// Of a U-Net on samples of this height and width.
    pub fn of_unet(unet: &UNet2dConfig, size: [usize; 2]) -> Self {
        Self::of_levels(&unet.block_out_channels, unet.layers_per_block, size)
    }

    /// Of a VQ-VAE on images of this height and width.
    pub fn of_vqvae(vqvae: &VqVaeConfig, size: [usize; 2]) -> Self {
        Self::of_levels(&vqvae.block_out_channels, vqvae.layers_per_block, size)
    }

    /// Of an autoencoder of any kind on images of this height and width.
    pub fn of_autoencoder(autoencoder: &Autoencoder, size: [usize; 2]) -> Self {
        let config = autoencoder.config();
        let (channels, layers) = (config.block_out_channels(), config.layers_per_block());
        Self::of_levels(channels, layers, size)
    }

    /// Of levels that halve the image, on the way down and up again.
    fn of_levels(channels: &[usize], layers: usize, [height, width]: [usize; 2]) -> Self {
        let pixels = height as f64 * width as f64;
        let maps = (0..).zip(channels);
        let maps = maps.map(|(level, &channels)| pixels / 4f64.powi(level) * channels as f64);
        let largest = maps.clone().fold(0.0, f64::max);
        let all: f64 = maps.sum();
        let blocks = layers + (layers + 1);
        Self {
            training: all * (MAPS_OF_A_BLOCK * blocks) as f64,
            drawing: largest * MAPS_OF_DRAWING,
        }
    }
}

/// The value of a line like `MemAvailable:  5188 kB`, in bytes.
fn in_line(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Bytes of a control group's memory that only keep files at hand, as its `memory.stat` tells.
fn cached(statistics: &str) -> u64 {
    let lines = statistics.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_cache = ["active_file", "inactive_file"].contains(&name);
        is_cache.then(|| bytes.parse::<u64>().ok()).flatten()
    });
    lines.sum()
}

/// The soft limit in the line `Max address space  SOFT  HARD  bytes`; none if it is unlimited.
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

    #[test]
    fn both_sides_of_a_rectangle_count() {
        let vqvae = VqVaeConfig::default();
        let maps = |size| FeatureMaps::of_vqvae(&vqvae, size).drawing;
        assert_eq!(maps([8, 128]), maps([32, 32]));
        assert_eq!(maps([64, 128]), 2.0 * maps([64, 64]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_some() {
        assert!(free_memory().unwrap() > 1 << 20);
    }
}
