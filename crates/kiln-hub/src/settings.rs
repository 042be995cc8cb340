//! Settings: the Hub, the user, and the cache.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use kiln_data::{Pace, read_text};

/// The Hub's address, the user's token, and the folder of the cache.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Address of the Hub, without a slash at the end.
    pub endpoint: String,
    /// Identifies the user, for private repositories and for pushing.
    pub token: Option<String>,
    /// The folder of the cache, in the layout of Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// Send no requests: a file that is missing in the cache is an error.
    pub offline: bool,
    /// How long a server may be silent before it counts as out of reach.
    pub patience: Duration,
    /// How long an answer may take in total, including its pages, redirects and pauses.
    pub longest_answer: Duration,
    /// The slowest allowed speed of files and answers from the server, and of uploads to it.
    pub pace: Pace,
    /// The pauses before each new attempt at a busy server (HTTP 429 or 5xx).
    pub pauses: Vec<Duration>,
}

impl HubSettings {
    /// The settings from the environment variables of Python's `huggingface_hub`: `HF_ENDPOINT`; `HF_TOKEN`,
    /// `HF_TOKEN_PATH` or the file `token` in `HF_HOME`, where `hf auth login` puts it; `HF_HUB_CACHE` or `HF_HOME`;
    /// `HF_HUB_OFFLINE`; `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
    pub fn from_environment() -> Self {
        Self::from_variables(&|name| env::var_os(name))
    }

    /// The same with given variables.
    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let text = |name| set(name).and_then(|value| value.into_string().ok());
        let is_on = |name| {
            text(name).is_some_and(|value: String| {
                ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
            })
        };
        let home = set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            let user = || PathBuf::from(set("HOME").unwrap_or_default()).join(".cache");
            cache.unwrap_or_else(user).join("huggingface")
        });
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let token_file = set("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.unwrap_or_else(|| home.join("token"));
        let token = text("HF_TOKEN").or_else(|| read_text(&token_file).ok());
        let token = token.filter(|_| !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache: cache.map_or_else(|| home.join("hub"), PathBuf::from),
            offline: is_on("HF_HUB_OFFLINE"),
            patience: Duration::from_secs(20),
            longest_answer: Duration::from_secs(120),
            pace: Pace::MODEM,
            pauses: [1, 4, 10].map(Duration::from_secs).to_vec(),
        }
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn without_variables_it_is_the_public_hub_and_the_cache_in_the_home_folder() {
        let settings = settings(&[("HOME", "/home/ada")]);
        assert_eq!(settings.endpoint, "https://huggingface.co");
        let cache = PathBuf::from("/home/ada/.cache/huggingface/hub");
        assert_eq!(settings.cache, cache);
        assert!(settings.token.is_none() && !settings.offline);
    }

    #[test]
    fn every_variable_of_python_counts() {
        let from = |variables: &[(&str, &str)]| settings(variables).cache;
        for (expected, variables) in [
            ("/c", &[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")][..]),
            ("/old", &[("HUGGINGFACE_HUB_CACHE", "/old")]),
            ("/h/hub", &[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            ("/x/huggingface/hub", &[("XDG_CACHE_HOME", "/x")]),
        ] {
            assert_eq!(from(variables), PathBuf::from(expected));
        }
        assert!(settings(&[("HF_HUB_OFFLINE", "1")]).offline);
        assert!(settings(&[("HF_HUB_OFFLINE", "True")]).offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);
        let mirror = settings(&[("HF_ENDPOINT", "http://localhost:8090/")]);
        assert_eq!(mirror.endpoint, "http://localhost:8090");
    }

    #[test]
    fn the_token_comes_from_the_variable_or_from_the_file_that_logging_in_wrote() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        fs::write(home.path().join("other"), "hf_other").unwrap();
        let other = home.path().join("other");
        let other = other.to_str().unwrap();
        let from = |variables: &[(&str, &str)]| settings(variables).token;
        assert_eq!(from(&[("HF_HOME", path)]).unwrap(), "hf_file");
        let both = [("HF_HOME", path), ("HF_TOKEN", "hf_variable")];
        assert_eq!(from(&both).unwrap(), "hf_variable");
        let elsewhere = [("HF_HOME", path), ("HF_TOKEN_PATH", other)];
        assert_eq!(from(&elsewhere).unwrap(), "hf_other");
        let refused = [("HF_HOME", path), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert!(from(&refused).is_none());
    }
}
