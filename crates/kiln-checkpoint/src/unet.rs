//! A U-Net in its folder: options and weights.

use burn::tensor::Device;
use kiln_models::{UNet2d, UNet2dConfig, WeightsType};

use crate::folder::NewFolder;
use crate::layout::{CONFIG, WEIGHTS};
use crate::weights::load_weights;
use crate::{CheckpointError, Metadata, ModelSource};

/// Reads the U-Net in `folder`, which ends with a slash or is empty.
pub(crate) fn load_unet(
    source: &ModelSource,
    folder: &str,
    device: &Device,
) -> Result<(UNet2d, Metadata), CheckpointError> {
    let config = format!("{folder}{CONFIG}");
    let file = source.name(&config);
    let unet = UNet2dConfig::from_json(&source.text(&config)?)
        .and_then(|config| config.init(device, 0))
        .map_err(|problem| CheckpointError::Config { file, problem })?;
    let (unet, metadata) = load_weights(source, folder, unet)?;
    if let Some(rows) = unet.config().num_class_embeds {
        metadata.check_classes(rows, &source.name(&format!("{folder}{WEIGHTS}")))?;
    }
    Ok((unet, metadata))
}

/// Writes a U-Net to `folder`, which ends with a slash.
pub(crate) fn write_unet(
    files: &NewFolder,
    folder: &str,
    unet: &UNet2d,
    weights_type: WeightsType,
    metadata: &Metadata,
) -> Result<(), CheckpointError> {
    files.write(&format!("{folder}{CONFIG}"), &unet.config().to_json())?;
    files.write_weights(&format!("{folder}{WEIGHTS}"), unet, weights_type, metadata)
}
