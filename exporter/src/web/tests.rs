//! The server over real sockets. Where a test waits, it waits for what it checks.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

mod front;

/// Longer than anything takes: a test that waits so long has failed.
const FOREVER: Duration = Duration::from_secs(60);

enum Scrape {
    /// So many pieces.
    Text(usize),
    Nothing,
    BreaksOff,
    Busy,
    Holds,
}

struct Fake {
    scrape: Scrape,
    ready: AtomicBool,
    scrapes: AtomicUsize,
    answers: Mutex<Vec<(Page, u16)>>,
    ended: mpsc::SyncSender<Ended>,
    held: Mutex<Vec<Waiting>>,
}

const PIECE: usize = 64 << 10;

type Piece = Result<Option<Bytes>, Withdrawn>;

/// A text of these pieces.
struct Pieces<I>(I);

impl<I: Iterator<Item = Piece> + Send> Text for Pieces<I> {
    fn next_piece(&mut self) -> Piece {
        self.0.next().expect("nobody asks after the end")
    }
}

fn send<I: IntoIterator<Item = Piece, IntoIter: Send + 'static>>(waiting: Waiting, pieces: I) {
    let _ = waiting.send(Box::new(Pieces(pieces.into_iter())));
}

impl App for Fake {
    fn scrape(&self, wanted: Wanted, waiting: Waiting) -> Result<(), Busy> {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        match self.scrape {
            Scrape::Text(pieces) => {
                let first = format!("{wanted:?}\n").into();
                let rest = (1..pieces).map(|_| Ok(Some(vec![b'x'; PIECE].into())));
                send(waiting, [Ok(Some(first))].into_iter().chain(rest).chain([Ok(None)]));
            }
            Scrape::Nothing => drop(waiting),
            Scrape::BreaksOff => send(waiting, [Ok(Some("half".into())), Err(Withdrawn)]),
            Scrape::Busy => return Err(Busy),
            Scrape::Holds => self.held.lock().unwrap().push(waiting),
        }
        Ok(())
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn view(&self, path: &str, query: Option<&str>) -> Option<BoxFuture<'static, View>> {
        let body = format!("<p>{}</p>", query.unwrap_or_default()).repeat(200).into();
        let view = View { status: 200, content_type: "text/html; charset=utf-8", body };
        (path == "/view").then(|| async { view }.boxed())
    }

    fn overview(&self) -> Overview {
        Overview { version: "1.2.3".into(), ..Overview::default() }
    }

    fn answered(&self, page: Page, status: u16) {
        self.answers.lock().unwrap().push((page, status));
    }

    fn ended(&self, why: Ended) {
        let _ = self.ended.try_send(why);
    }
}

