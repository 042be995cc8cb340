//! Fetches the files of a data set on the Hub: each once at a time, whichever thread asks, and the next ones ahead.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use kiln_data::NoProgress;

use crate::ahead::Needs;
use crate::cache::{Cache, cache_error};
use crate::checksum::Checksum;
use crate::client::{Into, Listed, Remote};
use crate::name::Kind;
use crate::shelf::{Shelf, Turn};
use crate::{HubSettings, RepositoryName, TransportError};

/// The pause before asking again whether other fetches have left room.
const ROOM: Duration = Duration::from_millis(50);

/// The files of one data set, at one commit.
pub(crate) struct Fetching {
    pub(crate) settings: HubSettings,
    pub(crate) name: RepositoryName,
    pub(crate) commit: String,
    /// The HTTP client, which keeps its connections.
    pub(crate) agent: ureq::Agent,
    /// What was pulled.
    pub(crate) cache: Cache,
    /// What came by streaming.
    pub(crate) shelf: Shelf,
    pub(crate) files: Vec<(String, Listed)>,
    pub(crate) checksums: Vec<OnceLock<Checksum>>,
    pub(crate) state: Mutex<State>,
    /// Something in the state changed.
    pub(crate) changed: Condvar,
}

/// What is known about them.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) needs: Needs,
    /// Files that are being fetched, or looked at.
    pub(crate) busy: BTreeSet<usize>,
    /// Files whose content was right when this program first used it.
    pub(crate) checked: BTreeSet<usize>,
    /// Whether the last file did not come, after all attempts. The next one is then tried once.
    pub(crate) gave_up: bool,
    /// Whether no file is needed any more.
    pub(crate) closed: bool,
}

impl Fetching {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn file(&self, file: usize) -> Result<&(String, Listed), TransportError> {
        let missing = || TransportError::Incomplete {
            repository: self.name.to_string(),
            missing: format!("file {file}"),
        };
        self.files.get(file).ok_or_else(missing)
    }

    /// A file that was here a moment ago.
    pub(crate) fn gone(&self, file: &str) -> TransportError {
        cache_error(Path::new(file))(ErrorKind::NotFound.into())
    }

