//! Compiled kernels and the results of the search for the fastest ones, kept for later processes.
//!
//! CubeCL compiles everything again in each process unless it is told otherwise. And it keeps the winners of its search
//! by the number of the card, so that another card in the same place would take over this one's, which may not even run
//! there.

use std::fs;
use std::path::Path;

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::environment::DEFAULT;

/// What compiles the kernels for NVIDIA's cards.
const COMPILER: &str = if cfg!(feature = "cuda-cpp") {
    "nvrtc"
} else {
    "llvm"
};

/// Keeps what was compiled and found, apart for each kind of card, driver and compiler. Call it before a GPU is used; later it
/// changes nothing.
///
/// A `cubecl.toml` in the current folder, or the environment variable `CUBECL_ENVIRONMENT`, can name another place.
pub fn keep_kernels() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if config.environment.name == DEFAULT
        && let Some(name) = card(Path::new("/proc/driver/nvidia"))
    {
        config.environment.name = format!("{name}-{COMPILER}");
    }
    CubeClRuntimeConfig::try_set(config);
}

/// The models of NVIDIA's cards and the version of their driver, such as `nvidia-h100-80gb-hbm3-580.159.04`, from the
/// driver's folder.
fn card(driver: &Path) -> Option<String> {
    let version = fs::read_to_string(driver.join("version")).ok()?;
    let version = version
        .split_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))?;
    let mut models: Vec<String> = fs::read_dir(driver.join("gpus"))
        .ok()?
        .filter_map(|folder| fs::read_to_string(folder.ok()?.path().join("information")).ok())
        .filter_map(|information| {
            let line = information
                .lines()
                .find_map(|line| line.strip_prefix("Model:"))?;
            Some(
                line.trim()
                    .to_ascii_lowercase()
                    .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
            )
        })
        .collect();
    models.sort();
    models.dedup();
    (!models.is_empty()).then(|| format!("{}-{version}", models.join("-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_has_the_models_and_the_version() {
        let driver = std::env::temp_dir().join(format!("kiln-driver-{}", std::process::id()));
        assert_eq!(card(&driver), None);
        for (place, model) in [
            ("0000:01:00.0", "NVIDIA H100 80GB HBM3"),
            ("0000:02:00.0", "NVIDIA H100 80GB HBM3"),
        ] {
            fs::create_dir_all(driver.join("gpus").join(place)).unwrap();
            let information = format!("Model: \t\t {model}\nIRQ:   \t\t 16\n");
            fs::write(
                driver.join("gpus").join(place).join("information"),
                information,
            )
            .unwrap();
        }
        assert_eq!(card(&driver), None);
        let version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version:  gcc 12\n";
        fs::write(driver.join("version"), version).unwrap();
        assert_eq!(card(&driver).unwrap(), "nvidia-h100-80gb-hbm3-580.159.04");
        fs::remove_dir_all(&driver).unwrap();
    }
}
