//! Who may ask: pages of this server, with its token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{LONGEST_QUESTION, QUESTIONS};

/// The header of a question's token.
const HEADER: &str = "x-kiln-token";

/// The server's own name and its secret.
pub(super) struct Guard {
    port: u16,
    token: String,
}

impl Guard {
    pub(super) fn new(port: u16, token: &[u8]) -> Self {
        let token = token.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { port, token }
    }

    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/#token={}", self.port, self.token)
    }

    /// Whether a question has the token, and comes from no other page.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
        let is_own = headers.get_all(header::ORIGIN).iter().all(|origin| {
            let origin = origin.as_bytes().strip_prefix(b"http://");
            origin.is_some_and(|host| self.is_own_host(host))
        });
        if !is_own {
            return Err("another page has no business here\n");
        }
        match value(HEADER).is_some_and(|token| same(token, self.token.as_bytes())) {
            true => Ok(()),
            false => {
                Err("the token is missing or wrong: open the address that `kiln play` printed\n")
            }
        }
    }

    /// Browsers leave out the port of HTTP.
    fn is_own_host(&self, host: &[u8]) -> bool {
        let names = ["127.0.0.1", "localhost", "[::1]"];
        names.iter().any(|name| {
            let is_bare = self.port == 80 && host == name.as_bytes();
            is_bare || host == format!("{name}:{}", self.port).as_bytes()
        })
    }
}

/// Refuses, before anything is read, requests under a foreign name, because a page of somebody else's may have pointed its own
/// name at this machine; questions without the token; and those that announce more than a question can have.
pub(super) async fn doorkeeper(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none());
    if !host.is_some_and(|host| guard.is_own_host(host.as_bytes())) {
        return (StatusCode::FORBIDDEN, "this server has another name\n").into_response();
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > LONGEST_QUESTION) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "no question is that long\n").into_response();
    }
    if request.uri().path() == QUESTIONS
        && let Err(sentence) = guard.check(request.headers())
    {
        return (StatusCode::FORBIDDEN, sentence).into_response();
    }
    next.run(request).await
}

/// Compares in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one
        .iter()
        .zip(other)
        .fold(0, |sum, (one, other)| sum | (one ^ other));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(header::HeaderName, header::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn only_the_own_page_with_the_token_may_ask() {
        let guard = Guard::new(7860, &[0xab, 0x01]);
        assert_eq!(guard.address(), "http://127.0.0.1:7860/#token=ab01");
        let check = |pairs: &[(&'static str, &str)]| guard.check(&headers(pairs)).is_ok();
        assert!(check(&[(HEADER, "ab01")]));
        assert!(check(&[
            (HEADER, "ab01"),
            ("origin", "http://localhost:7860")
        ]));
        for refused in [
            &[] as &[(&'static str, &str)],
            &[(HEADER, "")],
            &[(HEADER, "ab0")],
            &[(HEADER, "ab011")],
            &[(HEADER, "ab02")],
            &[(HEADER, "ab01"), ("origin", "http://evil.example")],
            &[(HEADER, "ab01"), ("origin", "https://127.0.0.1:7860")],
            &[(HEADER, "ab01"), ("origin", "http://127.0.0.1:7861")],
            &[(HEADER, "ab01"), ("origin", "null")],
        ] {
            assert!(!check(refused), "{refused:?}");
        }
    }

    #[test]
    fn only_the_port_of_http_may_be_left_out() {
        for (port, may) in [(80, true), (7860, false)] {
            let guard = Guard::new(port, &[1]);
            assert_eq!(guard.is_own_host(b"127.0.0.1"), may);
            assert!(guard.is_own_host(format!("[::1]:{port}").as_bytes()));
            assert!(!guard.is_own_host(b"evil.example"));
        }
    }
}
