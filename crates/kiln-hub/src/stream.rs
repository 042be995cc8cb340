//! The files of a data set on the Hub while a training goes on: each is fetched ahead of its turn.
//!
//! A training that comes to a file waits until it is here. What the network does decides only how long that takes: a file that
//! does not come is asked for again, with a warning each time, and in the end the training stops, to be resumed later.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, Once, OnceLock};
use std::thread;

use kiln_data::{
    DataConfig, FileSource, HUB_SCHEME, Progress, RemoteTable, RemoteTables, SourceError,
    transfer_agent,
};

use crate::cache::Cache;
use crate::client::Remote;
use crate::fetching::Fetching;
use crate::name::Kind;
use crate::parts::Parts;
use crate::room::{self, GIB};
use crate::shelf::Shelf;
use crate::{HubSettings, RepositoryName, TransportError};

/// How many GiB of files are kept, unless the config says otherwise.
const CACHE: f64 = 16.0;
/// The pauses of the settings are made once, and again with each of these factors: a training can wait for some minutes.
const MORE_PATIENCE: [u32; 3] = [1, 4, 16];

/// The tables of the data set `name`, or those of a `part` of it, at the commit that its revision has now.
pub(crate) fn tables(
    name: &RepositoryName,
    part: Option<&str>,
    config: &DataConfig,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<RemoteTables, TransportError> {
    let remote = Remote::new(settings, Kind::DataSet, name)?;
    let commit = remote.commit(progress)?;
    let mut listing = remote.files(&commit, progress)?;
    let parts = Parts::of(&mut listing.keys(), part, name)?;
    parts.say_what_is_held_out(name);
    let mut files = Vec::new();
    let mut tables = |parts: &[String]| -> Vec<RemoteTable> {
        let listed = parts.iter().filter_map(|file| listing.remove_entry(file));
        let tables = listed.map(|(file, listed)| {
            let table = RemoteTable {
                path: format!("{HUB_SCHEME}{name}/{file}").into(),
                length: listed.size,
            };
            files.push((file, listed));
            table
        });
        tables.collect()
    };
    let (train, validation) = (tables(&parts.train), tables(&parts.validation));
    tracing::info!("streaming {name} from its commit {commit}");
    let cache = bound(config, settings);
    let bytes = (cache * GIB) as u64;
    if let Some((file, largest)) = files.iter().max_by_key(|(_, listed)| listed.size)
        && largest.size > bytes
    {
        let size = largest.size as f64 / GIB;
        return Err(TransportError::SmallCache {
            repository: name.to_string(),
            file: file.clone(),
            size,
            cache,
            enough: (size * 1000.0).ceil() / 1000.0,
        });
    }
    let source = Fetching {
        settings: settings.clone(),
        name: name.clone(),
        commit,
        agent: transfer_agent(settings.patience),
        cache: Cache::new(&settings.cache, Kind::DataSet, name),
        shelf: Shelf::new(&settings.cache, bytes),
        checksums: files.iter().map(|_| OnceLock::new()).collect(),
        files,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    Ok(RemoteTables {
        name: name.id(),
        train,
        validation,
        source: Arc::new(Stream {
            fetching: Arc::new(source),
            worker: Once::new(),
        }),
    })
}

/// How many GiB of files may be kept.
fn bound(config: &DataConfig, settings: &HubSettings) -> f64 {
    config.cache.unwrap_or_else(|| {
        let taken = Shelf::new(&settings.cache, 0).taken();
        let free = room::free(&settings.cache);
        let half = |free: u64| free.saturating_add(taken) as f64 / 2.0 / GIB;
        free.map_or(CACHE, |free| half(free).min(CACHE))
    })
}

/// The files of one data set, and a thread that fetches them ahead.
struct Stream {
    fetching: Arc<Fetching>,
    worker: Once,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.fetching.state().closed = true;
        self.fetching.changed.notify_all();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the settings, which hold the token.
        let Fetching { name, commit, .. } = &*self.fetching;
        write!(formatter, "Stream({name}, {commit})")
    }
}

impl FileSource for Stream {
    fn read(&self, file: usize, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let fetching = &self.fetching;
        let (name, listed) = fetching.file(file)?;
        let read = || {
            let remote = fetching.remote();
            remote.range(&fetching.commit, name, listed.size, range.clone())
        };
        Ok(fetching.persistently(name, &[1], read)?)
    }

    fn open(&self, file: usize) -> Result<File, SourceError> {
        let fetching = &self.fetching;
        let (name, _) = fetching.file(file)?;
        let patience: &[u32] = {
            let mut state = fetching.state();
            state.needs.open(file, fetching.files.len());
            match state.gave_up {
                true => &[],
                false => &MORE_PATIENCE,
            }
        };
        self.start();
        fetching.changed.notify_all();
        let opened = fetching.persistently(name, patience, || fetching.get(file, false));
        fetching.state().gave_up = opened.is_err();
        fetching.changed.notify_all();
        let opened = opened.and_then(|opened| opened.ok_or_else(|| fetching.gone(name)));
        Ok(opened.map_err(|problem| TransportError::NotComing {
            repository: fetching.name.to_string(),
            file: name.clone(),
            problem: Box::new(problem),
        })?)
    }

    fn expect(&self, files: &[usize]) {
        let known = files.iter().copied();
        let known = known.filter(|file| *file < self.fetching.files.len());
        self.fetching.state().needs.expect(known);
        self.start();
        self.fetching.changed.notify_all();
    }
}

impl Stream {
    /// Starts the thread. Without it each file would come when it is needed.
    fn start(&self) {
        self.worker.call_once(|| {
            let fetching = self.fetching.clone();
            let worker = thread::Builder::new().name("kiln-fetch".to_owned());
            let started = worker.spawn(move || fetching.fetch_ahead());
            if let Err(problem) = started {
                tracing::warn!("files are not fetched ahead, which takes longer: {problem}");
            }
        });
    }
}
