//! What requests pass before they are answered, over real sockets and real TLS.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;
use crate::web::authority::{Authority, Identity};

/// Settings from a text; files that it names are these.
fn settings(text: &str, files: &[(&str, &str)]) -> Settings {
    let mut read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let file = files.iter().find(|(file, _)| *file == name);
        Ok(file.unwrap_or_else(|| panic!("{name}")).1.as_bytes().to_vec())
    };
    Settings::new(text, Path::new("/"), &mut read).unwrap_or_else(|error| panic!("{error:#}"))
}

fn front(settings: Settings) -> Front {
    Front::new(Access::open(), Hosts::default(), settings)
}

/// One request over TLS; `None` when there is no handshake or no answer.
async fn get_tls(
    running: &Running,
    trusted: &str,
    client: Option<&Identity>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
    let config = match client {
        Some(Identity { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = Vec::new();
    let _ = tokio::time::timeout(FOREVER, stream.read_to_end(&mut response)).await.unwrap();
    (!response.is_empty()).then(|| String::from_utf8_lossy(&response).into_owned())
}

const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS12, &rustls::version::TLS13];
const CERT: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

#[tokio::test]
async fn tls_is_spoken_in_the_versions_that_are_asked_for_and_renewed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.sign("localhost");
    let files = [("server.pem", &*server.cert), ("server.key", &*server.key)];
    let front = front(settings(CERT, &files));
    let running = start_behind(front.clone(), Scrape::Text(5), Limits::default()).await;
    let text = get_tls(&running, &authority.cert, None, BOTH).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.len() > 4 * PIECE);
    assert!(get_tls(&running, &other.cert, None, BOTH).await.is_none());
    // Whoever speaks no TLS is told so, and harms nobody.
    let response = running.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(response.starts_with(b"HTTP/1.0 400") && response.ends_with(b"to an HTTPS server.\n"));
    front.renew(settings(&format!("{CERT}  min_version: TLS13\n"), &files));
    assert!(get_tls(&running, &authority.cert, None, &BOTH[..1]).await.is_none());
    assert!(get_tls(&running, &authority.cert, None, BOTH).await.is_some());
    let server = other.sign("localhost");
    front.renew(settings(CERT, &[("server.pem", &*server.cert), ("server.key", &*server.key)]));
    assert!(get_tls(&running, &other.cert, None, BOTH).await.is_some());
    // A handshake that does not go on leaves room for others.
    let silent = TcpStream::connect(running.address).await.unwrap();
    assert!(get_tls(&running, &other.cert, None, &BOTH[..1]).await.is_some());
    running.stop().await;
    drop(silent);
}

