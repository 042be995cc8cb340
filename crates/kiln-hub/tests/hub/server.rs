//! A Hugging Face Hub on the loopback interface, with the routes and headers of the real one, that misbehaves on
//! purpose.
//!
//! Files named `.safetensors` or `.bin` are in Git LFS: announced with `X-Linked-Etag` and a redirect to a "CDN". All
//! others are sent by the Hub itself, with Git's name for them as `ETag`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The files of a repository: names and contents.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A fault of the server.
#[derive(Clone, Debug)]
#[allow(dead_code)] // Each of the programs that use this server misses some.
pub enum Fault {
    /// This status, these headers and a JSON body.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// An HTML page.
    Page,
    /// This body.
    Body(Vec<u8>),
    /// This many bytes of the body, then the connection ends.
    CutAfter(usize),
    /// This many bytes of the body, then nothing, on a connection that stays open.
    StallAfter(usize),
    /// The body with a byte changed.
    Corrupt,
    /// A redirect to this address, with this status.
    Redirect(u16, String),
    /// The right answer, and a link to this address as the next page.
    NextPage(String),
    /// The right answer, and each time a link to a new next page.
    AnotherPage,
    /// This body over and over, until the client stops.
    Endless(&'static [u8]),
    /// A space every few milliseconds, until the client stops.
    Dripping,
    /// A letter of the headers every few milliseconds, until the client gives up.
    DrippingHeaders,
    /// A redirect to this address, with a body that never ends.
    DrippingRedirect(String),
    /// The right headers, and a byte of the right body every few milliseconds.
    DrippingBody,
    /// The whole file, whatever part was asked for.
    Whole,
    /// The right part, said to be of a file of another length.
    OtherLength,
}

/// The pause between the bytes of a server that drips.
const DRIP: Duration = Duration::from_millis(5);

/// The server. It ends with the program.
pub struct Hub {
    /// Its address, for `HF_ENDPOINT`.
    pub url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    /// The contents in Git LFS, by SHA-256.
    large: Files,
    /// The parts uploaded so far, by SHA-256.
    parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    /// Bytes of a part of an upload, if uploads are divided.
    part_size: Option<usize>,
    /// The token that the server knows.
    token: Option<String>,
    faults: Vec<(&'static str, Fault, usize)>,
    requests: Vec<String>,
    /// The bytes of the files, or parts of them, that were sent.
    sent: usize,
    /// How many more large files there are, if they run out.
    files_left: Option<usize>,
    /// Requests that came with a token.
    with_token: Vec<String>,
}

#[derive(Clone, Default)]
struct Repository {
    private: bool,
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, Files>,
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[allow(dead_code)] // Each of the programs that use this server misses some.
impl Hub {
    /// An empty Hub.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, own_url) = (state.clone(), url.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, url) = (shared.clone(), own_url.clone());
                // The client may hang up first, for example after a page that is not the file.
                thread::spawn(move || converse(stream?, &url, &state));
            }
        });
        Self { url, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a commit of `files` on `main`, and returns its hash. Data sets are called `datasets/ORG/DATASET`.
    pub fn publish(&self, id: &str, files: &Files) -> String {
        self.state().commit(id, "main", files.clone())
    }

    /// Hides a repository from everyone without the token.
    pub fn hide(&self, id: &str, token: &str) {
        let mut state = self.state();
        state.token = Some(token.to_owned());
        state.repositories.get_mut(id).unwrap().private = true;
    }

    /// The only token that the server knows from now on.
    pub fn know(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Asks for uploads in parts of so many bytes from now on, like the Hub for very large files.
    pub fn divide_uploads(&self, part_size: usize) {
        self.state().part_size = Some(part_size);
    }

    /// Misbehaves `times` times when a request, such as `GET /a/b/resolve/..`, contains `part`.
    pub fn misbehave(&self, part: &'static str, fault: Fault, times: usize) {
        self.state().faults.push((part, fault, times));
    }

    /// Sends so many more large files, and then none; or any number again. Parts of them are always there.
    pub fn run_out_after(&self, files: Option<usize>) {
        self.state().files_left = files;
    }

    /// How many bytes of files were sent since the last call.
    pub fn sent(&self) -> usize {
        mem::take(&mut self.state().sent)
    }

    /// All requests since the last call: the method, the path, and `from N`, or `part N-M`, for a range.
    pub fn requests(&self) -> Vec<String> {
        mem::take(&mut self.state().requests)
    }

    /// All requests since the last call that came with a token.
    pub fn requests_with_token(&self) -> Vec<String> {
        mem::take(&mut self.state().with_token)
    }

    /// The files at a revision, with their contents, if there are any.
    pub fn files(&self, id: &str, revision: &str) -> Option<Files> {
        let state = self.state();
        let repository = state.repositories.get(id)?;
        repository
            .commits
            .get(repository.commit(revision)?)
            .cloned()
    }

    /// Whether a repository is hidden.
    pub fn is_private(&self, id: &str) -> bool {
        self.state().repositories[id].private
    }
}

impl Repository {
    fn commit<'a>(&'a self, revision: &'a str) -> Option<&'a str> {
        let commit = self.branches.get(revision).map_or(revision, String::as_str);
        self.commits.contains_key(commit).then_some(commit)
    }
}

impl State {
    fn commit(&mut self, id: &str, branch: &str, files: Files) -> String {
        let repository = self.repositories.entry(id.to_owned()).or_default();
        let content: Vec<u8> = files
            .iter()
            .flat_map(|(name, bytes)| [name.as_bytes(), bytes].concat())
            .collect();
        let commit = hexadecimal(&Sha1::digest(content));
        repository
            .branches
            .insert(branch.to_owned(), commit.clone());
        repository.commits.insert(commit.clone(), files);
        commit
    }

    fn answer(&mut self, url: &str, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default();
        let authorization = request.headers.get("authorization");
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some() && self.token.is_some() && token != self.token.as_deref() {
            let message = "Invalid credentials in Authorization header";
            return Response::refusal(401, None, message);
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (request.method.as_str(), &parts[..]) {
            ("HEAD" | "GET", ["cdn", oid]) => self.content(oid),
            ("PUT", ["lfs", oid]) => {
                self.large.insert((*oid).to_owned(), request.body.clone());
                Response::json(&json!({}))
            }
            ("PUT", ["part", oid, number]) => {
                let number = number.parse().unwrap();
                let parts = self.parts.entry((*oid).to_owned()).or_default();
                parts.insert(number, request.body.clone());
                let mut response = Response::json(&json!({}));
                response
                    .headers
                    .push(("ETag".to_owned(), format!("\"{number}\"")));
                response
            }
            ("POST", ["lfs-complete"]) => {
                let wish: Value = serde_json::from_slice(&request.body).unwrap();
                let oid = wish["oid"].as_str().unwrap();
                let parts = self.parts.remove(oid).unwrap();
                let tags: Vec<Value> = parts
                    .keys()
                    .map(|number| json!({"partNumber": number, "etag": format!("\"{number}\"")}))
                    .collect();
                assert_eq!(wish["parts"], json!(tags));
                let bytes: Vec<u8> = parts.into_values().flatten().collect();
                assert_eq!(sha256(&bytes), oid);
                self.large.insert(oid.to_owned(), bytes);
                Response::json(&json!({}))
            }
            ("POST", ["lfs-verify"]) => {
                let object: Value = serde_json::from_slice(&request.body).unwrap();
                let stored = self.large.get(object["oid"].as_str().unwrap());
                match stored {
                    Some(bytes) if object["size"] == bytes.len() => Response::json(&json!({})),
                    _ => Response::refusal(404, None, "no such object"),
                }
            }
            // All routes below need the token.
            ("POST", _) if token.is_none() => {
                Response::refusal(401, None, "Invalid username or password.")
            }
            ("POST", ["api", "repos", "create"]) => self.create(&request.body),
            (
                "GET" | "POST",
                [
                    "api",
                    kind @ ("models" | "datasets"),
                    owner,
                    name,
                    rest @ ..,
                ],
            ) => {
                let id = match *kind {
                    "datasets" => format!("datasets/{owner}/{name}"),
                    _ => format!("{owner}/{name}"),
                };
                match self.visible(&id, token) {
                    None => Response::missing_repository(token),
                    Some(repository) => match rest {
                        ["revision", revision] => repository.describe(&id, &decoded(revision)),
                        ["tree", revision] => repository.list(&decoded(revision)),
                        ["branch", branch] => self.branch(&id, &decoded(branch)),
                        ["preupload", _] => preupload(&request.body),
                        ["commit", branch] => {
                            self.take_commit(&id, &decoded(branch), &request.body)
                        }
                        _ => Response::page(404),
                    },
                }
            }
            ("POST", [owner, name, "info", "lfs", "objects", "batch"]) => {
                let id = format!("{owner}/{}", name.trim_end_matches(".git"));
                match self.visible(&id, token) {
                    None => Response::missing_repository(token),
                    Some(_) => self.batch(url, &request.body),
                }
            }
            ("HEAD" | "GET", [owner, name, "resolve", revision, file @ ..]) => {
                self.resolve(url, &format!("{owner}/{name}"), revision, file, token)
            }
            ("HEAD" | "GET", ["datasets", owner, name, "resolve", revision, file @ ..]) => self
                .resolve(
                    url,
                    &format!("datasets/{owner}/{name}"),
                    revision,
                    file,
                    token,
                ),
            _ => Response::page(404),
        }
    }

    fn resolve(
        &self,
        url: &str,
        id: &str,
        revision: &str,
        file: &[&str],
        token: Option<&str>,
    ) -> Response {
        match self.visible(id, token) {
            None => Response::missing_repository(token),
            Some(repository) => {
                repository.resolve(url, &decoded(revision), &decoded(&file.join("/")))
            }
        }
    }

    fn visible(&self, id: &str, token: Option<&str>) -> Option<Repository> {
        let repository = self.repositories.get(id);
        repository
            .filter(|repository| !repository.private || token.is_some())
            .cloned()
    }

    /// The CDN's answer.
    fn content(&self, oid: &str) -> Response {
        let all = self
            .repositories
            .values()
            .flat_map(|repository| repository.commits.values());
        let bytes = all
            .flat_map(Files::values)
            .find(|bytes| sha256(bytes) == oid);
        bytes.map_or_else(
            || Response::page(403),
            |bytes| Response::file(bytes, Vec::new()),
        )
    }

    fn create(&mut self, body: &[u8]) -> Response {
        let wish: Value = serde_json::from_slice(body).unwrap();
        let text = |key: &str| wish[key].as_str().unwrap_or("me").to_owned();
        let id = format!("{}/{}", text("organization"), text("name"));
        if self.repositories.contains_key(&id) {
            return Response::refusal(409, None, "You already created this model repo");
        }
        self.commit(
            &id,
            "main",
            Files::from([(".gitattributes".to_owned(), Vec::new())]),
        );
        self.repositories.get_mut(&id).unwrap().private = wish["private"] == true;
        Response::json(&json!({"url": format!("https://hub/{id}")}))
    }

    fn branch(&mut self, id: &str, branch: &str) -> Response {
        let repository = self.repositories.get_mut(id).unwrap();
        if repository.branches.contains_key(branch) {
            return Response::refusal(409, None, "Reference already exists");
        }
        let main = repository.branches["main"].clone();
        repository.branches.insert(branch.to_owned(), main);
        Response::json(&json!({}))
    }

    /// Plain Git LFS: each missing object gets an upload address.
    fn batch(&self, url: &str, body: &[u8]) -> Response {
        let wish: Value = serde_json::from_slice(body).unwrap();
        let objects: Vec<Value> = wish["objects"].as_array().unwrap().iter().map(|object| {
            let oid = object["oid"].as_str().unwrap();
            let mut answer = json!({"oid": oid, "size": object["size"]});
if !self.large.contains_key(oid) {
                    let upload = match self.part_size {
                        None => json!({"href": format!("{url}/lfs/{oid}"), "header": {"X-Signed": "yes"}}),
                        Some(part) => {
                            let count = object["size"].as_u64().unwrap().div_ceil(part as u64);
                            let mut header = json!({"chunk_size": part.to_string()});
                            for number in 1..=count {
                                header[format!("{number:05}")] = format!("{url}/part/{oid}/{number}").into();
                            }
                            json!({"href": format!("{url}/lfs-complete"), "header": header})
                        }
                    };
                    answer["actions"] = json!({
                        "upload": upload,
                        "verify": {"href": format!("{url}/lfs-verify")},
                    });
                }
                answer
        }).collect();
        Response::json(&json!({"transfer": "basic", "objects": objects}))
    }

    /// A commit in lines of JSON.
    fn take_commit(&mut self, id: &str, branch: &str, body: &[u8]) -> Response {
        let repository = &self.repositories[id];
        let Some(commit) = repository.commit(branch) else {
            return Response::refusal(404, Some("RevisionNotFound"), "Invalid rev id");
        };
        let mut files = repository.commits[commit].clone();
        for line in body
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: Value = serde_json::from_slice(line).unwrap();
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str().unwrap() {
                "header" => assert!(value["summary"].is_string()),
                "file" => {
                    assert_eq!(value["encoding"], "base64");
                    files.insert(path, from_base64(value["content"].as_str().unwrap()));
                }
                "lfsFile" => match self.large.get(value["oid"].as_str().unwrap()) {
                    Some(bytes) => {
                        files.insert(path, bytes.clone());
                    }
                    None => {
                        return Response::refusal(
                            400,
                            None,
                            "LFS pointer pointed to a file that does not exist",
                        );
                    }
                },
                "deletedFile" => {
                    files.remove(&path);
                }
                other => panic!("{other}"),
            }
        }
        let commit = self.commit(id, branch, files);
        Response::json(&json!({
            "commitOid": commit,
            "commitUrl": format!("https://hub/{id}/commit/{commit}"),
        }))
    }
}

impl Repository {
    fn describe(&self, id: &str, revision: &str) -> Response {
        match self.commit(revision) {
            Some(commit) => Response::json(
                &json!({"_id": "1", "id": id, "sha": commit, "private": self.private}),
            ),
            None => Response::refusal(404, Some("RevisionNotFound"), "Invalid rev id"),
        }
    }

    fn list(&self, revision: &str) -> Response {
        let Some(commit) = self.commit(revision) else {
            return Response::refusal(404, Some("RevisionNotFound"), "Invalid rev id");
        };
        let entries: Vec<Value> = self.commits[commit]
            .iter()
            .map(|(path, bytes)| {
                let size = bytes.len();
                let mut entry =
                    json!({"type": "file", "path": path, "size": size, "oid": git_blob(bytes)});
                if is_large(path) {
                    let pointer = pointer(bytes);
                    entry["oid"] = git_blob(&pointer).into();
                    entry["lfs"] =
                        json!({"oid": sha256(bytes), "size": size, "pointerSize": pointer.len()});
                }
                entry
            })
            .collect();
        Response::json(&json!(entries))
    }

    fn resolve(&self, url: &str, revision: &str, file: &str) -> Response {
        let Some(commit) = self.commit(revision) else {
            return Response::refusal(404, Some("RevisionNotFound"), "Invalid rev id");
        };
        let Some(bytes) = self.commits[commit].get(file) else {
            return Response::refusal(404, Some("EntryNotFound"), "Entry not found");
        };
        let mut headers = vec![("X-Repo-Commit".to_owned(), commit.to_owned())];
        if is_large(file) {
            headers.extend([
                ("X-Linked-Etag".to_owned(), format!("\"{}\"", sha256(bytes))),
                ("X-Linked-Size".to_owned(), bytes.len().to_string()),
                ("ETag".to_owned(), "\"of-the-redirect\"".to_owned()),
                (
                    "Location".to_owned(),
                    format!("{url}/cdn/{}", sha256(bytes)),
                ),
            ]);
            return Response {
                status: 302,
                headers,
                body: Vec::new(),
            };
        }
        headers.push(("ETag".to_owned(), format!("\"{}\"", git_blob(bytes))));
        Response::file(bytes, headers)
    }
}

fn preupload(body: &[u8]) -> Response {
    let wish: Value = serde_json::from_slice(body).unwrap();
    let files: Vec<Value> = wish["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            assert!(file["sample"].is_string() && file["size"].is_u64());
            let mode = if is_large(file["path"].as_str().unwrap()) {
                "lfs"
            } else {
                "regular"
            };
            json!({"path": file["path"], "uploadMode": mode, "shouldIgnore": false})
        })
        .collect();
    Response::json(&json!({ "files": files }))
}

impl Response {
    fn json(value: &Value) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: value.to_string().into_bytes(),
        }
    }

    fn file(bytes: &[u8], headers: Vec<(String, String)>) -> Self {
        Self {
            status: 200,
            headers,
            body: bytes.to_vec(),
        }
    }

    fn page(status: u16) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
            body: b"<!DOCTYPE html><html><p>Welcome to the airport".to_vec(),
        }
    }

    fn link(&mut self, address: &str) {
        let link = format!("<{address}>; rel=\"next\"");
        self.headers.push(("Link".to_owned(), link));
    }

    fn refusal(status: u16, code: Option<&str>, message: &str) -> Self {
        let mut response = Self::json(&json!({ "error": message }));
        response.status = status;
        response
            .headers
            .push(("X-Error-Message".to_owned(), message.to_owned()));
        response
            .headers
            .extend(code.map(|code| ("X-Error-Code".to_owned(), code.to_owned())));
        response
    }

    /// The Hub does not reveal whether a hidden repository exists.
    fn missing_repository(token: Option<&str>) -> Self {
        match token {
            Some(_) => Self::refusal(404, Some("RepoNotFound"), "Repository not found"),
            None => Self::refusal(401, Some("RepoNotFound"), "Invalid username or password."),
        }
    }
}

