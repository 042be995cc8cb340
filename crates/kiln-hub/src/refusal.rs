//! The meaning of the Hub's refusals, and the user's options.

use kiln_checkpoint::printable;
use kiln_data::DownloadFailure;
use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode};

use crate::TransportError;
use crate::client::Remote;

impl Remote<'_> {
    /// The error for a failed transfer.
    pub(crate) fn transfer_error(
        &self,
        failure: DownloadFailure,
        file: &str,
        size: u64,
    ) -> TransportError {
        let file = file.to_owned();
        match failure {
            DownloadFailure::Unreachable(problem) => self.unreachable(problem),
            DownloadFailure::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                self.status_error(status, None, &file)
            }
            DownloadFailure::CutShort { received } => TransportError::CutShort {
                file,
                received,
                size,
            },
            DownloadFailure::TooSlow { received, slow } => TransportError::TooSlow {
                file,
                endpoint: self.settings.endpoint.clone(),
                slow,
                received,
                size,
            },
            DownloadFailure::WrongDigest => TransportError::WrongChecksum { file },
            DownloadFailure::WrongSize { announced } => TransportError::WrongSize {
                file,
                endpoint: self.settings.endpoint.clone(),
                announced,
                size,
            },
            _ => TransportError::NotTheFile {
                file,
                endpoint: self.settings.endpoint.clone(),
            },
        }
    }

    /// The server does not answer.
    pub(crate) fn unreachable(&self, problem: String) -> TransportError {
        TransportError::Unreachable {
            endpoint: self.settings.endpoint.clone(),
            problem,
        }
    }

    /// The server is not a Hub.
    pub(crate) fn not_a_hub(&self, problem: &str) -> TransportError {
        TransportError::NotAHub {
            endpoint: self.settings.endpoint.clone(),
            problem: problem.to_owned(),
        }
    }

    /// The error for an HTTP status about `file`.
    pub(crate) fn status_error(
        &self,
        status: StatusCode,
        headers: Option<&HeaderMap>,
        file: &str,
    ) -> TransportError {
        let text = |name| Some(headers?.get(name)?.to_str().ok()?.to_owned());
        let (code, message) = (text("x-error-code"), text("x-error-message"));
        self.refusal(
            status.as_u16(),
            code.as_deref(),
            message.as_deref(),
            Asked::File(file),
        )
    }

    /// The error for an answer with an error status and `text`.
    pub(crate) fn answer_error(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        text: &str,
    ) -> TransportError {
        let header = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let of_body = || {
            let body: Value = serde_json::from_str(text).ok()?;
            Some(body["error"].as_str()?.to_owned())
        };
        let (code, message) = (header("x-error-code"), header("x-error-message"));
        let message = message.or_else(of_body);
        self.refusal(
            status.as_u16(),
            code.as_deref(),
            message.as_deref(),
            asked(text),
        )
    }

    /// The error for a server's error status.
    fn refusal(
        &self,
        status: u16,
        code: Option<&str>,
        message: Option<&str>,
        asked: Asked,
    ) -> TransportError {
        let message = message.map(printable);
        let repository = self.name.id();
        let endpoint = self.settings.endpoint.clone();
        let has_token = self.settings.token.is_some();
        let missing = || TransportError::MissingRepository {
            repository: repository.clone(),
            endpoint: endpoint.clone(),
            who: if has_token {
                "your token"
            } else {
                "the public"
            },
        };
        let missing_file = |file: &str| TransportError::MissingFile {
            repository: repository.clone(),
            file: file.to_owned(),
            endpoint: endpoint.clone(),
        };
        match (status, code, asked) {
            (_, Some("RevisionNotFound"), _) => TransportError::MissingRevision {
                repository,
                revision: self.name.revision().to_owned(),
            },
            (_, Some("EntryNotFound"), Asked::File(file)) => missing_file(file),
            (403, ..) | (_, Some("GatedRepo"), _) => TransportError::Forbidden {
                repository,
                endpoint,
                reason: message.map_or_else(String::new, |message| format!(" ({message})")),
            },
            // Without a token the Hub gives this answer for private and for missing repositories.
            (401, ..) if !has_token => missing(),
            (401 | 404, Some("RepoNotFound"), _) => missing(),
            (401, ..) => TransportError::BadToken(endpoint),
            (404, None, Asked::Page) => self.not_a_hub("it answers with something else than JSON"),
            (404, _, Asked::File(file)) => missing_file(file),
            (404, ..) => missing(),
            (status, ..) if status < 400 || status == 416 => {
                self.not_a_hub(&format!("it answers with HTTP status {status}"))
            }
            (429, ..) => TransportError::TooManyRequests(endpoint),
            (500.., ..) => TransportError::OutOfOrder { endpoint, status },
            _ => TransportError::Refused {
                endpoint,
                what: format!("access to {repository}"),
                status,
                reason: message.map_or_else(String::new, |message| format!(": {message}")),
            },
        }
    }
}

/// The subject of a refusal.
#[derive(Clone, Copy)]
enum Asked<'a> {
    /// This file.
    File(&'a str),
    /// Information about the repository.
    Repository,
    /// The same, but the refusal's body is not the Hub's JSON.
    Page,
}

/// The subject, from the refusal's body.
fn asked(body: &str) -> Asked<'static> {
    match serde_json::from_str::<Value>(body) {
        Ok(_) => Asked::Repository,
        Err(_) => Asked::Page,
    }
}
