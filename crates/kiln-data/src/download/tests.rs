//! Downloads from a real HTTP server on this machine that misbehaves on purpose.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::examples::gzip;
use crate::progress::NoProgress;

const NAME: &str = "numbers.gz";
/// How often kiln asks a server for the rest after it stops midway.
const ATTEMPTS: usize = 8;

/// The server's answer to a request.
#[derive(Clone)]
enum Behaviour {
    /// Sends everything, or the range that the request asks for.
    Whole(Vec<u8>),
    /// Sends everything, whatever the request asks for.
    WithoutRanges(Vec<u8>),
    /// Like `Whole`, but closes the connection after so many bytes.
    CutAfter(Vec<u8>, usize),
    /// This status and a short page.
    Status(&'static str),
}

/// An HTTP server on the loopback interface; request N gets behaviour N, later ones the last behaviour.
struct Server {
    url: String,
    /// The start of the range in each request.
    starts: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    fn start(behaviours: Vec<Behaviour>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mnist/", listener.local_addr().unwrap());
        let starts = Arc::new(Mutex::new(Vec::new()));
        let seen = starts.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let number = seen.lock().unwrap().len();
                let behaviour = &behaviours[number.min(behaviours.len() - 1)];
                // The client may hang up first, for example after a page that is not the file.
                let _ = answer(stream.unwrap(), behaviour, &seen);
            }
        });
        Self { url, starts }
    }

    fn starts(&self) -> Vec<usize> {
        self.starts.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    behaviour: &Behaviour,
    starts: &Mutex<Vec<usize>>,
) -> io::Result<()> {
    let mut start = 0;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    starts.lock().unwrap().push(start);
    let (status, body, sent) = match behaviour {
        Behaviour::Status(status) => (*status, &b"<html>sorry</html>"[..], usize::MAX),
        Behaviour::WithoutRanges(bytes) => ("200 OK", &bytes[..], usize::MAX),
        Behaviour::Whole(bytes) | Behaviour::CutAfter(bytes, _)
            if start > 0 && start >= bytes.len() =>
        {
            ("416 Range Not Satisfiable", &b""[..], usize::MAX)
        }
        Behaviour::Whole(bytes) => (ok(start), &bytes[start..], usize::MAX),
        Behaviour::CutAfter(bytes, sent) => (ok(start), &bytes[start..], *sent),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body[..sent.min(body.len())])
}

fn ok(start: usize) -> &'static str {
    if start > 0 {
        "206 Partial Content"
    } else {
        "200 OK"
    }
}

/// 300,000 incompressible bytes, gzipped: several chunks.
fn packed() -> Vec<u8> {
    gzip(&content())
}

fn content() -> Vec<u8> {
    crate::shuffled(75_000, 0, 0)
        .iter()
        .flat_map(|value| value.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// The file `NAME`, with [`content`] in it.
fn numbers() -> RemoteFile {
    let digest = sha256(&content());
    RemoteFile {
        name: NAME,
        content_sha256: digest.leak(),
        form: Form::Gzip,
    }
}

/// Fetches `NAME` into `folder` from the servers in turn.
fn fetch_from(folder: &Path, servers: &[&Server]) -> Result<(), DataError> {
    let file = numbers();
    let mirrors: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    let collection = collection(&file, &mirrors);
    fetch_missing(folder, &collection, &NoProgress)
}

fn collection<'a>(file: &'a RemoteFile, mirrors: &'a [&'a str]) -> Collection<'a> {
    Collection {
        folder: "numbers",
        files: std::slice::from_ref(file),
        mirrors,
        instead: "count them yourself",
    }
}

/// Runs the servers' behaviours against an empty folder, and returns the result and the folder.
fn fetched(servers: &[&Server]) -> (Result<(), String>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let result = fetch_from(folder.path(), servers).map_err(|error| error.to_string());
    (result, folder)
}

fn assert_complete(folder: &Path) {
    assert!(fs::read(folder.join(NAME)).unwrap() == packed());
    assert!(!folder.join(format!("{NAME}.part")).exists());
}

#[test]
fn a_whole_file_is_renamed_into_place_and_not_fetched_again() {
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    let (result, folder) = fetched(&[&server]);
    result.unwrap();
    assert_complete(folder.path());
    fetch_from(folder.path(), &[&server]).unwrap();
    assert_eq!(server.starts(), [0]);
}

