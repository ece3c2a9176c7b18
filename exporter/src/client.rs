//! Asks an exporter for a document: one request over a connection of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use headers::{Authorization, HeaderMapExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::http::uri::Authority;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

use crate::config::Exporter;
use crate::files;
use crate::labels::text::inert;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer at most: 1,000 rows have two million.
const LONGEST: usize = 16 << 20;

/// One exporter.
pub struct Client {
    url: String,
    authority: String,
    /// With the name that its certificate is to have.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    secret: Option<String>,
    user: Option<String>,
    runtime: Runtime,
}

impl Client {
    /// Reads the files that are named, and asks nobody yet.
    pub fn new(exporter: &Exporter) -> anyhow::Result<Self> {
        let url = exporter.url.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let authority = rest.parse::<Authority>().ok();
        let is_sound = |it: &Authority| !it.host().is_empty() && !it.as_str().contains('@');
        let authority = authority.filter(|it| is_sound(it) && ["http", "https"].contains(&scheme));
        let authority = authority.with_context(|| {
            format!("--url {url}: expected http://HOST:PORT or https://HOST:PORT")
        })?;
        let host = authority.host();
        let tls = match scheme {
            "https" => Some((connector(exporter.ca_file.as_deref())?, server_name(host)?)),
            _ => None,
        };
        let port = authority.port_u16().unwrap_or(crate::config::DEFAULT_PORT);
        let authority = format!("{host}:{port}");
        let secret = exporter.token_file.as_deref().map(token).transpose()?;
        let user = exporter.user.clone();
        let runtime = Builder::new_current_thread().enable_all().build().context("start")?;
        Ok(Self { url: format!("{scheme}://{authority}"), authority, tls, secret, user, runtime })
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
        match &self.tls {
            None => self.ask_over(stream, path).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                let stream = stream.context("TLS: --tls.ca-file names whom to trust")?;
                self.ask_over(stream, path).await
            }
        }
    }

    async fn ask_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
    ) -> anyhow::Result<String> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", &self.authority);
        if let (Some(secret), Some(headers)) = (&self.secret, request.headers_mut()) {
            match &self.user {
                Some(user) => headers.typed_insert(Authorization::basic(user, secret)),
                None => headers.typed_insert(Authorization::bearer(secret)?),
            }
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        connection.abort();
        let text = String::from_utf8(body.into()).context("an answer that is no text")?;
        match status.as_u16() {
            200 => Ok(text),
            401 => bail!("a token is needed: --auth.token-file, or with users --auth.user, too"),
            404 => bail!("there are no views: --web.views=no, or an older exporter"),
            300..=399 => bail!("answered {status}: give the address to which that leads"),
            _ if text.trim().is_empty() => bail!("answered {status}"),
            _ => bail!("{}", inert(text.trim())),
        }
    }
}

/// Speaks TLS with whoever is trusted.
fn connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let named = || format!("--tls.ca-file {}", path.display());
            let content = files::read(path).with_context(named)?;
            for certificate in CertificateDer::pem_slice_iter(&content.bytes) {
                let certificate = certificate.with_context(named)?;
                roots.add(certificate).with_context(named)?;
            }
            ensure!(!roots.is_empty(), "{}: expected certificates in PEM", named());
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("TLS")?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An address of version 6 stands in brackets in a URL.
fn server_name(host: &str) -> anyhow::Result<ServerName<'static>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(bare.to_owned());
    name.with_context(|| format!("--url: `{host}` is no name of a host"))
}

fn token(path: &Path) -> anyhow::Result<String> {
    let content = files::read(path).and_then(|content| Ok(String::from_utf8(content.bytes)?));
    let content = content.with_context(|| format!("--auth.token-file {}", path.display()))?;
    let token = content.trim();
    let is_token = !token.is_empty() && !token.contains(char::is_whitespace);
    ensure!(is_token, "--auth.token-file {}: expected one line with the token", path.display());
    Ok(token.to_owned())
}
