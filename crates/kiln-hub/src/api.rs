//! Requests to the Hub's API: answers are bounded in size, in pages and in time, and the token is sent only to the Hub,
//! wherever an answer points.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use kiln_data::{Origin, Progress, ProgressUnit, Request, Task, resolved};
use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode, header};

use crate::TransportError;
use crate::answer::{self, Wrong};
use crate::client::{Listed, Remote, encoded, is_busy};
use crate::name::is_commit;

/// Largest answer in bytes, over all its pages: enough for a repository of some hundred thousand files.
const MOST_BYTES: u64 = 64 << 20;
/// The largest number of pages. The Hub puts a thousand files on each.
const MOST_PAGES: usize = 1000;

/// The rest of the limits for an answer.
struct Budget<'a> {
    bytes: u64,
    end: Instant,
    task: Task<'a>,
}

/// A server's answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    text: String,
}

impl Remote<'_> {
    /// The current commit of the name's revision.
    pub(crate) fn commit(&self, progress: &dyn Progress) -> Result<String, TransportError> {
        let revision = encoded_part(self.name.revision());
        let url = self.api_url(&format!("revision/{revision}"));
        let answer = self.get(&url, &mut self.budget(progress))?;
        let information = self.json(&answer)?;
        let commit = answer::text(&information, "sha").map_err(|wrong| self.wrong(&wrong))?;
        match is_commit(commit) {
            true => Ok(commit.to_owned()),
            false => Err(self.not_a_hub("it names no commit: the `sha` in its answer is none")),
        }
    }

    /// All files at `commit`.
    pub(crate) fn files(
        &self,
        commit: &str,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, Listed>, TransportError> {
        let mut budget = self.budget(progress);
        let mut files = BTreeMap::new();
        let mut pages = BTreeSet::new();
        let mut page = Some(self.api_url(&format!("tree/{commit}?recursive=true")));
        while let Some(url) = page {
            if pages.len() >= MOST_PAGES {
                return Err(self.not_a_hub("its list of files has too many pages"));
            }
            let answer = self.get(&url, &mut budget)?;
            let page_of_files = answer::listed_in(&self.json(&answer)?);
            files.extend(page_of_files.map_err(|wrong| self.wrong(&wrong))?);
            page = next_page(&answer.headers).map(|next| resolved(&next, &url));
            pages.insert(url);
            if page.as_ref().is_some_and(|next| pages.contains(next)) {
                return Err(self.not_a_hub("its list of files has no end"));
            }
        }
        Ok(files)
    }

    /// Sends `body` and reads the JSON answer; an empty answer counts as null.
    pub(crate) fn post(
        &self,
        url: &str,
        content: &str,
        body: &str,
    ) -> Result<Value, TransportError> {
        let answer = self.send(url, content, body)?;
        self.accepted(&answer)?;
        // A verification may have an empty answer.
        match answer.text.trim() {
            "" => Ok(Value::Null),
            _ => self.json(&answer),
        }
    }

    /// The error for an answer that is JSON but not the requested kind.
    pub(crate) fn wrong(&self, wrong: &Wrong) -> TransportError {
        self.not_a_hub(&wrong.to_string())
    }

    /// Sends `body`, and returns the answer with any status.
    pub(crate) fn send(
        &self,
        url: &str,
        content: &str,
        body: &str,
    ) -> Result<Answer, TransportError> {
        let mut budget = self.budget(&kiln_data::NoProgress);
        self.ask(url, Some((content, body)), &mut budget)
    }

    fn get(&self, url: &str, budget: &mut Budget<'_>) -> Result<Answer, TransportError> {
        let answer = self.ask(url, None, budget)?;
        self.accepted(&answer)?;
        Ok(answer)
    }

    /// Sends a request, as POST if there is a body, again after each pause while the server is busy.
    fn ask(
        &self,
        url: &str,
        sent: Option<(&str, &str)>,
        budget: &mut Budget<'_>,
    ) -> Result<Answer, TransportError> {
        let authorization = self.settings.authorization();
        // The token is for the Hub, not for its file storage.
        let is_hub = Origin::of(url) == Origin::of(&self.settings.endpoint);
        let headers = sent.map(|(content, _)| {
            let content = content.to_owned();
            vec![
                (header::CONTENT_TYPE, content.clone()),
                (header::ACCEPT, content),
            ]
        });
        let mut request = Request {
            agent: &self.agent,
            url,
            authorization: authorization.as_deref().filter(|_| is_hub),
            headers: &headers.unwrap_or_default(),
            longest: None,
        };
        let mut pauses = self.settings.pauses.iter();
        loop {
            request.longest = Some(self.time_left(budget)?);
            let response = match sent {
                Some((_, body)) => request.post(body),
                None => request.get(),
            };
            let mut response = response.map_err(|problem| self.broken_off(problem, budget))?;
            let text = self.text(&mut response.body_mut().as_reader(), budget)?;
            let status = response.status();
            match pauses.next() {
                Some(pause) if is_busy(status) => thread::sleep(*pause),
                _ => {
                    return Ok(Answer {
                        status,
                        headers: response.headers().clone(),
                        text,
                    });
                }
            }
        }
    }

    /// Reads an answer within the budget.
    fn text(&self, body: &mut dyn Read, budget: &mut Budget<'_>) -> Result<String, TransportError> {
        let mut text = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        let mut watch = self.settings.pace.watch();
        loop {
            self.time_left(budget)?;
            let read = body.read(&mut chunk);
            let count = read.map_err(|problem| self.broken_off(problem.to_string(), budget))?;
            if count == 0 {
                break;
            }
            let paced = watch.advance(count as u64);
            paced.map_err(|slow| self.unreachable(format!("it sends too slowly: {slow}")))?;
            let left = budget.bytes.checked_sub(count as u64);
            budget.bytes = left.ok_or_else(|| self.not_a_hub("its answer is too long"))?;
            budget.task.advance(count as u64);
            text.extend_from_slice(&chunk[..count]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Refuses an answer with an error status.
    fn accepted(&self, answer: &Answer) -> Result<(), TransportError> {
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(self.refused(answer)),
        }
    }

    /// The error for an answer with an error status.
    pub(crate) fn refused(&self, answer: &Answer) -> TransportError {
        self.answer_error(answer.status, &answer.headers, &answer.text)
    }

    /// The time that is left for an answer.
    fn time_left(&self, budget: &Budget<'_>) -> Result<Duration, TransportError> {
        let left = budget.end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(self.without_end()),
            false => Ok(left),
        }
    }

    /// The error if an answer stops early: its time was up, or the server cannot be reached.
    fn broken_off(&self, problem: String, budget: &Budget<'_>) -> TransportError {
        match Instant::now() < budget.end {
            true => self.unreachable(problem),
            false => self.without_end(),
        }
    }

    fn without_end(&self) -> TransportError {
        let seconds = self.settings.longest_answer.as_secs_f64();
        self.not_a_hub(&format!("its answer has no end, not in {seconds:.0} s"))
    }

    fn json(&self, answer: &Answer) -> Result<Value, TransportError> {
        serde_json::from_str(&answer.text).map_err(|_| self.not_a_hub("its answer is not JSON"))
    }

    fn budget<'p>(&self, progress: &'p dyn Progress) -> Budget<'p> {
        let task = format!("{}: what it holds", self.name);
        Budget {
            bytes: MOST_BYTES,
            end: Instant::now() + self.settings.longest_answer,
            task: Task::begin(progress, &task, ProgressUnit::Bytes, None),
        }
    }

    /// An address of the API for this repository.
    pub(crate) fn api_url(&self, path: &str) -> String {
        let (endpoint, kind) = (&self.settings.endpoint, self.kind.plural());
        format!("{endpoint}/api/{kind}/{}/{path}", self.id())
    }
}

/// The address of the page after this one: `Link: <..>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters
            .split(';')
            .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| address.to_owned())
    })
}

/// A name as one part of an address, with `%2F` for its slashes.
pub(crate) fn encoded_part(name: &str) -> String {
    encoded(name).replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let next = |link: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, link.parse().unwrap());
            next_page(&headers)
        };
        let expected = Some("https://hub/api?p=1".to_owned());
        assert_eq!(next("<https://hub/api?p=1>; rel=\"next\""), expected);
        assert_eq!(
            next("<https://hub/0>; rel=\"prev\", <https://hub/api?p=1>; title=x; rel=next"),
            expected
        );
        for none in [
            "",
            "<https://hub/0>; rel=\"prev\"",
            "https://hub/0; rel=next",
            "<",
        ] {
            assert_eq!(next(none), None, "{none}");
        }
    }
}
