//! Asks an exporter for a document: one request over a connection of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use headers::{Authorization, HeaderMapExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::config::Exporter;
use crate::files;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer at most: 1,000 rows have two million.
const LONGEST: usize = 16 << 20;

/// One exporter.
pub struct Client {
    url: String,
    authority: String,
    token: Option<String>,
    runtime: Runtime,
}

impl Client {
    /// Reads the token that is asked for, and asks nobody yet.
    pub fn new(exporter: &Exporter) -> anyhow::Result<Self> {
        let url = exporter.url.trim_end_matches('/').to_owned();
        if url.starts_with("https://") {
            bail!(
                "--url {url}: TLS is not spoken here; ask on the exporter's host, or through `ssh -L`"
            );
        }
        let rest = url.strip_prefix("http://").unwrap_or(&url);
        let authority: hyper::http::uri::Authority =
            rest.parse().with_context(|| format!("--url {url}: expected http://HOST:PORT"))?;
        let port = authority.port_u16().unwrap_or(crate::config::DEFAULT_PORT);
        let authority = format!("{}:{port}", authority.host());
        let token = exporter.token_file.as_deref().map(token).transpose()?;
        let runtime = Builder::new_current_thread().enable_all().build().context("start")?;
        Ok(Self { url: format!("http://{authority}"), authority, token, runtime })
    }

    /// The body of a page.
    ///
    /// # Errors
    /// Why there is none, with the remedy.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        let answer = async { tokio::time::timeout(PATIENCE, self.ask(path)).await };
        let answer = self.runtime.block_on(answer);
        let answer = answer.map_err(|_| anyhow::anyhow!("no answer in {PATIENCE:?}"));
        answer.flatten().with_context(|| self.url.clone())
    }

    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.context("is an exporter running there? --url says where")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", &self.authority);
        if let (Some(token), Some(headers)) = (&self.token, request.headers_mut()) {
            headers.typed_insert(Authorization::bearer(token)?);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        connection.abort();
        let text = String::from_utf8(body.into()).context("an answer that is no text")?;
        match status.as_u16() {
            200 => Ok(text),
            401 => bail!("a token is needed: --auth.token-file"),
            404 => bail!("there are no views: --web.views=no, or an older exporter"),
            _ => bail!("{}", text.trim()),
        }
    }
}

fn token(path: &Path) -> anyhow::Result<String> {
    let content = files::read(path).and_then(|content| Ok(String::from_utf8(content.bytes)?));
    let content = content.with_context(|| format!("--auth.token-file {}", path.display()))?;
    let token = content.trim();
    let is_token = !token.is_empty() && !token.contains(char::is_whitespace);
    ensure!(is_token, "--auth.token-file {}: expected one line with the token", path.display());
    Ok(token.to_owned())
}
