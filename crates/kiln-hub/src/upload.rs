//! Uploads files to the Hub, with the Git LFS batch API and a commit, like `git push` but without a clone.
//!
//! - Git LFS batch API: <https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>, with the transfers `basic` (one
//!   PUT) and the Hub's `multipart` (several PUTs of `chunk_size` bytes, and a POST at the end).
//! - `preupload` and `commit` of the Hub's API, as in Python's `huggingface_hub`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_checkpoint::CheckpointError;
use kiln_data::{Pace, Progress, ProgressUnit, Task, Watch, sha256_of_file};
use serde_json::{Map, Value, json};
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Body, SendBody};

use crate::TransportError;
use crate::answer;
use crate::api::encoded_part;
use crate::client::{Remote, is_busy};

/// How many bytes the Hub examines to decide where to store a file.
const SAMPLE: u64 = 512;
pub(crate) const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const LFS: &str = "application/vnd.git-lfs+json";

/// A file to upload.
pub(crate) struct Upload {
    /// Its name in the repository.
    pub(crate) name: String,
    /// Its path on this machine.
    pub(crate) path: PathBuf,
    size: u64,
    sha256: String,
}

impl Upload {
    /// Computes size and checksum of the file at `path`.
    pub(crate) fn new(path: PathBuf, name: String) -> Result<Self, TransportError> {
        let measure = || Ok((path.metadata()?.len(), sha256_of_file(&path)?));
        let (size, sha256) = measure().map_err(read_error(&path))?;
        Ok(Self {
            name,
            path,
            size,
            sha256,
        })
    }

    fn sample(&self) -> io::Result<Vec<u8>> {
        let mut sample = Vec::new();
        File::open(&self.path)?
            .take(SAMPLE)
            .read_to_end(&mut sample)?;
        Ok(sample)
    }
}

