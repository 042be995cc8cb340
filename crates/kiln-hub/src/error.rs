//! Errors between this machine and the Hub.

use std::io;
use std::path::PathBuf;

use kiln_checkpoint::CheckpointError;
use kiln_data::TooSlow;

/// Why a repository could not be pulled or pushed. Each message is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// An invalid name of a repository.
    #[error(
        "`{0}` is not the name of a repository on the Hub; write ORG/REPO, or ORG/REPO@REVISION for a branch, tag or commit"
    )]
    InvalidName(String),
    /// The Hub has no such repository, or hides it.
    #[error(
        "{endpoint} has no repository {repository} that {who} may see; check the spelling, and if it is private set HF_TOKEN to a token that may read it"
    )]
    MissingRepository {
        /// `ORG/REPO`.
        repository: String,
        /// The Hub's address.
        endpoint: String,
        /// "your token", or "the public".
        who: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "{repository} has no revision `{revision}`; give a branch, a tag or a full commit hash of it after the @"
    )]
    MissingRevision {
        /// `ORG/REPO`.
        repository: String,
        /// The request.
        revision: String,
    },
    /// The repository lists a file that the server does not have.
    #[error(
        "{endpoint} does not have {file} of {repository}, though it lists it; try again later or use another HF_ENDPOINT"
    )]
    MissingFile {
        /// `ORG/REPO`.
        repository: String,
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The server does not know the token.
    #[error(
        "{0} does not accept the token; make a new one at {0}/settings/tokens and set HF_TOKEN, or unset it to use public repositories"
    )]
    BadToken(String),
    /// The server knows the user, and refuses access.
    #[error(
        "{endpoint} refuses access to {repository}{reason}; request access at {endpoint}/{repository}, then set HF_TOKEN to a token with access"
    )]
    Forbidden {
        /// `ORG/REPO`.
        repository: String,
        /// The Hub's address.
        endpoint: String,
        /// The server's message in parentheses, or nothing.
        reason: String,
    },
    /// No connection, or no answer in time.
    #[error(
        "cannot reach {endpoint} ({problem}); check the network and HF_ENDPOINT, or pass --offline for what is in the cache"
    )]
    Unreachable {
        /// The Hub's address.
        endpoint: String,
        /// What the system says.
        problem: String,
    },
    /// The server is not a Hub.
    #[error(
        "{endpoint} does not answer as a Hugging Face Hub ({problem}); set HF_ENDPOINT to one that does, or log in to the network"
    )]
    NotAHub {
        /// The address.
        endpoint: String,
        /// The problem with the answer.
        problem: String,
    },
    /// The server sent something else instead of a file, such as an HTML page.
    #[error(
        "{endpoint} sent something else instead of {file}, such as a login page; log in to the network or set another HF_ENDPOINT, then run this again"
    )]
    NotTheFile {
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The server offers a file with another size than in the list of files.
    #[error(
        "{endpoint} offers {file} with {announced} bytes, but lists it with {size}; try again later, or set another HF_ENDPOINT"
    )]
    WrongSize {
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
        /// The size that it offers, in bytes.
        announced: u64,
        /// The size in its list of files.
        size: u64,
    },
    /// The server sent a Git LFS pointer instead of the file.
    #[error(
        "{endpoint} sent the Git LFS pointer of {file} instead of the file, so it is not a full mirror; set another HF_ENDPOINT"
    )]
    Pointer {
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// HTTP status 429.
    #[error(
        "{0} asks for fewer requests (HTTP status 429); wait some minutes and run this again, with HF_TOKEN set if it is not"
    )]
    TooManyRequests(String),
    /// HTTP status 5xx.
    #[error(
        "{endpoint} has a problem (HTTP status {status}); run this again later; the received part is kept"
    )]
    OutOfOrder {
        /// The Hub's address.
        endpoint: String,
        /// The HTTP status.
        status: u16,
    },
    /// Another HTTP error status.
    #[error(
        "{endpoint} refused {what} (HTTP status {status}{reason}); check the repository's name and the token's permissions"
    )]
    Refused {
        /// The Hub's address.
        endpoint: String,
        /// The request.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The server's message after a colon, or nothing.
        reason: String,
    },
    /// The transfer stopped midway, and new attempts brought no further bytes.
    #[error(
        "the transfer of {file} stopped after {received} of {size} bytes, which are kept; run this again for the rest"
    )]
    CutShort {
        /// The file.
        file: String,
        /// How many bytes there are.
        received: u64,
        /// How many there should be.
        size: u64,
    },
    /// The server sends so slowly that the file would hardly ever be complete.
    #[error(
        "{endpoint} sends {file} too slowly, {slow}; {received} of {size} bytes are kept: run this again for the rest, or set another HF_ENDPOINT"
    )]
    TooSlow {
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
        /// How slowly.
        slow: TooSlow,
        /// How many bytes there are.
        received: u64,
        /// How many there should be.
        size: u64,
    },
    /// The file is complete but wrong.
    #[error(
        "{file} has a wrong checksum and was deleted; run this again, and if the problem persists set another HF_ENDPOINT"
    )]
    WrongChecksum {
        /// The file.
        file: String,
    },
    /// The server gives no checksum for the file.
    #[error(
        "{endpoint} names no checksum for {file}, so a download could not be verified; set another HF_ENDPOINT"
    )]
    NoChecksum {
        /// The file.
        file: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// Offline, and a file in the cache has changed since its download.
    #[error(
        "{path} in the cache is damaged: its content does not have its checksum; run `kiln pull {repository}` with a network, which fetches it again",
        path = path.display()
    )]
    DamagedCache {
        /// The repository, with its revision.
        repository: String,
        /// The file.
        path: PathBuf,
    },
    /// Offline, and the cache does not have all files.
    #[error(
        "the cache {cache} does not have {missing} of {repository}; run `kiln pull {repository}` while online, without --offline and HF_HUB_OFFLINE",
        cache = cache.display()
    )]
    NotCached {
        /// The repository, with its revision.
        repository: String,
        /// What is missing.
        missing: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// Offline, and the cache does not have all files of a data set.
    #[error(
        "the cache {cache} does not have {missing} of {repository}; run this again while online, without --offline and HF_HUB_OFFLINE",
        cache = cache.display()
    )]
    DataSetNotCached {
        /// The repository, with its revision.
        repository: String,
        /// What is missing.
        missing: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// Several parts of a data set match.
    #[error("{repository} has several {what}, {}; name one, as in --data {example}", found.join(", "))]
    SeveralParts {
        /// The repository, with its revision.
        repository: String,
        /// The kind of part.
        what: &'static str,
        /// Their names.
        found: Vec<String>,
        /// A path that names the first.
        example: String,
    },
    /// The server sends only whole files.
    #[error(
        "{endpoint} does not send parts of files ({problem}), which data.stream = true needs to see what {repository} holds; set another HF_ENDPOINT, or leave data.stream out to fetch all of it first"
    )]
    NoRanges {
        /// The repository, with its revision.
        repository: String,
        /// The Hub's address.
        endpoint: String,
        /// What it sends instead.
        problem: String,
    },
    /// The room for files that come while a training goes on does not hold one of them.
    #[error(
        "{file} of {repository} has {size:.3} GiB, and data.cache = {cache} GiB is all that is kept of it; give at least --set data.cache={enough:.3}"
    )]
    SmallCache {
        /// The repository, with its revision.
        repository: String,
        /// The largest file.
        file: String,
        /// Its size in GiB.
        size: f64,
        /// What may be kept, in GiB.
        cache: f64,
        /// What would do, in GiB.
        enough: f64,
    },
    /// The files have no room on the disk.
    #[error(
        "{repository} needs {needed} more in the cache {cache}, whose disk has {free} left; free some space there, {otherwise}",
        cache = cache.display()
    )]
    NoRoom {
        /// The repository, with its revision.
        repository: String,
        /// What has to be fetched, with its unit.
        needed: String,
        /// What the disk has, with its unit.
        free: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What else would do.
        otherwise: &'static str,
    },
    /// A file that a training is at does not come.
    #[error("{file} of {repository} does not come, which is needed now: {problem}")]
    NotComing {
        /// The repository, with its revision.
        repository: String,
        /// The file.
        file: String,
        /// Why, after all attempts.
        problem: Box<TransportError>,
    },
    /// The repository contains something else.
    #[error(
        "{repository} holds no model in the diffusers layout: it has neither model_index.json nor config.json; choose another repository"
    )]
    NotAModel {
        /// The repository, with its revision.
        repository: String,
    },
    /// The repository lacks a part of the model.
    #[error("{repository} lacks {missing}; choose another repository or revision")]
    Incomplete {
        /// The repository, with its revision.
        repository: String,
        /// What it lacks.
        missing: String,
    },
    /// A file of the repository is invalid.
    #[error(
        "{file} of {repository} is damaged ({problem}); choose another revision or tell the repository's owner"
    )]
    Damaged {
        /// The repository, with its revision.
        repository: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights in a form that can hold programs.
    #[error(
        "{0} is a pickle, which kiln does not upload; save the model as safetensors (in Python by `save_pretrained`), then push that"
    )]
    Pickle(String),
    /// A push needs a network.
    #[error("nothing can be pushed offline; leave --offline out and unset HF_HUB_OFFLINE")]
    Offline,
    /// A push needs a token.
    #[error(
        "to push needs a token; make one with write access at {0}/settings/tokens and set HF_TOKEN, or run `hf auth login`"
    )]
    TokenNeeded(String),
    /// The server knows the user, and refuses the push.
    #[error(
        "{endpoint} does not let this token write to {repository}{reason}; set HF_TOKEN to a token with write access, or push under your own name"
    )]
    MayNotWrite {
        /// `ORG/REPO`.
        repository: String,
        /// The Hub's address.
        endpoint: String,
        /// The server's message in parentheses, or nothing.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error(
        "cannot use the cache at {path}: {problem}; free some space there, or set HF_HUB_CACHE to another folder",
        path = path.display()
    )]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] kiln_data::DataError),
    /// The model's kind is not supported, or its parts do not fit together.
    #[error(transparent)]
    Model(#[from] CheckpointError),
}