    pub(crate) fn remote(&self) -> Remote<'_> {
        Remote {
            kind: Kind::DataSet,
            settings: &self.settings,
            name: &self.name,
            agent: self.agent.clone(),
        }
    }

    /// Fetches what is needed next, until nothing is needed any more.
    pub(crate) fn fetch_ahead(&self) {
        loop {
            let file = {
                let mut state = self.state();
                loop {
                    if state.closed {
                        return;
                    }
                    let here = |file| state.busy.contains(&file) || self.is_here(file, &state);
                    match state.needs.next(here) {
                        Some(file) => break file,
                        None => {
                            let waited = self.changed.wait(state);
                            state = waited.unwrap_or_else(PoisonError::into_inner);
                        }
                    }
                }
            };
            match self.get(file, true) {
                Ok(Some(_)) => {}
                Ok(None) => self.state().needs.leave(file),
                Err(problem) => {
                    // It is tried again, and the problem told, when a training is at it.
                    tracing::debug!("not ahead: {problem}");
                    self.state().needs.leave(file);
                }
            }
        }
    }

    /// Whether a file is here and right.
    fn is_here(&self, file: usize, state: &State) -> bool {
        state.checked.contains(&file)
            && (self.checksums[file].get()).is_some_and(|checksum| {
                self.on_shelf(file, checksum).is_some() || self.in_cache(file).is_some()
            })
    }

    fn on_shelf(&self, file: usize, checksum: &Checksum) -> Option<File> {
        self.shelf.open(checksum, self.files[file].1.size)
    }

    /// A file that was pulled.
    fn in_cache(&self, file: usize) -> Option<File> {
        let (name, listed) = &self.files[file];
        let opened = File::open(self.cache.snapshot(&self.commit).join(name)).ok()?;
        let found = opened.metadata().ok()?;
        (found.is_file() && found.len() == listed.size).then_some(opened)
    }

    /// Opens a file, and fetches it if it is not here. `None` if there is no room for it `ahead` of others.
    pub(crate) fn get(&self, file: usize, ahead: bool) -> Result<Option<File>, TransportError> {
        let mut state = self.state();
        while state.busy.contains(&file) {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.busy.insert(file);
        drop(state);
        let got = self.get_alone(file, ahead);
        let mut state = self.state();
        state.busy.remove(&file);
        if let Ok(Some(_)) = &got {
            state.checked.insert(file);
        }
        drop(state);
        self.changed.notify_all();
        got
    }

    /// The same, while no other thread is at this file.
    fn get_alone(&self, file: usize, ahead: bool) -> Result<Option<File>, TransportError> {
        let (name, listed) = &self.files[file];
        let remote = self.remote();
        let url = remote.address(&self.commit, name);
        let checksum = match (self.checksums[file].get(), &listed.checksum) {
            (Some(known), _) | (None, Some(known)) => known.clone(),
            (None, None) => remote.checksum(&url, name, listed)?,
        };
        let checksum = self.checksums[file].get_or_init(|| checksum);
        if let Some(here) = self.sound(file, checksum)? {
            return Ok(Some(here));
        }
        let turn = self.shelf.turn(checksum, listed.size);
        let turn = turn.map_err(cache_error(&self.settings.cache))?;
        // Another program may have fetched it.
        if let Some(here) = self.sound(file, checksum)? {
            return Ok(Some(here));
        }
        if !self.make_room(&turn, file, ahead)? {
            return Ok(None);
        }
        let partial = turn.partial();
        let into = Into {
            partial: &partial,
            checksum,
        };
        loop {
            match remote.transfer(&url, name, listed, into, &NoProgress) {
                Ok(()) => break,
                Err(TransportError::Cache { problem, .. }) if is_full(&problem) => {
                    // The disk has less room than was thought. What came may stay while there is something else to give up.
                    let gave_up = !ahead && turn.take_away(&|digits| self.need(digits));
                    if !gave_up {
                        let _ = fs::remove_file(&partial);
                        return Err(cache_error(&partial)(problem));
                    }
                }
                Err(problem) => {
                    // What came stays for the next attempt; nothing at all needs no room.
                    if fs::metadata(&partial).is_ok_and(|found| found.len() == 0) {
                        let _ = fs::remove_file(&partial);
                    }
                    return Err(problem);
                }
            }
        }
        turn.finish().map(Some).map_err(cache_error(&partial))
    }

    /// Opens a file that is here, if its content is right.
    fn sound(&self, file: usize, checksum: &Checksum) -> Result<Option<File>, TransportError> {
        let is_checked = self.state().checked.contains(&file);
        if let Some(here) = self.on_shelf(file, checksum) {
            match is_checked
                || self
                    .shelf
                    .check(checksum)
                    .map_err(cache_error(&self.settings.cache))?
            {
                true => return Ok(Some(here)),
                false => tracing::warn!(
                    "{} of {} in the cache was damaged, so it is fetched again",
                    self.files[file].0,
                    self.name
                ),
            }
        }
        let path = self.cache.snapshot(&self.commit).join(&self.files[file].0);
        let pulled = self.in_cache(file);
        Ok(pulled.filter(|_| is_checked || checksum.matches(&path).unwrap_or(false)))
    }

    /// Makes room for a file. Ahead of others only what is needed later goes; a file that is needed now waits for the fetches
    /// that have taken its room.
    fn make_room(&self, turn: &Turn<'_>, file: usize, ahead: bool) -> Result<bool, TransportError> {
        let than = match ahead {
            // By now it may not be needed any more.
            true => Some(self.state().needs.of(file).unwrap_or(usize::MAX)),
            false => None,
        };
        loop {
            let made = turn.make_room(&|digits| self.need(digits), than);
            let made = made.map_err(cache_error(&self.settings.cache))?;
            if made || ahead {
                return Ok(made);
            }
            thread::sleep(ROOM);
        }
    }

    /// How soon the content with this checksum is needed.
    fn need(&self, digits: &str) -> Option<usize> {
        let known = |checksum: &OnceLock<Checksum>| {
            checksum.get().is_some_and(|known| known.digits() == digits)
        };
        let file = self.checksums.iter().position(known)?;
        self.state().needs.of(file)
    }

    /// Tries again, with a warning, what a moment may mend: after each of the pauses, times each factor of `patience`.
    pub(crate) fn persistently<T>(
        &self,
        file: &str,
        patience: &[u32],
        attempt: impl Fn() -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let pauses = &self.settings.pauses;
        let mut pauses = patience
            .iter()
            .flat_map(|factor| pauses.iter().map(|pause| *pause * *factor));
        loop {
            let problem = match attempt() {
                Err(problem) if may_pass(&problem) => problem,
                outcome => return outcome,
            };
            let Some(pause) = pauses.next() else {
                return Err(problem);
            };
            tracing::warn!(
                "{file} did not come and is asked for again in {} s: {problem}",
                pause.as_secs_f32()
            );
            thread::sleep(pause);
        }
    }
}

/// Whether a disk, or the part of it that a user has, is full.
fn is_full(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Whether the next attempt may succeed.
fn may_pass(problem: &TransportError) -> bool {
    match problem {
        TransportError::Unreachable { .. }
        | TransportError::MissingFile { .. }
        | TransportError::NotTheFile { .. }
        | TransportError::WrongSize { .. }
        | TransportError::TooManyRequests(_)
        | TransportError::OutOfOrder { .. }
        | TransportError::CutShort { .. }
        | TransportError::TooSlow { .. }
        | TransportError::WrongChecksum { .. } => true,
        // Another program took it away.
        TransportError::Cache { problem, .. } => problem.kind() == ErrorKind::NotFound,
        _ => false,
    }
}
