//! From a folder to the Hub.

use std::fs;
use std::io;
use std::path::Path;

use kiln_checkpoint::CheckpointError;
use kiln_data::Progress;
use serde_json::{Value, json};
use ureq::http::StatusCode;

use crate::api::encoded_part;
use crate::client::Remote;
use crate::name::Kind;
use crate::upload::{JSON, Upload};
use crate::{HubSettings, RepositoryName, TransportError};

/// A commit on the Hub.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The repository's page.
    pub url: String,
    /// The commit's hash.
    pub commit: String,
    /// The files that it added or replaced, with `/` between folders.
    pub files: Vec<String>,
}

/// Uploads all files of `folder`, in the form that [`publish`](crate::publish) writes, to `name` in one commit on its
/// revision, which must be a branch. Makes the repository and the branch if they do not exist.
///
/// Large files use the Git LFS batch API, which other servers have, too, and are sent only if the server does not have
/// them yet: another push sends only the changes.
///
/// # Errors
/// The message says what the server refused or what failed, and what to do. Nothing appears in the repository before
/// the commit, which is the last step.
pub fn push(
    folder: &Path,
    name: &RepositoryName,
    is_private: bool,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Pushed, TransportError> {
    if settings.offline {
        return Err(TransportError::Offline);
    }
    if settings.token.is_none() {
        return Err(TransportError::TokenNeeded(settings.endpoint.clone()));
    }
    let files = files_in(folder)?.into_iter();
    let files = files.map(|name| Upload::new(folder.join(&name), name));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let remote = Remote::new(settings, Kind::Model, name)?;
    let pushed = || {
        remote.create(is_private)?;
        remote.commit_files(
            name.revision(),
            "Upload a model trained with kiln",
            &files,
            progress,
        )
    };
    let commit = pushed().map_err(|error| match error {
        TransportError::Forbidden {
            repository,
            endpoint,
            reason,
        } => TransportError::MayNotWrite {
            repository,
            endpoint,
            reason,
        },
        other => other,
    })?;
    Ok(Pushed {
        url: format!("{}/{}", settings.endpoint, name.id()),
        commit,
        files: files.into_iter().map(|file| file.name).collect(),
    })
}

impl Remote<'_> {
    /// Makes the repository, and the branch if it is not the main one, unless they exist.
    fn create(&self, is_private: bool) -> Result<(), TransportError> {
        let wish = json!({
            "name": self.name.name(),
            "organization": self.name.owner(),
            "type": "model",
            "private": is_private,
        });
        let url = format!("{}/api/repos/create", self.settings.endpoint);
        self.make(&url, &wish)?;
        match self.name.revision() {
            "main" => Ok(()),
            branch => {
                let url = self.api_url(&format!("branch/{}", encoded_part(branch)));
                self.make(&url, &json!({}))
            }
        }
    }

    /// Asks the server to make something that may already exist.
    fn make(&self, url: &str, wish: &Value) -> Result<(), TransportError> {
        let answer = self.send(url, JSON, &wish.to_string())?;
        match answer.status {
            StatusCode::CONFLICT => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(&answer)),
        }
    }
}

/// The names of the files that [`push`] would upload from `folder`, in order: all except hidden ones.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_in(folder: &Path) -> Result<Vec<String>, TransportError> {
    let mut files = Vec::new();
    collect(folder, "", &mut files).map_err(|problem| CheckpointError::Read {
        file: folder.display().to_string(),
        problem,
    })?;
    files.sort();
    Ok(files)
}

/// Adds the files in `folder`, whose own name is `prefix`.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with('.') => {}
            Some(name) if path.is_dir() => collect(&path, &format!("{prefix}{name}/"), files)?,
            Some(name) => files.push(format!("{prefix}{name}")),
            None => {}
        }
    }
    Ok(())
}