impl Remote<'_> {
    /// Makes one commit on `branch` that adds or replaces `files`, and returns its hash.
    pub(crate) fn commit_files(
        &self,
        branch: &str,
        message: &str,
        files: &[Upload],
        progress: &dyn Progress,
    ) -> Result<String, TransportError> {
        let is_large = self.large_files(branch, files)?;
        let large: Vec<_> = files.iter().filter(|file| is_large(file)).collect();
        self.upload_large(branch, &large, progress)?;
        let mut lines =
            vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for file in files {
            lines.push(if is_large(file) {
                let value = json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.size});
                json!({"key": "lfsFile", "value": value})
            } else {
                let content = std::fs::read(&file.path).map_err(read_error(&file.path))?;
                let content = STANDARD.encode(content);
                json!({"key": "file", "value": {"path": file.name, "content": content, "encoding": "base64"}})
            });
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let answer = self.post(
            &self.api_url(&format!("commit/{}", encoded_part(branch))),
            LINES,
            &body,
        )?;
        let commit = answer::text(&answer, "commitOid").map_err(|wrong| self.wrong(&wrong))?;
        Ok(commit.to_owned())
    }

    /// Asks which files the Hub stores in Git LFS.
    fn large_files(
        &self,
        branch: &str,
        files: &[Upload],
    ) -> Result<impl Fn(&Upload) -> bool + use<>, TransportError> {
        let describe = |file: &Upload| {
            let sample = file.sample().map_err(read_error(&file.path))?;
            Ok(json!({"path": file.name, "size": file.size, "sample": STANDARD.encode(sample)}))
        };
        let described = files.iter().map(describe);
        let described = described.collect::<Result<Vec<_>, TransportError>>()?;
        let url = self.api_url(&format!("preupload/{}", encoded_part(branch)));
        let answer = self.post(&url, JSON, &json!({ "files": described }).to_string())?;
        let modes = answer::array(&answer, "files").map_err(|wrong| self.wrong(&wrong))?;
        let large: Vec<String> = modes
            .iter()
            .filter(|mode| mode["uploadMode"] == "lfs")
            .filter_map(|mode| Some(mode["path"].as_str()?.to_owned()))
            .collect();
        // Git LFS does not store empty files.
        Ok(move |file: &Upload| file.size > 0 && large.contains(&file.name))
    }

    /// Uploads contents to Git LFS, except those that it already has.
    fn upload_large(
        &self,
        branch: &str,
        files: &[&Upload],
        progress: &dyn Progress,
    ) -> Result<(), TransportError> {
        if files.is_empty() {
            return Ok(());
        }
        let by_content: BTreeMap<&str, &Upload> = files
            .iter()
            .map(|file| (file.sha256.as_str(), *file))
            .collect();
        let objects: Vec<Value> = by_content
            .values()
            .map(|file| json!({"oid": file.sha256, "size": file.size}))
            .collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": branch},
        });
        let url = format!(
            "{}/{}.git/info/lfs/objects/batch",
            self.settings.endpoint,
            self.id()
        );
        let answer = self.post(&url, LFS, &body.to_string())?;
        let answers = answer::array(&answer, "objects").map_err(|wrong| self.wrong(&wrong))?;
        for object in answers {
            let Some(file) = object["oid"].as_str().and_then(|oid| by_content.get(oid)) else {
                continue;
            };
            if let Some(message) = object["error"]["message"].as_str() {
                return Err(TransportError::Refused {
                    endpoint: self.settings.endpoint.clone(),
                    what: file.name.clone(),
                    status: u16::try_from(object["error"]["code"].as_u64().unwrap_or(400))
                        .unwrap_or(400),
                    reason: format!(": {message}"),
                });
            }
            // Without actions the Hub already has the content.
            if let Some(action) = object["actions"]["upload"].as_object() {
                self.upload_one(file, action, progress)?;
                if let Some(url) = object["actions"]["verify"]["href"].as_str() {
                    let body = json!({"oid": file.sha256, "size": file.size});
                    self.post(url, LFS, &body.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn upload_one(
        &self,
        file: &Upload,
        action: &Map<String, Value>,
        progress: &dyn Progress,
    ) -> Result<(), TransportError> {
        let name = format!("uploading {}", file.name);
        let _task = Task::begin(progress, &name, ProgressUnit::Bytes, Some(file.size));
        let invalid = || self.not_a_hub("it does not say where to upload");
        let url = action
            .get("href")
            .and_then(Value::as_str)
            .ok_or_else(invalid)?;
        let no_headers = Map::new();
        let headers = action
            .get("header")
            .and_then(Value::as_object)
            .unwrap_or(&no_headers);
        let chunk = headers.get("chunk_size");
        let chunk = chunk.and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok()));
        let Some(chunk) = chunk.filter(|chunk| *chunk > 0) else {
            let piece = Piece {
                file,
                start: 0,
                size: file.size,
            };
            return self.put(url, headers, piece, progress).map(|_| ());
        };
        let mut parts = Vec::new();
        for (index, start) in (0..file.size)
            .step_by(usize::try_from(chunk).map_err(|_| invalid())?)
            .enumerate()
        {
            let number = index + 1;
            // The keys of the parts' addresses are their numbers, some with leading zeros.
            let url = headers.iter().find(|(name, _)| name.parse() == Ok(number));
            let url = url.and_then(|(_, url)| url.as_str()).ok_or_else(invalid)?;
            let piece = Piece {
                file,
                start,
                size: chunk.min(file.size - start),
            };
            let answer = self.put(url, &no_headers, piece, progress)?;
            let tag = answer
                .headers()
                .get(header::ETAG)
                .and_then(|tag| tag.to_str().ok());
            parts.push(json!({"partNumber": number, "etag": tag.ok_or_else(invalid)?}));
        }
        let body = json!({"oid": file.sha256, "parts": parts});
        self.post(url, LFS, &body.to_string()).map(|_| ())
    }

    /// The error for a refused content: a status that is not about the repository is about the content.
    fn upload_error(&self, status: StatusCode, headers: &HeaderMap, file: &str) -> TransportError {
        match status.as_u16() {
            401 | 403 | 429 | 500.. => self.answer_error(status, headers, ""),
            status => TransportError::Refused {
                endpoint: self.settings.endpoint.clone(),
                what: file.to_owned(),
                status,
                reason: String::new(),
            },
        }
    }

    /// Sends a piece of a file, again after each pause while the server is busy.
    fn put(
        &self,
        url: &str,
        headers: &Map<String, Value>,
        piece: Piece<'_>,
        progress: &dyn Progress,
    ) -> Result<Response<Body>, TransportError> {
        let mut pauses = self.settings.pauses.iter();
        loop {
            let mut request = self
                .agent
                .put(url)
                .header(header::CONTENT_LENGTH, piece.size);
            for (name, value) in headers {
                if let Some(value) = value.as_str() {
                    request = request.header(name, value);
                }
            }
            let mut reader = piece
                .open(self.settings.pace, progress)
                .map_err(read_error(&piece.file.path))?;
            let answer = request.send(SendBody::from_reader(&mut reader));
            let answer = answer.map_err(|error| self.unreachable(error.to_string()))?;
            match pauses.next() {
                _ if answer.status().is_success() => return Ok(answer),
                Some(pause) if is_busy(answer.status()) => thread::sleep(*pause),
                _ => {
                    return Err(self.upload_error(
                        answer.status(),
                        answer.headers(),
                        &piece.file.name,
                    ));
                }
            }
        }
    }
}

/// Some bytes of a file.
struct Piece<'a> {
    file: &'a Upload,
    start: u64,
    size: u64,
}

impl Piece<'_> {
    fn open<'a>(&self, pace: Pace, progress: &'a dyn Progress) -> io::Result<Counted<'a>> {
        let mut file = File::open(&self.file.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(Counted {
            reader: file.take(self.size),
            watch: pace.watch(),
            progress,
        })
    }
}

/// Reports the bytes that are read, and fails if the server takes them too slowly.
struct Counted<'a> {
    reader: io::Take<File>,
    watch: Watch,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(target)?;
        // At the end of the file the server has taken everything.
        if count > 0
            && let Err(slow) = self.watch.advance(count as u64)
        {
            return Err(io::Error::other(format!(
                "it takes the file too slowly: {slow}"
            )));
        }
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// Turns a system error about a file to upload into ours.
fn read_error(path: &Path) -> impl FnOnce(io::Error) -> TransportError {
    move |problem| {
        TransportError::Model(CheckpointError::Read {
            file: path.display().to_string(),
            problem,
        })
    }
}
