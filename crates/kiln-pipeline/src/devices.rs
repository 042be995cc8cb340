//! `--devices`: from a word on the command line to devices that exist and work.
//!
//! Burn panics if a driver is missing or a device does not exist. This module therefore lists the devices and tries
//! each of them once before any work starts, and turns every failure into a sentence.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    str::FromStr,
    sync::Once,
};

use burn::tensor::{Device, Tensor};
use kiln_kernels::{Precision, bf16_instructions, is_cpu};
use thiserror::Error;

use crate::suggestion::suggestion;

/// The largest number of CPU replicas in `cpu:N`. More would only cost memory.
const MOST_CPU_REPLICAS: usize = 64;

/// The devices to work on: at least one, all of one kind, and each was tried.
///
/// Written as on the command line: `cpu`, `cpu:2` (two replicas that share the processor), `cuda:0,cuda:1`, `rocm`,
/// `metal`, `wgpu`. The choice depends on the features that kiln was built with; `cpu` is always possible.
#[derive(Clone, Debug)]
pub struct Devices {
    devices: Vec<Device>,
    name: String,
}

/// Why devices cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device at all.
    #[error(
        "`{text}` is not a device; {}write `cpu`, `cpu:2` for two replicas, or like `cuda:0,cuda:1` (this build has {})",
        did_you_mean(text),
        built_in()
    )]
    Unknown {
        /// The text on the command line.
        text: String,
    },
    /// A backend that this build lacks.
    #[error(
        "`{text}` needs kiln built with `--features {backend}`, and this build has only {}",
        built_in()
    )]
    NotBuiltIn {
        /// The text on the command line.
        text: String,
        /// The backend, which is also the name of its Cargo feature.
        backend: Backend,
    },
    /// A precision that the device does not have.
    #[error("`{devices}` cannot multiply in {precision}; leave the precision at f32")]
    Precision {
        /// As on the command line.
        devices: String,
        /// The requested precision.
        precision: Precision,
    },
    /// Too few or too many CPU replicas.
    #[error(
        "`cpu:{replicas}` asks for {replicas} CPU replicas; between 1 and {MOST_CPU_REPLICAS} are possible"
    )]
    Replicas {
        /// The requested number.
        replicas: usize,
    },
    /// The backend is compiled in but finds no device.
    #[error(
        "no {backend} device was found: check that its driver is installed, or use `--devices cpu`"
    )]
    NoneFound {
        /// The backend.
        backend: Backend,
    },
    /// An index past the last device.
    #[error(
        "there is no `{backend}:{index}`: this machine has {found} {backend} device(s), counted from 0"
    )]
    NoSuchIndex {
        /// The backend.
        backend: Backend,
        /// The requested index.
        index: usize,
        /// The number of devices.
        found: usize,
    },
    /// The same device twice.
    #[error("`{text}` is named twice in --devices")]
    Twice {
        /// The device.
        text: String,
    },
    /// Devices of different kinds.
    #[error("--devices {text} mixes kinds of devices; name devices of one kind")]
    Mixed {
        /// The text on the command line.
        text: String,
    },
    /// The device exists but does not compute.
    #[error("the device `{text}` does not work: {reason}")]
    Broken {
        /// The device.
        text: String,
        /// Burn's message.
        reason: String,
    },
}

/// A kind of device. Cargo features determine which kinds are compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The processor, through Burn's Flex. It always exists.
    Cpu,
    /// NVIDIA, through CUDA.
    Cuda,
    /// AMD, through ROCm.
    Rocm,
    /// Apple, through Metal.
    Metal,
    /// Any GPU with Vulkan, Metal or DirectX 12, through WebGPU.
    Wgpu,
    /// The processor with the operators for GPUs, to test them on machines without a GPU.
    CubeclCpu,
}

impl Backend {
    const ALL: [Backend; 6] = [
        Backend::Cpu,
        Backend::Cuda,
        Backend::Rocm,
        Backend::Metal,
        Backend::Wgpu,
        Backend::CubeclCpu,
    ];

    fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Cuda => "cuda",
            Backend::Rocm => "rocm",
            Backend::Metal => "metal",
            Backend::Wgpu => "wgpu",
            Backend::CubeclCpu => "cubecl-cpu",
        }
    }

    fn is_built_in(self) -> bool {
        match self {
            Backend::Cpu => true,
            Backend::Cuda => cfg!(feature = "cuda"),
            Backend::Rocm => cfg!(feature = "rocm"),
            Backend::Metal => cfg!(feature = "metal"),
            Backend::Wgpu => cfg!(feature = "wgpu"),
            Backend::CubeclCpu => cfg!(feature = "cubecl-cpu"),
        }
    }

    /// The devices of this kind on this machine; empty if the driver is missing or the feature is off.
    fn enumerate(self) -> Vec<Device> {
        match self {
            Backend::Cpu => vec![Device::flex()],
            #[cfg(feature = "cuda")]
            Backend::Cuda => Device::enumerate(burn::tensor::DeviceType::Cuda)
                .into_iter()
                .collect(),
            #[cfg(feature = "rocm")]
            Backend::Rocm => Device::enumerate(burn::tensor::DeviceType::Rocm)
                .into_iter()
                .collect(),
            #[cfg(feature = "metal")]
            Backend::Metal => Device::enumerate(burn::tensor::DeviceType::Metal)
                .into_iter()
                .collect(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Device::enumerate(burn::tensor::DeviceType::Wgpu)
                .into_iter()
                .collect(),
            #[cfg(feature = "cubecl-cpu")]
            Backend::CubeclCpu => Device::enumerate(burn::tensor::DeviceType::Cpu)
                .into_iter()
                .collect(),
            #[allow(unreachable_patterns)] // reached unless every feature is on
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The backends of this build, for error messages: "cpu" or "cpu, cuda".
fn built_in() -> String {
    let names = Backend::ALL
        .into_iter()
        .filter(|backend| backend.is_built_in())
        .map(Backend::name);
    names.collect::<Vec<_>>().join(", ")
}

/// "did you mean `cuda:1`? " for `cdua:1`; empty if no device has a similar name.
fn did_you_mean(text: &str) -> String {
    let (name, number) = text.split_at(text.find(':').unwrap_or(text.len()));
    match suggestion(name, Backend::ALL.map(Backend::name)) {
        // The name is right, but its suffix is not; the sentence goes on with the valid forms.
        Some(meant) if meant != name => format!("did you mean `{meant}{number}`? "),
        _ => String::new(),
    }
}

impl Devices {
    /// One processor.
    pub fn cpu() -> Self {
        Self {
            devices: vec![Device::flex()],
            name: "cpu".to_string(),
        }
    }

    /// Finds the devices named by `text` (see [`Devices`]) and computes something small on each.
    ///
    /// # Errors
    /// [`DeviceError`] if the text names no device, a backend that is not compiled in, or a device that does not exist
    /// or does not work.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let mut devices = Vec::new();
        let mut named: Vec<(Backend, usize)> = Vec::new();
        for word in text.split(',').map(str::trim) {
            let (backend, number) = parse_word(word)?;
            if named.iter().any(|&(other, _)| other != backend) {
                return Err(DeviceError::Mixed {
                    text: text.to_string(),
                });
            }
            if backend == Backend::Cpu {
                let replicas = number.unwrap_or(1);
                if !named.is_empty() {
                    return Err(DeviceError::Twice {
                        text: word.to_string(),
                    });
                }
                if !(1..=MOST_CPU_REPLICAS).contains(&replicas) {
                    return Err(DeviceError::Replicas { replicas });
                }
                devices.extend(vec![Device::flex(); replicas]);
                named.push((backend, 0));
                continue;
            }
            let index = number.unwrap_or(0);
            if named.contains(&(backend, index)) {
                return Err(DeviceError::Twice {
                    text: word.to_string(),
                });
            }
            devices.push(find(word, backend, index)?);
            named.push((backend, index));
        }
        Ok(Self {
            devices,
            name: text.to_string(),
        })
    }

    /// The devices, in the order of their names on the command line.
    pub fn all(&self) -> &[Device] {
        &self.devices
    }

    /// Checks that the devices compute in `precision`. Warns, once in a process, if `f32` replaces bf16 because it is faster.
    ///
    /// # Errors
    /// [`DeviceError::Precision`] if they do not.
    pub fn check_precision(&self, precision: Precision) -> Result<(), DeviceError> {
        if !self.devices.iter().all(|device| precision.runs_on(device)) {
            let devices = self.to_string();
            return Err(DeviceError::Precision { devices, precision });
        }
        let on_cpu = self.devices.iter().all(is_cpu);
        if precision == Precision::Bf16 && on_cpu && bf16_instructions().is_none() {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| tracing::warn!(
                "using f32 instead of bf16: it is faster on this processor, which has no fast instructions for bf16 that kiln knows (AMX on Linux, or AVX512-BF16 of AMD or Cooper Lake)"
            ));
        }
        Ok(())
    }

    /// The first device, for work on a single device.
    pub fn first(&self) -> Device {
        self.devices.first().cloned().unwrap_or_else(Device::flex)
    }
}

impl FromStr for Devices {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        Self::parse(text)
    }
}