/// Takes one request and answers it.
fn converse(mut stream: TcpStream, url: &str, state: &Mutex<State>) -> io::Result<()> {
    let request = read_request(&stream)?;
    let range = request.headers.get("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()))
    });
    let from = match range {
        None => String::new(),
        Some((first, None)) => format!(" from {first}"),
        Some((first, Some(last))) => format!(" part {first}-{last}"),
    };
    let line = format!("{} {}{from}", request.method, request.path);
    let (mut response, fault) = {
        let mut state = state.lock().unwrap();
        state.requests.push(line.clone());
        if request.headers.contains_key("authorization") {
            state.with_token.push(line.clone());
        }
        let mut response = state.answer(url, &request);
        let is_part = matches!(range, Some((_, Some(_))));
        if let Some(left) = &mut state.files_left
            && request.path.starts_with("/cdn/")
            && !is_part
        {
            match *left {
                0 => response = Response::page(404),
                _ => *left -= 1,
            }
        }
        let fault = state
            .faults
            .iter_mut()
            .find(|(part, _, times)| *times > 0 && line.contains(*part));
        (
            response,
            fault.map(|(_, fault, times)| {
                *times -= 1;
                fault.clone()
            }),
        )
    };
    match &fault {
        Some(Fault::Status(status, headers)) => {
            response = Response::refusal(*status, None, "as told");
            response
                .headers
                .retain(|(name, _)| name != "X-Error-Message");
            response.headers.extend(
                headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            );
        }
        Some(Fault::Page) => response = Response::page(200),
        Some(Fault::Body(body)) => response = Response::file(body, Vec::new()),
        Some(Fault::Redirect(status, address)) => {
            response = Response::refusal(*status, None, "over there");
            let location = ("Location".to_owned(), address.clone());
            response.headers.push(location);
        }
        Some(Fault::NextPage(address)) => response.link(address),
        Some(Fault::AnotherPage) => {
            let count = state.lock().unwrap().requests.len();
            let path = request.path.split('&').next().unwrap_or_default();
            response.link(&format!("{url}{path}&page={count}"));
        }
        Some(Fault::Corrupt) => {
            let middle = response.body.len() / 2;
            response.body[middle] ^= 1;
        }
        _ => {}
    }
    if let (Some((start, last)), 200) = (range, response.status)
        && !matches!(fault, Some(Fault::Whole))
    {
        let length = response.body.len();
        if start >= length {
            response = Response::refusal(416, None, "Range Not Satisfiable");
        } else {
            let end = last.map_or(length, |last| length.min(last + 1));
            let said = length + usize::from(matches!(fault, Some(Fault::OtherLength)));
            let header = format!("bytes {start}-{}/{said}", end - 1);
            response.headers.push(("Content-Range".to_owned(), header));
            response.status = 206;
            response.body.truncate(end);
            response.body.drain(..start);
        }
    }
    if let Some(Fault::Endless(_) | Fault::Dripping) = &fault {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        loop {
            match &fault {
                Some(Fault::Endless(body)) => stream.write_all(body)?,
                _ => {
                    stream.write_all(b" ")?;
                    thread::sleep(DRIP);
                }
            }
        }
    }
    let unfinished = match &fault {
        Some(Fault::DrippingHeaders) => Some("HTTP/1.1 200 OK\r\nX-Long: ".to_owned()),
        Some(Fault::DrippingRedirect(address)) => Some(format!(
            "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {address}\r\n\r\n"
        )),
        _ => None,
    };
    if let Some(unfinished) = unfinished {
        stream.write_all(unfinished.as_bytes())?;
        loop {
            stream.write_all(b"x")?;
            thread::sleep(DRIP);
        }
    }
    let mut head = format!(
        "HTTP/1.1 {} Said\r\nConnection: close\r\nContent-Length: {}\r\n",
        response.status,
        response.body.len()
    );
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let sent = match fault {
        Some(Fault::CutAfter(count) | Fault::StallAfter(count)) => count.min(response.body.len()),
        _ => response.body.len(),
    };
    if matches!(fault, Some(Fault::DrippingBody)) {
        for byte in &response.body {
            stream.write_all(&[*byte])?;
            thread::sleep(DRIP);
        }
        return Ok(());
    }
    if request.method != "HEAD" {
        if !request.path.starts_with("/api/") {
            state.lock().unwrap().sent += sent;
        }
        stream.write_all(&response.body[..sent])?;
    }
    if matches!(fault, Some(Fault::StallAfter(_))) {
        // The connection stays open as long as the program runs.
        mem::forget(stream);
    }
    Ok(())
}

fn read_request(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        method,
        path,
        headers,
        body,
    })
}

fn is_large(path: &str) -> bool {
    [".safetensors", ".bin", ".png", ".parquet"]
        .iter()
        .any(|ending| path.ends_with(ending))
}

/// The Git object of a file in Git LFS.
pub fn pointer(bytes: &[u8]) -> Vec<u8> {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        sha256(bytes),
        bytes.len()
    )
    .into_bytes()
}

/// SHA-256, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn git_blob(bytes: &[u8]) -> String {
    hexadecimal(&Sha1::digest(
        [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat(),
    ))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of an address, with `%2F` for `/`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes().filter(|&letter| letter != b'=') {
        let value = ALPHABET.iter().position(|&known| known == letter).unwrap();
        bits = (bits << 6) | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}
