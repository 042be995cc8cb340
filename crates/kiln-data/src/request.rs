//! A request and its redirects: a token is sent only to the server that it belongs to.
//!
//! The HTTP client can follow redirects itself, but then sends the token to every port of a host.

use std::time::Duration;

use ureq::http::{HeaderName, Response, StatusCode, Uri, header, uri::Scheme};
use ureq::{Agent, Body};

/// The largest number of redirects.
const MAX_REDIRECTS: usize = 10;

/// The server of an address: the scheme, the host and the port. A token belongs to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an address; `None` if it is not an HTTP address.
    pub fn of(url: &str) -> Option<Self> {
        // The HTTP client reads addresses with the same code, so both see the same host.
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme()?;
        let usual_port = match scheme {
            _ if *scheme == Scheme::HTTP => 80,
            _ if *scheme == Scheme::HTTPS => 443,
            _ => return None,
        };
        let authority = uri.authority()?;
        Some(Self {
            scheme: scheme.as_str().to_owned(),
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(usual_port),
        })
    }
}

/// A request.
pub struct Request<'a> {
    /// The HTTP client.
    pub agent: &'a Agent,
    /// The address.
    pub url: &'a str,
    /// Value of the `Authorization` header: sent to the address's own [`Origin`] alone.
    pub authorization: Option<&'a str>,
    /// Other headers.
    pub headers: &'a [(HeaderName, String)],
    /// The longest time for each complete answer, including its body. `None` is no limit while bytes arrive.
    pub longest: Option<Duration>,
}

impl Request<'_> {
    /// Sends a GET request, and follows redirects to any server.
    ///
    /// # Errors
    /// A message if no server answers or the redirects do not end.
    pub fn get(&self) -> Result<Response<Body>, String> {
        self.follow(None)
    }

    /// Sends `body` by POST. It follows redirects only within the server, and only those that repeat the same request.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, body: &str) -> Result<Response<Body>, String> {
        self.follow(Some(body))
    }

    fn follow(&self, body: Option<&str>) -> Result<Response<Body>, String> {
        let home = Origin::of(self.url);
        let mut url = self.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = home.is_some() && Origin::of(&url) == home;
            let response = self.send(&url, body, is_home)?;
            let next = location(&response, &url).filter(|next| {
                let repeats = matches!(
                    response.status(),
                    StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
                );
                body.is_none() || (repeats && Origin::of(next) == home)
            });
            match next {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err("it redirects in a circle".to_owned())
    }

    fn send(&self, url: &str, body: Option<&str>, is_home: bool) -> Result<Response<Body>, String> {
        let authorization = self.authorization.filter(|_| is_home);
        let authorization = authorization.map(|value| (header::AUTHORIZATION, value));
        let others = self.headers.iter();
        let headers = others
            .map(|(name, value)| (name.clone(), value.as_str()))
            .chain(authorization);
        let response = match body {
            None => {
                let request = headers.fold(self.agent.get(url), |request, (name, value)| {
                    request.header(name, value)
                });
                let request = request.config().max_redirects(0);
                let request = request.timeout_global(self.longest);
                request.max_redirects_will_error(false).build().call()
            }
            Some(body) => {
                let request = headers.fold(self.agent.post(url), |request, (name, value)| {
                    request.header(name, value)
                });
                let request = request.config().max_redirects(0);
                let request = request.timeout_global(self.longest);
                request.max_redirects_will_error(false).build().send(body)
            }
        };
        response.map_err(|error| error.to_string())
    }
}

/// The target of a redirect in a response to `url`.
fn location(response: &Response<Body>, url: &str) -> Option<String> {
    let sends_on = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    sends_on.then(|| resolved(location, url))
}

/// The address of `location` in an answer from `url` (RFC 3986, section 5.2, without dot segments).
pub fn resolved(location: &str, url: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = url.split("://").next().unwrap_or_default();
    let host = scheme.len() + "://".len();
    let path = url.get(host..).and_then(|rest| rest.find('/'));
    let path = path.map_or(url.len(), |path| host + path);
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let path = path.min(end);
    let is_whole = location
        .find("://")
        .is_some_and(|end| !location[..end].contains(['/', '?']));
    if is_whole {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", &url[..path])
    } else if location.starts_with('?') {
        format!("{}{location}", &url[..end])
    } else {
        match url[path..end].rfind('/') {
            Some(slash) => format!("{}/{location}", &url[..path + slash]),
            None => format!("{}/{location}", &url[..path]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| Origin::of(a).unwrap() == Origin::of(b).unwrap();
        assert!(same("https://hub.co/a", "https://hub.co:443/b?c"));
        assert!(same("https://HUB.co", "https://hub.co/"));
        assert!(same("http://ada@hub.co", "http://hub.co:80"));
        for other in [
            "http://hub.co",
            "https://hub.co:8443",
            "https://cdn.hub.co",
            "https://hub.co.evil.org",
            "https://hub.co@evil.org",
        ] {
            assert!(!same("https://hub.co", other), "{other}");
        }
        for none in ["", "hub.co", "/a/b", "ftp://hub.co", "https://"] {
            assert_eq!(Origin::of(none), None, "{none}");
        }
    }

    #[test]
    fn locations_are_read_as_browsers_do() {
        let url = "https://hub.co:1/a/b?c=/d";
        for (location, expected) in [
            ("https://cdn.co/x?y#z", "https://cdn.co/x?y"),
            ("//cdn.co/x", "https://cdn.co/x"),
            ("/x?to=http://e.org", "https://hub.co:1/x?to=http://e.org"),
            ("x", "https://hub.co:1/a/x"),
            ("?p=2", "https://hub.co:1/a/b?p=2"),
        ] {
            assert_eq!(resolved(location, url), expected);
        }
        assert_eq!(resolved("x", "http://a:1"), "http://a:1/x");
        assert_eq!(resolved("/x", "http://a:1?b"), "http://a:1/x");
    }
}