struct Running {
    address: SocketAddr,
    app: Arc<Fake>,
    ended: mpsc::Receiver<Ended>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

async fn start(scrape: Scrape, access: Access, limits: Limits) -> Running {
    let front = Front::new(access, Hosts::new(["*"]), Settings::default());
    start_behind(front, scrape, limits).await
}

async fn start_behind(front: Front, scrape: Scrape, limits: Limits) -> Running {
    let (sender, ended) = mpsc::sync_channel(1000);
    let app = Arc::new(Fake {
        scrape,
        ready: AtomicBool::new(false),
        scrapes: AtomicUsize::new(0),
        answers: Mutex::default(),
        ended: sender,
        held: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let server = tokio::spawn(serve(vec![listener], app.clone(), front, limits, shutdown));
    Running { address, app, ended, stop: Some(stop), server }
}

impl Running {
    /// One request on a connection of its own; everything that comes back.
    async fn send(&self, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // A reset is an end too.
        let _ = tokio::time::timeout(FOREVER, stream.read_to_end(&mut response)).await.unwrap();
        response
    }

    async fn get(&self, path: &str, headers: &str) -> (String, Vec<u8>) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        split(&self.send(&request).await)
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(FOREVER, self.server).await.unwrap().unwrap();
    }
}

/// Head in lower case, and body with its chunks joined.
fn split(response: &[u8]) -> (String, Vec<u8>) {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(response.len());
    let head = String::from_utf8_lossy(&response[..end]).to_lowercase();
    let body = &response[(end + 4).min(response.len())..];
    (head.clone(), if head.contains("chunked") { join(body) } else { body.to_vec() })
}

fn join(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    body
}

fn whole(response: &[u8]) -> bool {
    response.ends_with(b"\r\n0\r\n\r\n")
}

#[tokio::test]
async fn formats_and_groups_are_negotiated() {
    let running = start(Scrape::Text(1), Access::open(), Limits::default()).await;
    let (head, body) = running.get("/metrics", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("Text"));
    let (head, body) =
        running.get("/metrics?families=self", "Accept: application/openmetrics-text\r\n").await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("OpenMetrics") && body.contains("own: true"), "{body}");
    let (head, _) = running.get("/metrics?families=everything", "").await;
    assert!(head.starts_with("http/1.1 400"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn gzip_comes_back_as_it_was() {
    let running = start(Scrape::Text(20), Access::open(), Limits::default()).await;
    let (_, plain) = running.get("/metrics", "").await;
    let (head, packed) = running.get("/metrics", "Accept-Encoding: gzip, br\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(packed.len() < plain.len() / 10);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain);
    running.stop().await;
}

#[tokio::test]
async fn pages_and_methods() {
    let running = start(Scrape::Text(1), Access::open(), Limits::default()).await;
    let check = async |request: &str, status: &str, content: &str| {
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let response = running.send(&request).await;
        let text = String::from_utf8_lossy(&response);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{request} {text}");
        assert!(text.contains(content), "{request} {text}");
    };
    check("GET /", "200", "<title>mediasoup-exporter").await;
    check("GET /-/healthy", "200", "healthy").await;
    check("GET /-/ready", "503", "no reading yet").await;
    running.app.ready.store(true, Ordering::Relaxed);
    check("GET /-/ready", "200", "ready").await;
    check("GET /metrics/", "404", "no such page").await;
    check("GET /../etc/passwd", "404", "").await;
    check("POST /metrics", "405", "allow: GET, HEAD").await;
    check("DELETE /", "405", "").await;
    check("OPTIONS *", "405", "").await;
    let before = running.app.scrapes.load(Ordering::Relaxed);
    let head = running.send("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 200") && head.ends_with(b"\r\n\r\n"));
    assert_eq!(running.app.scrapes.load(Ordering::Relaxed), before);
    assert!(running.app.answers.lock().unwrap().contains(&(Page::Unknown, 404)));
    running.stop().await;
}

#[tokio::test]
async fn a_token_guards_everything_but_health() {
    let access = Access::token("s3cret").unwrap();
    let running = start(Scrape::Text(1), access, Limits::default()).await;
    for path in ["/", "/metrics", "/metrics?families=self", "/nowhere", "/-/", "//metrics"] {
        for method in ["GET", "HEAD", "POST"] {
            let request = format!("{method} {path} HTTP/1.0\r\n\r\n");
            let (head, _) = split(&running.send(&request).await);
            assert!(head.starts_with("http/1.0 401"), "{method} {path} {head}");
            assert!(head.contains("www-authenticate"), "{head}");
        }
    }
    assert_eq!(running.app.scrapes.load(Ordering::Relaxed), 0);
    let (head, _) = running.get("/-/healthy", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (head, _) = running.get("/metrics", "Authorization: Bearer s3cret\r\n").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (head, _) = running.get("/metrics", "Authorization: Bearer wrong\r\n").await;
    assert!(head.starts_with("http/1.1 401"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn a_scrape_that_fails_says_so() {
    let running = start(Scrape::Nothing, Access::open(), Limits::default()).await;
    let (head, _) = running.get("/metrics", "").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
    running.stop().await;
    let running = start(Scrape::Busy, Access::open(), Limits::default()).await;
    let (head, _) = running.get("/metrics", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn half_a_text_is_never_taken_for_a_whole_one() {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let running = start(Scrape::BreaksOff, Access::open(), Limits::default()).await;
    assert!(!whole(&running.send(request).await));
    running.stop().await;
    let running = start(Scrape::Text(2), Access::open(), Limits::default()).await;
    assert!(whole(&running.send(request).await));
    running.stop().await;
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let running = start(Scrape::Text(1), Access::open(), Limits::default()).await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let address = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for garbage in ["\0\0\0\0\r\n\r\n", "\x16\x03\x01\x02\0\x01\0\r\n\r\n", &long, &many, &address]
    {
        let response = running.send(garbage).await;
        // Refused with a status, or cut off while still sending.
        assert!(response.is_empty() || response.starts_with(b"HTTP/1.1 4"), "{response:?}");
    }
    // A client that leaves in the middle of its request.
    drop(TcpStream::connect(running.address).await.unwrap());
    let (head, _) = running.get("/metrics", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn slow_requests_run_out_of_time() {
    let limits = Limits { request: Duration::from_millis(20), ..Limits::default() };
    let running = start(Scrape::Text(1), Access::open(), limits).await;
    let response = running.send("GET /metrics HTTP/1.1\r\nHost:").await;
    assert!(!String::from_utf8_lossy(&response).contains("200 OK"));
    assert_eq!(running.ended.recv_timeout(FOREVER), Ok(Ended::Failed));
    running.stop().await;
}

#[tokio::test]
async fn slow_requests_cannot_take_all_connections() {
    let (request, first) = (FOREVER * 60, Duration::ZERO);
    let limits = Limits { connections: 4, request, first, ..Limits::default() };
    let running = start(Scrape::Text(1), Access::open(), limits).await;
    let mut loris = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        loris.push(stream);
        let (head, _) = running.get("/metrics", "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    assert_eq!(running.ended.recv_timeout(FOREVER), Ok(Ended::Idle));
    running.stop().await;
}

#[tokio::test]
async fn a_running_response_is_not_ended_for_a_newcomer_who_may_ask_for_health() {
    let limits = Limits { connections: 1, reserve: 2, ..Limits::default() };
    let running = start(Scrape::Holds, Access::open(), limits).await;
    let mut first = TcpStream::connect(running.address).await.unwrap();
    first.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    while running.app.held.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut silent = Vec::new();
    for _ in 0..10 {
        let (head, _) = running.get("/-/healthy", "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let (head, _) = running.get("/metrics", "").await;
        assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    assert_eq!(running.ended.recv_timeout(FOREVER), Ok(Ended::Refused));
    let waiting = running.app.held.lock().unwrap().pop().unwrap();
    send(waiting, [Ok(Some("late".into())), Ok(None)]);
    let mut response = String::new();
    first.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("late"), "{response}");
    running.stop().await;
}

/// All ask before the server has looked at any of them.
#[tokio::test]
async fn who_comes_in_a_crowd_reads_an_answer() {
    let limits = Limits { connections: 4, reserve: 64, first: FOREVER, ..Limits::default() };
    let running = start(Scrape::Text(1), Access::open(), limits).await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut stream = std::net::TcpStream::connect(running.address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        crowd.push(TcpStream::from_std(stream).unwrap());
    }
    let mut refused = 0;
    for mut stream in crowd {
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("no reset");
        let is_served = response.starts_with("HTTP/1.0 200");
        refused += usize::from(!is_served);
        assert!(is_served || response.ends_with("all connections are taken\n"), "{response}");
    }
    assert!(refused > 0);
    running.stop().await;
}

#[tokio::test]
async fn one_client_cannot_take_all_places() {
    let limits = Limits { connections: 4, connections_of_client: 2, ..Limits::default() };
    let running = start(Scrape::Holds, Access::open(), limits).await;
    let mut greedy = Vec::new();
    for held in 0..2 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        while running.app.held.lock().unwrap().len() == held {
            tokio::task::yield_now().await;
        }
        greedy.push(stream);
    }
    let (head, _) = running.get("/", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(running.address).await.unwrap();
    other.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut response = String::new();
    other.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.0 200"), "{response}");
    running.stop().await;
}

#[tokio::test]
async fn slow_readers_run_out_of_time() {
    let limits = Limits { write: Duration::from_millis(20), ..Limits::default() };
    let running = start(Scrape::Text(1000), Access::open(), limits).await;
    let mut stuck = TcpStream::connect(running.address).await.unwrap();
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let ended = tokio::task::spawn_blocking(move || (running.ended.recv_timeout(FOREVER), running));
    let (ended, running) = ended.await.unwrap();
    assert_eq!(ended, Ok(Ended::Failed));
    running.stop().await;
}

/// Who takes something now and then, but never all.
#[tokio::test]
async fn a_response_that_is_never_whole_ends() {
    let limits = Limits { response: Duration::from_millis(50), ..Limits::default() };
    let running = start(Scrape::Text(usize::MAX), Access::open(), limits).await;
    let response = running.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(response.len() > PIECE && !whole(&response));
    assert_eq!(running.ended.recv_timeout(FOREVER), Ok(Ended::Slow));
    running.stop().await;
}

/// A piece is written when the one before has been taken.
#[tokio::test]
async fn a_stuck_reader_holds_no_text() {
    let running = start(Scrape::Holds, Access::open(), Limits::default()).await;
    let mut stuck = TcpStream::connect(running.address).await.unwrap();
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    while running.app.held.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let waiting = running.app.held.lock().unwrap().pop().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    send(
        waiting,
        std::iter::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Some(vec![b'x'; PIECE].into()))
        }),
    );
    let mut first = [0; 12];
    stuck.read_exact(&mut first).await.unwrap();
    // The sockets' buffers hold some MB.
    for _ in 0..10 {
        let (head, _) = running.get("/", "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    assert!(written.load(Ordering::Relaxed) < (16 << 20) / PIECE);
    running.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_stuck_clients() {
    let running = start(Scrape::Text(1000), Access::open(), Limits::default()).await;
    let mut stuck = TcpStream::connect(running.address).await.unwrap();
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stuck.read_exact(&mut first).await.unwrap();
    let idle = TcpStream::connect(running.address).await.unwrap();
    let address = running.address;
    running.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    drop((stuck, idle));
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let running = start(Scrape::Text(1), Access::open(), Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"healthy\n") {
            assert_ne!(stream.read_buf(&mut response).await.unwrap(), 0);
        }
    }
    running.stop().await;
}