/// The text from the command line.
impl fmt::Display for Devices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// `cuda:1` is CUDA and 1; `cuda` is CUDA and nothing.
fn parse_word(word: &str) -> Result<(Backend, Option<usize>), DeviceError> {
    let unknown = || DeviceError::Unknown {
        text: word.to_string(),
    };
    let (name, number) = match word.split_once(':') {
        Some((name, number)) => (name, Some(number.parse().map_err(|_| unknown())?)),
        None => (word, None),
    };
    let backend = Backend::ALL
        .into_iter()
        .find(|backend| backend.name() == name)
        .ok_or_else(unknown)?;
    Ok((backend, number))
}

/// The device number `index` of a backend other than the CPU, tried.
fn find(text: &str, backend: Backend, index: usize) -> Result<Device, DeviceError> {
    if !backend.is_built_in() {
        let text = text.to_string();
        return Err(DeviceError::NotBuiltIn { text, backend });
    }
    let broken = |reason| DeviceError::Broken {
        text: text.to_string(),
        reason,
    };
    #[cfg(feature = "gpu")]
    kiln_kernels::keep_kernels();
    let found = without_panic(|| backend.enumerate()).map_err(broken)?;
    let device = match (found.get(index), found.len()) {
        (_, 0) => return Err(DeviceError::NoneFound { backend }),
        (None, found) => {
            return Err(DeviceError::NoSuchIndex {
                backend,
                index,
                found,
            });
        }
        (Some(device), _) => device.clone(),
    };
    let sum = without_panic(|| Tensor::<1>::ones([4], &device).sum().into_scalar::<f32>())
        .map_err(broken)?;
    match sum {
        4.0 => Ok(device),
        other => Err(broken(format!("it says that 1 + 1 + 1 + 1 is {other}"))),
    }
}

/// Runs `work`. If it panics, returns the panic's message, and prints nothing.
///
/// Incomplete drivers (no compiler library, no memory left) panic inside Burn. This is the one place that catches a
/// panic, and it restores the panic hook right after.
fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    outcome.map_err(|payload| {
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
        message
            .unwrap_or("its driver failed")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> DeviceError {
        Devices::parse(text).unwrap_err()
    }

    #[test]
    fn the_cpu_is_always_there_once_or_several_times() {
        assert_eq!(Devices::parse("cpu").unwrap().all().len(), 1);
        let two = Devices::parse("cpu:2").unwrap();
        assert_eq!((two.all().len(), two.to_string().as_str()), (2, "cpu:2"));
        assert_eq!(Devices::cpu().first(), Device::flex());
    }

    #[test]
    fn what_is_not_a_device_is_named_with_what_is() {
        for text in ["", "gpu", "cuda:", "cuda:x", "cpu:-1", "cuda:0,,", "CPU"] {
            assert!(
                matches!(
                    error(text),
                    DeviceError::Unknown { .. } | DeviceError::NotBuiltIn { .. }
                ),
                "{text}"
            );
        }
        assert!(error("gpu").to_string().contains("`gpu` is not a device"));
        assert!(error("gpu").to_string().contains("cpu"));
    }

    #[test]
    fn replicas_are_bounded() {
        assert_eq!(error("cpu:0"), DeviceError::Replicas { replicas: 0 });
        assert_eq!(error("cpu:65"), DeviceError::Replicas { replicas: 65 });
        assert!(matches!(
            error("cpu:99999999999999999999"),
            DeviceError::Unknown { .. }
        ));
    }

    #[test]
    fn kinds_do_not_mix_and_devices_do_not_repeat() {
        assert!(matches!(error("cpu,cuda:0"), DeviceError::Mixed { .. }));
        assert!(matches!(error("cpu,cpu"), DeviceError::Twice { .. }));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_is_not_compiled_in_says_how_to_get_it() {
        let message = error("cuda:0").to_string();
        assert_eq!(
            message,
            "`cuda:0` needs kiln built with `--features cuda`, and this build has only cpu"
        );
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_missing_card_is_a_sentence() {
        let message = error("cuda:4096").to_string();
        assert!(message.contains("cuda"), "{message}");
    }

    #[test]
    fn a_panic_becomes_its_message() {
        let outcome = without_panic(|| -> u8 { panic!("no\n driver {}", 7) });
        assert_eq!(outcome, Err("no driver 7".to_string()));
        assert_eq!(without_panic(|| 3), Ok(3));
    }
}
