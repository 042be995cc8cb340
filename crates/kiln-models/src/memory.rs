//! How much memory there is, and how much networks need of it.

use std::fs;

use crate::{Autoencoder, UNet2dConfig};

/// Bytes of a number.
const NUMBER: u64 = 4;
/// Feature maps of one level that are there at once beside those that are kept: what goes into a layer, what stands before
/// and after it, and what comes out.
const MAPS_AT_WORK: u64 = 4;

/// The memory that this process can still have, in bytes, where the system says so: what is free or can be freed, less
/// where the limits of the process (`ulimit -v`) or of its control group (a container's) are tighter.
pub fn memory_at_hand() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let free = kilobytes(&read("/proc/meminfo"), "MemAvailable:");
    let limits = read("/proc/self/limits");
    let space = address_space(&limits).map(|limit| {
        let used = kilobytes(&read("/proc/self/status"), "VmSize:").unwrap_or_default();
        limit.saturating_sub(used)
    });
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max").map(|limit| {
        limit.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or_default())
    });
    [free, space, group].into_iter().flatten().min()
}

/// A size in one of the kernel's tables.
fn kilobytes(table: &str, key: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number.saturating_mul(1024))
}

/// The limit of `ulimit -v`, in bytes.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The least memory, in bytes, that a U-Net needs for one sample of `[height, width]` beside its weights: the maps that it
/// keeps on the way down for the way up, and those at work where they are largest.
pub fn forward_memory(config: &UNet2dConfig, [height, width]: [usize; 2]) -> u64 {
    let map = |level: usize, channels| map([height >> level, width >> level], channels);
    let levels = || config.block_out_channels.iter().copied().enumerate();
    let layers = config.layers_per_block as u64;
    let kept = levels().map(|(level, channels)| map(level, channels).saturating_mul(layers));
    let kept = kept.fold(0, u64::saturating_add);
    let largest = levels().map(|(level, channels)| map(level, channels)).max();
    kept.saturating_add(largest.unwrap_or_default().saturating_mul(MAPS_AT_WORK))
}

/// The least memory, in bytes, that an autoencoder needs to make an image of latents of `[height, width]`, or the other way
/// round: that of the maps at work in the outermost level, which are as large as the image.
pub fn image_memory(network: &Autoencoder, latents: [usize; 2]) -> u64 {
    let factor = network.downscale_factor();
    let channels = network.block_out_channels().first().copied();
    let image = latents.map(|side| side.saturating_mul(factor));
    map(image, channels.unwrap_or_default()).saturating_mul(MAPS_AT_WORK)
}

/// Bytes of a feature map.
fn map([height, width]: [usize; 2], channels: usize) -> u64 {
    let numbers = (height as u64).saturating_mul(width as u64);
    numbers
        .saturating_mul(channels as u64)
        .saturating_mul(NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        let table = "MemTotal:  9 kB\nMemAvailable:   16384 kB\n";
        assert_eq!(kilobytes(table, "MemAvailable:"), Some(16 << 20));
        assert_eq!(kilobytes(table, "SwapFree:"), None);
        let limits =
            |soft: &str| format!("Limit  Soft Limit\nMax address space  {soft}  unlimited bytes\n");
        assert_eq!(address_space(&limits("4096")), Some(4096));
        assert_eq!(address_space(&limits("unlimited")), None);
        if cfg!(target_os = "linux") {
            assert!(memory_at_hand().is_some_and(|bytes| bytes > 0));
        }
    }

    #[test]
    fn what_a_network_needs_grows_with_the_image() {
        let config = UNet2dConfig {
            block_out_channels: vec![16, 32],
            layers_per_block: 1,
            ..UNet2dConfig::default()
        };
        // 16 channels at full size, kept once and four times at work, and 32 at a quarter of it.
        assert_eq!(forward_memory(&config, [8, 8]), (64 * 16 * 5 + 16 * 32) * 4);
        assert!(forward_memory(&config, [65_536; 2]) > 1 << 40);
        assert_eq!(forward_memory(&config, [usize::MAX; 2]), u64::MAX);
    }
}
