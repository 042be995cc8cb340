//! The names that a pickle may import, all harmless, and their meanings.
//!
//! Everything else is refused, because one wrong name is enough: from the module `typing` alone, Python can reach
//! `operator.attrgetter`, and from there `os.system`.

use super::storage::Kind;

/// The meaning of an imported name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// A class whose instances are dictionaries.
    Dictionary,
    /// `_rebuild_tensor` and its later versions: the index of the argument with the type, if there is one.
    RebuildTensor { kind_at: Option<usize> },
    /// `_rebuild_parameter`: returns its first argument.
    RebuildParameter,
    /// `_rebuild_from_type_v2`: applies its first argument to its third.
    RebuildFromType,
    /// A type of numbers, or of their storages; `None` for a storage of bytes.
    Numbers(Option<Kind>),
    /// Anything else that is only data.
    Data,
}

/// PyTorch's names for types of storages and of numbers.
const KINDS: [(&str, &str, Kind); 12] = [
    ("DoubleStorage", "float64", Kind::F64),
    ("FloatStorage", "float32", Kind::F32),
    ("HalfStorage", "float16", Kind::F16),
    ("BFloat16Storage", "bfloat16", Kind::BF16),
    ("LongStorage", "int64", Kind::Other(8)),
    ("IntStorage", "int32", Kind::Other(4)),
    ("ShortStorage", "int16", Kind::Other(2)),
    ("CharStorage", "int8", Kind::Other(1)),
    ("ByteStorage", "uint8", Kind::Other(1)),
    ("BoolStorage", "bool", Kind::Other(1)),
    ("ComplexFloatStorage", "complex64", Kind::Other(8)),
    ("ComplexDoubleStorage", "complex128", Kind::Other(16)),
];

/// Callbacks of PyTorch Lightning, which are keys in its checkpoints from before 2022.
const CALLBACKS: [&str; 18] = [
    "BackboneFinetuning",
    "BatchSizeFinder",
    "DeviceStatsMonitor",
    "EarlyStopping",
    "GPUStatsMonitor",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelPruning",
    "ModelSummary",
    "ProgressBar",
    "QuantizationAwareTraining",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "Timer",
    "XLAStatsMonitor",
];

/// The meaning of `name` of `module`; `None` if it may be more than data.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    let kind = |text: &str| {
        let of_storage = |(storage, number, kind): &(&str, &str, Kind)| {
            (*storage == text || *number == text).then_some(*kind)
        };
        KINDS.iter().find_map(of_storage)
    };
    let is_data = match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter")
        | ("builtins" | "__builtin__", "dict") => return Some(Global::Dictionary),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
            return Some(Global::RebuildTensor { kind_at: None });
        }
        ("torch._utils", "_rebuild_tensor_v3") => {
            return Some(Global::RebuildTensor { kind_at: Some(6) });
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            return Some(Global::RebuildParameter);
        }
        ("torch._tensor", "_rebuild_from_type_v2") => return Some(Global::RebuildFromType),
        ("torch" | "torch.storage", "UntypedStorage") => return Some(Global::Numbers(None)),
        ("torch" | "torch.storage" | "torch.cuda", name) if kind(name).is_some() => {
            return Some(Global::Numbers(kind(name)));
        }
        ("torch" | "torch.storage" | "torch.cuda", name) => matches!(
            name,
            "Tensor" | "Size" | "device" | "dtype" | "strided" | "FloatTensor" | "TypedStorage"
        ),
        (
            "torch._utils",
            "_rebuild_sparse_tensor"
            | "_rebuild_qtensor"
            | "_rebuild_meta_tensor_no_storage"
            | "_rebuild_nested_tensor",
        )
        | ("torch.nn.parameter", "Parameter" | "Buffer")
        | ("torch.serialization", "_get_layout")
        | (
            "builtins" | "__builtin__",
            "set" | "frozenset" | "list" | "tuple" | "int" | "float" | "complex" | "bool" | "str"
            | "bytes" | "bytearray" | "slice",
        )
        | ("numpy", "dtype" | "ndarray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("_codecs", "encode")
        | ("argparse", "Namespace")
        | ("pathlib", "PosixPath" | "WindowsPath" | "Path")
        | ("typing", "Any" | "Dict" | "List" | "Optional" | "Tuple" | "Union")
        | ("omegaconf.dictconfig", "DictConfig")
        | ("omegaconf.listconfig", "ListConfig")
        | ("omegaconf.base", "ContainerMetadata" | "Metadata")
        | (
            "omegaconf.nodes",
            "AnyNode" | "BooleanNode" | "BytesNode" | "FloatNode" | "IntegerNode" | "PathNode"
            | "StringNode",
        ) => true,
        (module, "AttributeDict") => matches!(
            module,
            "pytorch_lightning.utilities.parsing"
                | "lightning.fabric.utilities.data"
                | "lightning_fabric.utilities.data"
        ),
        (module, name) => {
            let of_callbacks = ["pytorch_lightning.callbacks", "lightning.pytorch.callbacks"]
                .iter()
                .find_map(|package| module.strip_prefix(package));
            of_callbacks.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                && CALLBACKS.contains(&name)
        }
    };
    is_data.then_some(Global::Data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_may_be_imported() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "HalfStorage"),
            ("torch", "bfloat16"),
            ("collections", "OrderedDict"),
            ("numpy.core.multiarray", "scalar"),
            ("typing", "Any"),
            ("omegaconf.dictconfig", "DictConfig"),
            (
                "pytorch_lightning.callbacks.model_checkpoint",
                "ModelCheckpoint",
            ),
            (
                "lightning.pytorch.callbacks.early_stopping",
                "EarlyStopping",
            ),
        ] {
            assert!(global(module, name).is_some(), "{module}.{name}");
        }
        for (module, name) in [
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("torch", "os.Storage"),
            ("torch._utils", "_rebuild_anything"),
            ("torch.storage", "_load_from_bytes"),
            ("numpy", "load"),
            ("lightningx", "run"),
            ("subprocess", "Popen"),
            ("torch.utils.data", "DataLoader"),
            // Through names that a harmless module has imported.
            ("typing", "operator.attrgetter"),
            ("typing", "sys.modules"),
            ("typing", "sys"),
            ("omegaconf.base", "sys.modules"),
            ("pytorch_lightning", "os.system"),
            ("pytorch_lightning.callbacks.model_checkpoint", "os.system"),
            ("pytorch_lightning.callbacks.model_checkpoint", "torch.load"),
            ("pytorch_lightning.callbacksx", "ModelCheckpoint"),
            ("lightning.fabric.utilities.cloud_io", "_load"),
        ] {
            assert_eq!(global(module, name), None, "{module}.{name}");
        }
    }
}
