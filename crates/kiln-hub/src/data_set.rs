//! Data sets on the Hub.

use kiln_data::{
    DataConfig, Datasets, HUB_SCHEME, Progress, Tables, open_remote_tables, open_tables,
};

use crate::name::Kind;
use crate::parts::Parts;
use crate::pull::fetch;
use crate::stream;
use crate::{HubSettings, RepositoryName, TransportError};

/// Opens the data set that `config` names: on this machine as [`kiln_data::open`] does, or on the Hub if its path is
/// `hf:ORG/DATASET`, with `@REVISION` for a branch, tag or commit. `:CONFIGURATION` after it names one of several, and
/// `:SPLIT` or `:CONFIGURATION/SPLIT` a single split, a share of which is then held out.
///
/// It reads data sets that are stored in Parquet, one configuration at a time. The files go to the cache, like those of
/// models: see [`pull`](crate::pull). A data set without a training split uses its only split.
///
/// With [`DataConfig::stream`] only what says how many images there are, and their classes, is fetched before the training.
/// Each file comes ahead of its turn, is checked as [`pull`](crate::pull) does, and goes away again when there are more than
/// [`DataConfig::cache`] GiB of them. The images, their order and the fingerprint are those of the same files read from disk.
/// All come from the commit that the revision has now. Offline, all files must be in the cache.
///
/// # Errors
/// Those of [`pull`](crate::pull) and [`kiln_data::open`]; [`TransportError::SeveralParts`] if the path must name a
/// part; for a data set that is streamed [`TransportError::NoRanges`] and [`TransportError::SmallCache`]. If a file cannot be
/// fetched later, reading an image is a [`kiln_data::DataError::Source`].
pub fn open_data_set(
    config: &DataConfig,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Datasets, TransportError> {
    let path = config.path.as_deref().and_then(|path| path.to_str());
    let Some(place) = path.and_then(|path| path.strip_prefix(HUB_SCHEME)) else {
        return Ok(kiln_data::open(config, progress)?);
    };
    let (name, part) = match place.split_once(':') {
        Some((name, part)) => (name, Some(part)),
        None => (place, None),
    };
    let name: RepositoryName = name.parse()?;
    if config.stream == Some(true) && !settings.offline {
        config.validate()?;
        match stream::tables(&name, part, config, settings, progress) {
            Ok(tables) => return Ok(open_remote_tables(&tables, config, progress)?),
            Err(error @ TransportError::Unreachable { .. }) => {
                // As for a pull: what is in the cache will do.
                let offline = HubSettings {
                    offline: true,
                    ..settings.clone()
                };
                let cached = pulled(&name, part, config, &offline, progress);
                return match cached {
                    Err(TransportError::DataSetNotCached { .. }) => Err(error),
                    cached => cached,
                };
            }
            Err(error) => return Err(error),
        }
    }
    pulled(&name, part, config, settings, progress)
}

/// Opens a data set after all its files have come.
fn pulled(
    name: &RepositoryName,
    part: Option<&str>,
    config: &DataConfig,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Datasets, TransportError> {
    let parts = |files: &mut dyn Iterator<Item = &String>| Parts::of(files, part, name);
    let pulled = fetch(
        name,
        Kind::DataSet,
        &|selection| {
            let parts = parts(&mut selection.files.iter())?;
            Ok([parts.train, parts.validation].concat())
        },
        &|_, _| Ok(()),
        settings,
        progress,
    );
    let pulled = pulled.map_err(|error| match error {
        // The advice for a model, `kiln pull`, does not work for data sets.
        TransportError::NotCached {
            repository,
            missing,
            cache,
        } => TransportError::DataSetNotCached {
            repository,
            missing,
            cache,
        },
        other => other,
    })?;
    let parts = parts(&mut pulled.files.iter())?;
    parts.say_what_is_held_out(name);
    let here = |files: Vec<String>| files.iter().map(|file| pulled.folder.join(file)).collect();
    let tables = Tables {
        name: name.id(),
        train: here(parts.train),
        validation: here(parts.validation),
    };
    Ok(open_tables(&tables, config, progress)?)
}