#[test]
fn a_transfer_that_stops_is_resumed_where_it_stopped() {
    let cut = Behaviour::CutAfter(packed(), 100_000);
    let server = Server::start(vec![cut.clone(), cut, Behaviour::Whole(packed())]);
    let (result, folder) = fetched(&[&server]);
    result.unwrap();
    assert_complete(folder.path());
    assert_eq!(server.starts(), [0, 100_000, 200_000]);
}

#[test]
fn a_later_run_resumes_what_an_earlier_one_left() {
    let broken = Server::start(vec![
        Behaviour::CutAfter(packed(), 50_000),
        Behaviour::Status("503 Busy"),
    ]);
    let (result, folder) = fetched(&[&broken]);
    assert!(result.unwrap_err().contains("HTTP status 503"));
    assert!(!folder.path().join(NAME).exists());
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    fetch_from(folder.path(), &[&server]).unwrap();
    assert_complete(folder.path());
    assert_eq!(server.starts(), [50_000]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let server = Server::start(vec![
        Behaviour::CutAfter(packed(), 70_000),
        Behaviour::WithoutRanges(packed()),
    ]);
    let (result, folder) = fetched(&[&server]);
    result.unwrap();
    assert_complete(folder.path());
    assert_eq!(server.starts(), [0, 70_000]);
}

#[test]
fn a_wrong_part_is_thrown_away_and_fetched_again() {
    let mut wrong = packed();
    wrong[150_000] ^= 1;
    for left_over in [&wrong[..200_000], &wrong, &[&wrong[..], b"more"].concat()] {
        let server = Server::start(vec![Behaviour::Whole(packed())]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("{NAME}.part")), left_over).unwrap();
        fetch_from(folder.path(), &[&server]).unwrap();
        assert_complete(folder.path());
        assert_eq!(server.starts(), [left_over.len(), 0]);
    }
}

#[test]
fn a_complete_part_needs_no_transfer() {
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("{NAME}.part")), packed()).unwrap();
    fetch_from(folder.path(), &[&server]).unwrap();
    assert_complete(folder.path());
}

#[test]
fn the_second_mirror_helps_out() {
    let mut corrupt = packed();
    corrupt[1000] ^= 1;
    for first in [
        Behaviour::Status("404 Not Found"),
        Behaviour::Status("500 Internal Server Error"),
        Behaviour::WithoutRanges(b"<html>please log in</html>".to_vec()),
        Behaviour::Whole(corrupt),
        Behaviour::CutAfter(packed(), 0),
    ] {
        let (first, second) = (
            Server::start(vec![first]),
            Server::start(vec![Behaviour::Whole(packed())]),
        );
        let (result, folder) = fetched(&[&first, &second]);
        result.unwrap();
        assert_complete(folder.path());
    }
}

#[test]
fn a_transfer_is_continued_at_the_second_mirror() {
    let first = Server::start(vec![
        Behaviour::CutAfter(packed(), 90_000),
        Behaviour::Status("404 Not Found"),
    ]);
    let second = Server::start(vec![Behaviour::Whole(packed())]);
    let (result, folder) = fetched(&[&first, &second]);
    result.unwrap();
    assert_complete(folder.path());
    assert_eq!(second.starts(), [90_000]);
}

#[test]
fn when_nothing_helps_the_error_says_what_each_mirror_did() {
    let mut corrupt = packed();
    corrupt[1000] ^= 1;
    // Nothing listens on port 1, and the system never assigns it as a free port.
    let unreachable = Server {
        url: "http://127.0.0.1:1/".to_owned(),
        starts: Arc::default(),
    };
    let missing = Server::start(vec![Behaviour::Status("404 Not Found")]);
    let page = Server::start(vec![Behaviour::WithoutRanges(
        b"<html>please log in</html>".to_vec(),
    )]);
    let corrupt = Server::start(vec![Behaviour::Whole(corrupt)]);
    let (result, folder) = fetched(&[&unreachable, &missing, &page, &corrupt]);
    let message = result.unwrap_err();
    for part in [
        "could not download numbers.gz",
        "could not be reached",
        "HTTP status 404",
        "something else than the file",
        "wrong checksum",
        "or count them yourself",
    ] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert!(!folder.path().join(NAME).exists());
}

