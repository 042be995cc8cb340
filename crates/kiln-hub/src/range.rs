//! Parts of a file, by HTTP's range requests (RFC 9110, section 14).

use std::io::Read;
use std::ops::Range;

use kiln_data::Request;
use ureq::http::{HeaderMap, StatusCode, header};

use crate::TransportError;
use crate::client::Remote;

impl Remote<'_> {
    /// These bytes of a `file` of `size` bytes.
    pub(crate) fn range(
        &self,
        commit: &str,
        file: &str,
        size: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>, TransportError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let authorization = self.settings.authorization();
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let request = Request {
            agent: &self.agent,
            url: &self.address(commit, file),
            authorization: authorization.as_deref(),
            headers: &[(header::RANGE, bytes)],
            longest: None,
        };
        let response = request.get();
        let mut response = response.map_err(|problem| self.unreachable(problem))?;
        let is_whole = range == (0..size);
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(response.headers(), file, size, &range)?;
            }
            StatusCode::OK if is_whole => {}
            StatusCode::OK => return Err(self.no_ranges("it answers with the whole file")),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.no_ranges("it answers that there are no such bytes"));
            }
            status => return Err(self.status_error(status, Some(response.headers()), file)),
        }
        let stopped = |count: usize, problem: &str| {
            self.unreachable(format!(
                "it sent {count} of {wanted} bytes from the middle of {file}{problem}"
            ))
        };
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        let mut watch = self.settings.pace.watch();
        let mut body = response.body_mut().as_reader();
        loop {
            let count = body.read(&mut chunk);
            let count = count.map_err(|problem| stopped(bytes.len(), &format!(", {problem}")))?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..count]);
            if bytes.len() as u64 > wanted {
                return Err(self.no_ranges("it sends more than the part"));
            }
            let paced = watch.advance(count as u64);
            paced.map_err(|slow| stopped(bytes.len(), &format!(", too slowly: {slow}")))?;
        }
        match bytes.len() as u64 == wanted {
            true => Ok(bytes),
            false => Err(stopped(bytes.len(), "")),
        }
    }

    /// Refuses a part that is not the one that was asked for.
    fn check_range(
        &self,
        headers: &HeaderMap,
        file: &str,
        size: u64,
        wanted: &Range<u64>,
    ) -> Result<(), TransportError> {
        let sent = headers.get(header::CONTENT_RANGE);
        let sent = sent.and_then(|sent| content_range(sent.to_str().ok()?));
        match sent {
            Some((range, _)) if range != *wanted => Err(self.no_ranges("it sends another part")),
            Some((_, Some(announced))) if announced != size => Err(TransportError::WrongSize {
                file: file.to_owned(),
                endpoint: self.settings.endpoint.clone(),
                announced,
                size,
            }),
            Some(_) => Ok(()),
            None => Err(self.no_ranges("it does not say which part it sends")),
        }
    }

    fn no_ranges(&self, problem: &str) -> TransportError {
        TransportError::NoRanges {
            repository: self.name.to_string(),
            endpoint: self.settings.endpoint.clone(),
            problem: problem.to_owned(),
        }
    }
}

/// The part that an answer has, and the length of the whole if it says it: `bytes 0-9/100`, or `bytes 0-9/*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    Some((first.trim().parse().ok()?..end, whole.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_was_sent_is_read() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, Some(100))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for none in [
            "",
            "bytes */100",
            "items 0-9/100",
            "bytes 0-18446744073709551615/9",
            "bytes a-b/c",
        ] {
            assert_eq!(content_range(none), None, "{none}");
        }
    }
}
