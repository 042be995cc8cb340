//! The server, asked over loopback as browsers and others ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use burn::tensor::Device;
use kiln_pipeline::Pipeline;
use kiln_play::protocol::{Answer, Answered, Ask, ModelName, Question, from_message, to_message};
use kiln_play::{Asset, Engine, Server, Shelf};

struct Empty;

impl Shelf for Empty {
    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    fn load(&self, _: &str, _: &Device) -> Option<Result<Pipeline, String>> {
        None
    }
}

const ASSETS: &[Asset] = &[Asset {
    path: "/",
    content_type: "text/html",
    bytes: b"<p>the page</p>",
}];

/// A running server's port and token.
fn server() -> (u16, String) {
    let engine = Engine::new(Empty, Device::flex());
    let server = Server::listen(engine, ASSETS, 0).unwrap();
    let address = server.address();
    std::thread::spawn(|| server.serve());
    let address = address.strip_prefix("http://127.0.0.1:").unwrap();
    let (port, token) = address.split_once("/#token=").unwrap();
    (port.parse().unwrap(), token.to_owned())
}

/// A connection over which a request was sent, in which `PORT` is the server's.
fn sent(port: u16, request: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = request.replace("PORT", &port.to_string());
    stream.write_all(request.as_bytes()).unwrap();
    // The server may refuse before it has read all.
    let _ = stream.write_all(body);
    stream
}

/// The whole response.
fn response(port: u16, request: &str, body: &[u8]) -> Vec<u8> {
    let mut response = Vec::new();
    sent(port, request, body)
        .read_to_end(&mut response)
        .unwrap();
    response
}

/// The status of the response.
fn status(port: u16, request: &str, body: &[u8]) -> String {
    let mut line = String::new();
    let mut stream = BufReader::new(sent(port, request, body));
    stream.read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn question(ask: Ask) -> Vec<u8> {
    to_message(&Question { id: 9, ask }, &[]).unwrap()
}

fn post(token: &str, length: usize) -> String {
    format!(
        "POST /ask HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nx-kiln-token: {token}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

#[test]
fn pages_are_served_and_questions_answered() {
    let (port, token) = server();
    let page = response(
        port,
        "GET / HTTP/1.1\r\nhost: localhost:PORT\r\nconnection: close\r\n\r\n",
        &[],
    );
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("200 OK") && page.ends_with("<p>the page</p>"),
        "{page}"
    );
    assert!(page.contains("default-src 'self'"), "{page}");

    let question = question(Ask::Model {
        model: "m".to_owned(),
    });
    let answer = response(port, &post(&token, question.len()), &question);
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    // The chunk holds one message behind its length.
    let start = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let chunk = &answer[start..];
    let line = chunk.windows(2).position(|two| two == b"\r\n").unwrap();
    let length = usize::from_str_radix(std::str::from_utf8(&chunk[..line]).unwrap(), 16).unwrap();
    let message = &chunk[line + 2..line + 2 + length];
    assert_eq!(message[..4], (length as u32 - 4).to_le_bytes());
    let (answered, _): (Answered, _) = from_message(&message[4..]).unwrap();
    assert_eq!(answered.id, 9);
    assert!(matches!(answered.answer, Answer::Refused { sentence } if sentence.contains("`m`")));
}

#[test]
fn hostile_requests_are_refused_and_the_server_goes_on() {
    let (port, token) = server();
    let models = question(Ask::Models);
    let length = models.len();
    let asked = |request: &str, body: &[u8]| status(port, request, body);
    let ask = |head: &str| {
        format!("POST /ask HTTP/1.1\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n")
    };
    let own = "host: 127.0.0.1:PORT\r\n";
    let with_token = format!("x-kiln-token: {token}\r\n");
    for (request, expected) in [
        (ask(own), "403"),
        (ask(&format!("{own}x-kiln-token: 00\r\n")), "403"),
        (
            ask(&format!("{own}{with_token}origin: http://evil.example\r\n")),
            "403",
        ),
        (ask(&format!("{own}{with_token}origin: null\r\n")), "403"),
        // Another name for this machine.
        (
            ask(&format!("host: evil.example:PORT\r\n{with_token}")),
            "403",
        ),
        (ask(&with_token), "403"),
        (
            "GET /../Cargo.toml HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "404",
        ),
        (
            "GET /%2e%2e/Cargo.toml HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "404",
        ),
        (
            "GET //etc/passwd HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "404",
        ),
        (
            "GET /ask HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n".to_owned(),
            "403",
        ),
        (
            "PUT / HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\nconnection: close\r\n\r\n".to_owned(),
            "405",
        ),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        assert_eq!(asked(&request, &models), expected, "{request}");
    }
    // Without the token the answer does not wait for the body, of which nothing comes.
    assert_eq!(asked(&post("00", 1000), b""), "403");
    // A body of a terabyte, and no message at all.
    assert_eq!(asked(&post(&token, 1 << 40), &models), "413");
    for body in [b"".as_slice(), b"hello there", &[255; 100]] {
        assert_eq!(asked(&post(&token, body.len()), body), "400", "{body:?}");
    }
    assert_eq!(asked(&post(&token, length), &models), "200");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let (port, _) = server();
    let engine = Engine::new(Empty, Device::flex());
    let refused = Server::listen(engine, ASSETS, port)
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains(&port.to_string()) && refused.contains("--port 0"),
        "{refused}"
    );
}