#[test]
fn a_mirror_that_always_stops_is_given_up_and_what_came_is_kept() {
    let server = Server::start(vec![Behaviour::CutAfter(packed(), 1000)]);
    let (result, folder) = fetched(&[&server]);
    let expected = format!("stopped sending after {} bytes", 1000 * ATTEMPTS);
    assert!(result.unwrap_err().contains(&expected));
    assert_eq!(server.starts().len(), ATTEMPTS);
    let part = fs::read(folder.path().join(format!("{NAME}.part"))).unwrap();
    assert!(part == packed()[..1000 * ATTEMPTS]);
}

#[test]
fn a_file_without_end_is_stopped() {
    let mut endless = packed();
    endless.resize(MAX_BYTES as usize + (1 << 20), 7);
    let server = Server::start(vec![Behaviour::WithoutRanges(endless)]);
    let (result, folder) = fetched(&[&server]);
    assert!(result.unwrap_err().contains("wrong checksum"));
    assert!(!folder.path().join(format!("{NAME}.part")).exists());
}

#[test]
#[cfg(unix)]
fn a_link_in_place_of_the_partial_file_is_not_followed() {
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("another's");
    fs::write(&target, "stays").unwrap();
    std::os::unix::fs::symlink(&target, folder.path().join(format!("{NAME}.part"))).unwrap();
    fetch_from(folder.path(), &[&server]).unwrap();
    assert!(folder.path().join(NAME).exists());
    assert_eq!(fs::read(&target).unwrap(), b"stays");
}

#[test]
fn a_file_in_the_cache_that_has_changed_is_fetched_again() {
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    let (result, folder) = fetched(&[&server]);
    result.unwrap();
    let mut flipped = packed();
    flipped[150_000] ^= 1;
    for damaged in [&flipped[..], &flipped[..1000], &[]] {
        fs::write(folder.path().join(NAME), damaged).unwrap();
        fetch_from(folder.path(), &[&server]).unwrap();
        assert_complete(folder.path());
    }
    assert_eq!(server.starts(), [0; 4]);
}

#[test]
fn without_a_cache_that_can_be_written_to_a_temporary_folder_serves() {
    let server = Server::start(vec![Behaviour::Whole(packed())]);
    let (file, mirrors) = (numbers(), [server.url.as_str()]);
    let collection = collection(&file, &mirrors);
    let home = tempfile::tempdir().unwrap();
    // Tests may run as root, who can write everywhere; but even root cannot make a folder inside a file.
    let blocked = home.path().join("file");
    fs::write(&blocked, "").unwrap();
    for cache in [Some(blocked), None] {
        let downloaded = download(cache, &collection, &NoProgress).unwrap();
        let folder = downloaded.folder().to_owned();
        assert_complete(&folder);
        drop(downloaded);
        assert!(!folder.exists());
    }
    let cache = home.path().join("cache");
    let downloaded = download(Some(cache.clone()), &collection, &NoProgress).unwrap();
    assert_eq!(downloaded.folder(), cache.join("numbers"));
    drop(downloaded);
    assert_complete(&cache.join("numbers"));
}

#[test]
fn advice_is_about_what_could_not_be_downloaded() {
    // Nothing listens on port 1.
    let mirrors = ["http://127.0.0.1:1/"];
    for (collection, words, foreign) in [
        (
            PYTORCH_FID_WEIGHTS,
            ["--feature-weights", "feature_weights"],
            "MNIST",
        ),
        (MNIST_FILES, ["--data", "MNIST's four files"], "weights"),
    ] {
        let collection = Collection {
            mirrors: &mirrors,
            ..collection
        };
        let cache = tempfile::tempdir().unwrap();
        let refused = download(Some(cache.path().to_owned()), &collection, &NoProgress);
        let sentence = refused.unwrap_err().to_string();
        for word in words {
            assert!(sentence.contains(word), "{sentence}");
        }
        assert!(!sentence.contains(foreign), "{sentence}");
    }
}

#[test]
fn the_embedded_files_have_the_digests_of_the_real_ones() {
    for file in &MNIST[2..] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("data")
            .join(file.name);
        assert!(file.is_right(&path), "{}", file.name);
    }
}