#[tokio::test]
async fn clients_show_the_certificates_that_are_asked_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, ours) = (authority.sign("localhost"), authority.sign("prometheus.example"));
    let theirs = other.sign("prometheus.example");
    let files =
        [("server.pem", &*server.cert), ("server.key", &*server.key), ("ca.pem", &*authority.cert)];
    let sans = |name: &str| format!("RequireAnyClientCert\n  client_allowed_sans: [\"{name}\"]");
    let verify = "RequireAndVerifyClientCert\n  client_ca_file: ca.pem";
    // Who comes with no certificate, with one of ours, with one of somebody else's.
    for (kind, expected) in [
        ("NoClientCert".to_owned(), [true, true, true]),
        ("RequestClientCert".to_owned(), [true, true, true]),
        ("RequireAnyClientCert".to_owned(), [false, true, true]),
        ("VerifyClientCertIfGiven\n  client_ca_file: ca.pem".to_owned(), [true, true, false]),
        (verify.to_owned(), [false, true, false]),
        (sans("prometheus.example"), [false, true, true]),
        (sans("ops@example.org"), [false, true, true]),
        (sans("192.0.2.7"), [false, true, true]),
        (sans("grafana.example"), [false, false, false]),
        (
            format!("{verify}\n  client_allowed_sans: [other.example, prometheus.example]"),
            [false, true, false],
        ),
    ] {
        let text = format!("{CERT}  client_auth_type: {kind}\n");
        let front = front(settings(&text, &files));
        let running = start_behind(front, Scrape::Text(1), Limits::default()).await;
        for versions in [&BOTH[..1], &BOTH[1..]] {
            let mut found = Vec::new();
            for client in [None, Some(&ours), Some(&theirs)] {
                found.push(get_tls(&running, &authority.cert, client, versions).await.is_some());
            }
            assert_eq!(found, expected, "{kind} {versions:?}");
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn users_and_token_open_and_nothing_else_does() {
    let hash = bcrypt::hash("open", 4).unwrap();
    let users = settings(&format!("basic_auth_users:\n  alice: {hash}\n"), &[]);
    let front = Front::new(Access::token("s3cret").unwrap(), Hosts::default(), users);
    let running = start_behind(front.clone(), Scrape::Text(1), Limits::default()).await;
    let check = async |header: &str, status: &str| {
        for _ in 0..2 {
            let request = format!(
                "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
            );
            let (head, _) = split(&running.send(&request).await);
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{header} {head}");
            assert_eq!(head.contains("www-authenticate: basic"), status == "401", "{head}");
        }
    };
    // alice:open, alice:Open, bob:open, any:s3cret
    check("Authorization: Basic YWxpY2U6b3Blbg==\r\n", "200").await;
    check("Authorization: Basic YWxpY2U6T3Blbg==\r\n", "401").await;
    check("Authorization: Basic Ym9iOm9wZW4=\r\n", "401").await;
    check("Authorization: Basic YW55OnMzY3JldA==\r\n", "200").await;
    check("Authorization: Bearer s3cret\r\n", "200").await;
    check("Authorization: Bearer open\r\n", "401").await;
    check("", "401").await;
    let health = "GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(running.send(health).await.starts_with(b"HTTP/1.1 200"));
    // Whoever is a user no more is none from the next request on.
    front.renew(Settings::default());
    check("Authorization: Bearer s3cret\r\n", "200").await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Authorization: Basic YWxpY2U6b3Blbg==\r\n\r\n";
    assert!(running.send(request).await.starts_with(b"HTTP/1.1 401"));
    running.stop().await;
}

#[tokio::test]
async fn only_this_host_is_answered_for_and_headers_are_set() {
    let text = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    \
                Strict-Transport-Security: max-age=60\n";
    let running =
        start_behind(front(settings(text, &[])), Scrape::Text(1), Limits::default()).await;
    let check = async |path: &str, host: &str, status: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let (head, _) = split(&running.send(&request).await);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{host} {head}");
        assert!(head.contains("x-frame-options: deny"), "{head}");
        assert!(head.contains("strict-transport-security: max-age=60"), "{head}");
    };
    for path in ["/", "/metrics", "/nowhere"] {
        check(path, "Host: evil.example\r\n", "421").await;
        check(path, "", "400").await;
        check(path, "Host: localhost\r\nHost: localhost\r\n", "400").await;
    }
    check("/metrics", "Host: 127.0.0.1:8889\r\n", "200").await;
    check("http://evil.example/metrics", "Host: localhost\r\n", "421").await;
    check("/-/healthy", "Host: load-balancer.example\r\n", "200").await;
    running.stop().await;
}

#[tokio::test]
async fn a_rate_limit_holds_for_everything_but_health() {
    let limited = settings("rate_limit:\n  interval: 1h\n  burst: 3\n", &[]);
    let running = start_behind(front(limited), Scrape::Text(1), Limits::default()).await;
    let ask = async |path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        split(&running.send(&request).await).0
    };
    for _ in 0..3 {
        assert!(ask("/metrics").await.starts_with("http/1.1 200"));
        assert!(ask("/-/healthy").await.starts_with("http/1.1 200"));
    }
    let refused = ask("/metrics").await;
    assert!(refused.starts_with("http/1.1 429") && refused.contains("retry-after"), "{refused}");
    assert!(ask("/-/ready").await.starts_with("http/1.1 503"), "it is not ready, and says so");
    running.stop().await;
}

#[tokio::test]
async fn several_listeners_are_served_alike() {
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = (bind().await, bind().await);
    let addresses = [one.local_addr().unwrap(), other.local_addr().unwrap()];
    let (stop, stopped) = oneshot::channel::<()>();
    let running = start(Scrape::Text(1), Access::open(), Limits::default()).await;
    let shutdown = async move { drop(stopped.await) };
    let app = running.app.clone();
    let front = front(Settings::default());
    let server = tokio::spawn(serve(vec![one, other], app, front, Limits::default(), shutdown));
    for address in addresses.repeat(3) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("healthy\n"), "{response}");
    }
    stop.send(()).unwrap();
    server.await.unwrap();
    running.stop().await;
}
