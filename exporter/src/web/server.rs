//! Accepts connections and answers requests.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::web::accept::{self, Wanted};
use crate::web::app::{App, Page, View};
use crate::web::body::{Answer, Never, Source, Turns};
use crate::web::connections::{Connection, Connections};
use crate::web::front::{Denied, Front};
use crate::web::guarded::Guarded;
use crate::web::limits::{Ended, Limits};
use crate::web::pages;

/// hyper wants at least 8 KiB; a browser's cookies for the same host fit.
const HEADER_BYTES: usize = 16 << 10;
const HEADER_LINES: usize = 64;

struct Server<A> {
    app: Arc<A>,
    front: Front,
    limits: Limits,
    connections: Connections,
    turns: Turns,
}

/// Serves until the shutdown completes, then for as long as `limits.grace` at most.
pub async fn serve<A: App>(
    listeners: Vec<TcpListener>,
    app: Arc<A>,
    front: Front,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new(limits.clone());
    let turns = Turns::new(limits.writers);
    let server = Arc::new(Server { app, front, limits, connections, turns });
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut turn = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            accepted = accept(&listeners, &mut turn) => match accepted {
                Ok((stream, client)) => server.admit(stream, client, &mut tasks, &stopped),
                Err(error) => {
                    // Out of descriptors, most likely: the next try would fail at once again.
                    tracing::debug!("accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listeners);
    drop(stop);
    let all_done = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(server.limits.grace, all_done).await.is_err() {
        tasks.shutdown().await;
    }
}

/// The next connection of any listener; they take turns.
async fn accept(
    listeners: &[TcpListener],
    turn: &mut usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        for _ in 0..listeners.len() {
            *turn = (*turn + 1) % listeners.len();
            if let Poll::Ready(accepted) = listeners[*turn].poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

impl<A: App> Server<A> {
    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        tasks: &mut JoinSet<()>,
        stopped: &watch::Receiver<()>,
    ) {
        let (connection, ended) = self.connections.open(client.ip().to_canonical());
        if let Some(ended) = ended {
            self.app.ended(ended);
        }
        let task = {
            let (server, connection) = (self.clone(), connection.clone());
            let stopped = stopped.clone();
            // A struct, so that an aborted task leaves the list too.
            let open = Open { server, connection };
            async move { open.run(stream, stopped).await }
        };
        let abort = tasks.spawn(task);
        self.connections.running(&connection, abort);
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Response<Answer> {
        connection.work();
        let mut page = Page::of(request.uri().path());
        let mut response = self.respond(&mut page, request, connection).await;
        self.app.answered(page, response.status().as_u16());
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(self.front.headers());
        response
    }

    async fn respond(
        &self,
        page: &mut Page,
        request: &Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Response<Answer> {
        let say = |status, text: &str| plain(status, text, connection);
        let is_health = matches!(*page, Page::Healthy | Page::Ready);
        if !is_health && connection.reserved {
            let response = say(StatusCode::SERVICE_UNAVAILABLE, "all connections are taken\n");
            let response = with(response, header::CONNECTION, "close");
            return with(response, header::RETRY_AFTER, "1");
        }
        if !is_health && let Err(denied) = self.front.admit(request, connection.client).await {
            return refuse(denied, connection);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let response = say(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only\n");
            return with(response, header::ALLOW, "GET, HEAD");
        }
        if *page == Page::Landing && accept::samples(list(request, header::ACCEPT).as_deref()) {
            *page = Page::Metrics;
        }
        match *page {
            Page::Metrics => self.metrics(request, connection).await,
            Page::Landing => landing(pages::landing(&self.app.overview()), connection),
            Page::Healthy => say(StatusCode::OK, "healthy\n"),
            Page::Ready if self.app.ready() => say(StatusCode::OK, "ready\n"),
            Page::Ready => say(StatusCode::SERVICE_UNAVAILABLE, "no reading yet\n"),
            Page::View | Page::Unknown => match self.view(request, connection).await {
                Some(response) => {
                    *page = Page::View;
                    response
                }
                None => say(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    async fn view(
        &self,
        request: &Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Option<Response<Answer>> {
        let view = self.app.view(request.uri().path(), request.uri().query())?;
        let Ok(View { status, content_type, body }) =
            tokio::time::timeout(self.limits.scrape, view).await
        else {
            return Some(plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the view takes too long\n",
                connection,
            ));
        };
        let is_busy = status == StatusCode::SERVICE_UNAVAILABLE;
        let encodings = list(request, header::ACCEPT_ENCODING);
        let gzip = accept::gzip(encodings.as_deref()) && body.len() > SMALL;
        let body = if gzip { zip(&body) } else { body };
        let mut response = Response::new(Answer::whole(body, connection));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        let response = with(response, header::CONTENT_TYPE, content_type);
        let response = with(response, header::CONTENT_SECURITY_POLICY, VIEW_POLICY);
        let response = with(response, header::REFERRER_POLICY, "no-referrer");
        let response = with(response, header::VARY, "Accept-Encoding");
        let response = if is_busy { with(response, header::RETRY_AFTER, "1") } else { response };
        Some(if gzip { with(response, header::CONTENT_ENCODING, "gzip") } else { response })
    }

    async fn metrics(
        &self,
        request: &Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Response<Answer> {
        let accepts = list(request, header::ACCEPT);
        let wanted = match Wanted::new(accepts.as_deref(), request.uri().query()) {
            Ok(wanted) => wanted,
            Err(why) => return plain(StatusCode::BAD_REQUEST, &format!("{why}\n"), connection),
        };
        let gzip = accept::gzip(list(request, header::ACCEPT_ENCODING).as_deref());
        let head = |answer| {
            let response = Response::new(answer);
            let response = with(response, header::CONTENT_TYPE, wanted.format.content_type());
            let response = with(response, header::VARY, "Accept, Accept-Encoding");
            if gzip { with(response, header::CONTENT_ENCODING, "gzip") } else { response }
        };
        if request.method() == Method::HEAD {
            return head(Answer::whole("", connection));
        }
        let (waiting, text) = oneshot::channel();
        let busy = self.app.scrape(wanted, waiting).is_err();
        match tokio::time::timeout(self.limits.scrape, text).await {
            Ok(Ok(text)) if !busy => {
                let patience = self.limits.response;
                head(Answer::Stream(Source::new(text, connection, &self.turns, patience, gzip)))
            }
            _ => {
                let why = if busy { "too many scrapes wait\n" } else { "the scrape failed\n" };
                let response = plain(StatusCode::SERVICE_UNAVAILABLE, why, connection);
                with(response, header::RETRY_AFTER, "1")
            }
        }
    }
}

/// What a client that speaks HTTP where TLS is spoken reads, as from Go's servers.
const WANTS_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A method's first letter begins no handshake. Without a word, who scrapes by http:// would only see the
/// connection end.
async fn refuse_plain_text(stream: &TcpStream) -> io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || !first[0].is_ascii_uppercase() {
        return Ok(());
    }
    // What is left unread when a socket closes can cost the answer.
    let _ = stream.try_read(&mut [0; HEADER_BYTES]);
    let _ = stream.try_write(WANTS_TLS);
    Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP where TLS is spoken"))
}

/// A connection that is in the list of open ones.
struct Open<A: App> {
    server: Arc<Server<A>>,
    connection: Arc<Connection>,
}

impl<A: App> Drop for Open<A> {
    fn drop(&mut self) {
        self.server.connections.close(&self.connection);
    }
}

impl<A: App> Open<A> {
    async fn run(self, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let _ = stream.set_nodelay(true);
        let patience = self.server.limits.write;
        let Some(config) = self.server.front.settings().tls.clone() else {
            return self.serve(Guarded::new(stream, patience), stopped).await;
        };
        let handshake = async {
            refuse_plain_text(&stream).await?;
            TlsAcceptor::from(config).accept(Guarded::new(stream, patience)).await
        };
        let handshake = tokio::time::timeout(self.server.limits.request, handshake);
        tokio::select! {
            result = handshake => match result {
                Ok(Ok(stream)) => self.serve(stream, stopped).await,
                failed => {
                    self.server.app.ended(Ended::Failed);
                    if let Ok(Err(error)) = failed {
                        tracing::debug!("a client's handshake: {error}");
                    }
                }
            },
            _ = stopped.changed() => {}
        }
    }

    async fn serve<I>(self, stream: I, mut stopped: watch::Receiver<()>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (server, connection) = (&self.server, &self.connection);
            async move { Ok::<_, Never>(server.answer(&request, connection).await) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.server.limits.request)
                .max_buf_size(HEADER_BYTES)
                .max_headers(HEADER_LINES)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut stopping = false;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                // An error: the sender is gone, which is the signal.
                _ = stopped.changed(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = result {
            // A body fails only by its time.
            self.server.app.ended(if error.is_user() { Ended::Slow } else { Ended::Failed });
            tracing::debug!("a client's connection: {error}");
        }
    }
}

/// A header that is given several times is one list (RFC 9110 §5.3).
fn list(request: &Request<Incoming>, name: HeaderName) -> Option<String> {
    let values = request.headers().get_all(name).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Bodies up to this size are sent as they are.
const SMALL: usize = 1024;
/// Pages have a style and a script of this server's, and nothing else.
const VIEW_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                           form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

fn zip(body: &[u8]) -> Bytes {
    let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Memory takes everything.
    let _ = gzip.write_all(body);
    gzip.finish().unwrap_or_default().into()
}

fn refuse(denied: Denied, connection: &Arc<Connection>) -> Response<Answer> {
    let say = |status, text: &str| plain(status, text, connection);
    match denied {
        Denied::Unclear => say(StatusCode::BAD_REQUEST, "expected one Host\n"),
        Denied::Foreign => {
            let text = "no such host here; its other names are told with --web.allowed-hosts\n";
            say(StatusCode::MISDIRECTED_REQUEST, text)
        }
        Denied::TooMany => {
            let response = say(StatusCode::TOO_MANY_REQUESTS, "too many requests: rate_limit\n");
            with(response, header::RETRY_AFTER, "1")
        }
        Denied::Guessing => {
            let text = "too many passwords from this address wait to be checked\n";
            with(say(StatusCode::TOO_MANY_REQUESTS, text), header::RETRY_AFTER, "1")
        }
        Denied::Unknown { users } => {
            let (text, challenge) = match users {
                true => {
                    ("a user name and password are needed\n", "Basic realm=\"mediasoup-exporter\"")
                }
                false => ("a token is needed\n", "Bearer, Basic realm=\"mediasoup-exporter\""),
            };
            with(say(StatusCode::UNAUTHORIZED, text), header::WWW_AUTHENTICATE, challenge)
        }
    }
}

fn plain(status: StatusCode, text: &str, connection: &Arc<Connection>) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(text.to_owned(), connection));
    *response.status_mut() = status;
    with(response, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn landing(page: String, connection: &Arc<Connection>) -> Response<Answer> {
    let response = Response::new(Answer::whole(page, connection));
    let response = with(response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    with(response, header::CONTENT_SECURITY_POLICY, policy)
}

fn with(mut response: Response<Answer>, name: HeaderName, value: &'static str) -> Response<Answer> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
