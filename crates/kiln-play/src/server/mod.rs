//! Serves the page and the native engine to browsers on this machine.
//!
//! ```text
//! GET  /           the page, and its files
//! POST /ask        a question as a message; its answers come as a stream of messages, each with its length before it
//! ```
//!
//! A page of somebody else's must not be able to ask: each question has the token of the address in its header
//! `x-kiln-token`, and requests that name another host than this server's are refused, whoever answers for that name.
//! A browser that goes away ends the work on its questions.

mod guard;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::Rng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Engine, Listener, Shelf};
use guard::Guard;

/// A question with pictures is not longer, in bytes.
const LONGEST_QUESTION: usize = 64 << 20;
/// A connection that has not asked anything for so long is closed.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// How long the server waits where it cannot take another connection.
const A_MOMENT: Duration = Duration::from_millis(100);
/// Messages that wait for a slow browser, before the engine waits, too.
const WAITING: usize = 4;
/// Where questions go.
const QUESTIONS: &str = "/ask";
/// Bits of the token.
const TOKEN: usize = 128;

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Where it lies, as in `/page.js`.
    pub path: &'static str,
    /// Its kind, as in `text/javascript`.
    pub content_type: &'static str,
    /// What is in it.
    pub bytes: &'static [u8],
}

/// The server cannot begin, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not free.
    #[error(
        "cannot listen at {address}: {source}; is another program there? `--port 0` takes a free port"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection to the network broke.
    #[error("the page's server ended: {0}")]
    Serve(std::io::Error),
}

/// A server that listens already, on loopback.
pub struct Server<S> {
    engine: Arc<Engine<S>>,
    assets: &'static [Asset],
    listener: std::net::TcpListener,
    guard: Guard,
}

impl<S: Shelf + Send + Sync + 'static> Server<S> {
    /// Listens at `port` of this machine's loopback; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if that cannot be.
    pub fn listen(
        engine: Engine<S>,
        assets: &'static [Asset],
        port: u16,
    ) -> Result<Self, ServeError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |source| ServeError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let mut token = [0; TOKEN / 8];
        rand::rng().fill_bytes(&mut token);
        Ok(Self {
            engine: Arc::new(engine),
            assets,
            listener,
            guard: Guard::new(port, &token),
        })
    }

    /// Where the page is, with the token.
    pub fn address(&self) -> String {
        self.guard.address()
    }

    /// Serves until the program ends.
    ///
    /// # Errors
    /// [`ServeError::Serve`] if the network fails.
    pub fn serve(self) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServeError::Serve)?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(self.listener).map_err(ServeError::Serve)?;
            let mut router = Router::new();
            for asset in self.assets {
                router = router.route(asset.path, get(move || async move { file(asset) }));
            }
            let router = router
                .route(QUESTIONS, post(ask::<S>))
                .layer(DefaultBodyLimit::max(LONGEST_QUESTION))
                .layer(axum::middleware::from_fn_with_state(
                    Arc::new(self.guard),
                    guard::doorkeeper,
                ))
                .with_state(self.engine);
            serve_all(&listener, router).await
        })
    }
}

/// Serves each connection until it is closed, or says nothing for too long.
async fn serve_all(listener: &TcpListener, router: Router) -> ! {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // There are too many connections, or the one that came has gone.
            Err(_) => {
                tokio::time::sleep(A_MOMENT).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            // What goes wrong here concerns this connection alone.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(LONGEST_SILENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The browser that asked a question.
struct Browser {
    sender: mpsc::Sender<Vec<u8>>,
}

impl Listener for Browser {
    fn hear(&mut self, message: Vec<u8>) -> bool {
        self.sender.blocking_send(message).is_ok()
    }

    fn is_there(&self) -> bool {
        !self.sender.is_closed()
    }
}

fn file(asset: &Asset) -> Response {
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "no-cache"),
        // The page gets nothing from anywhere else, and nobody shows it in a frame.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, asset.bytes).into_response()
}

/// Answers a question, message by message as they come.
async fn ask<S: Shelf + Send + Sync + 'static>(
    State(engine): State<Arc<Engine<S>>>,
    question: Bytes,
) -> Response {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(WAITING);
    let (failed, failure) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut browser = Browser { sender };
        if let Err(sentence) = engine.answer(&question, &mut browser) {
            let _ = failed.send(sentence);
        }
    });
    let mut messages = ReceiverStream::new(receiver);
    let Some(first) = messages.next().await else {
        let sentence = failure.await.unwrap_or_default();
        return (StatusCode::BAD_REQUEST, sentence).into_response();
    };
    let messages = tokio_stream::once(first).chain(messages).map(|message| {
        let length = (message.len() as u32).to_le_bytes();
        Ok::<_, std::convert::Infallible>([length.as_slice(), &message].concat())
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (kind, Body::from_stream(messages)).into_response()
}
