//! The toolkit's cases: what it takes and what it refuses.

use super::*;
use crate::web::authority::{Authority, Identity};

/// A certificate authority, and a server's certificate.
struct Pki {
    ca: String,
    cert: String,
    key: String,
}

impl Pki {
    fn new() -> Self {
        let authority = Authority::new();
        let Identity { cert, key } = authority.sign("localhost");
        Self { ca: authority.cert, cert, key }
    }

    fn read(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let name = path.file_name().unwrap().to_str().unwrap();
        Ok(match name {
            "ca.pem" => self.ca.clone(),
            "server.pem" => self.cert.clone(),
            "server.key" => self.key.clone(),
            "empty" => String::new(),
            "garbage" => "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_owned(),
            _ => anyhow::bail!("no such file"),
        }
        .into_bytes())
    }

    fn settings(&self, text: &str) -> anyhow::Result<Settings> {
        Settings::new(text, Path::new("/etc/x"), &mut |path| self.read(&path))
    }
}

const CERT: &str = "  cert_file: server.pem\n  key_file: server.key\n";

fn tls(more: &str) -> String {
    format!("tls_server_config:\n{CERT}{more}")
}

#[test]
fn what_the_toolkit_takes_is_taken() {
    let pki = Pki::new();
    let inline = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let good = [
        (String::new(), false),
        ("# nothing\n".to_owned(), false),
        (tls(""), true),
        (format!("tls_server_config:\n  cert: |\n{}  key: |\n{}", inline(&pki.cert), inline(&pki.key)), true),
        (tls("  client_auth_type: RequestClientCert\n"), true),
        (tls("  client_auth_type: RequireAnyClientCert\n"), true),
        (tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"), true),
        (tls("  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"), true),
        (tls("  client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [\"a.example\"]\n"), true),
        (tls("  min_version: TLS13\n"), true),
        (tls("  min_version: TLS10\n  max_version: TLS12\n"), true),
        (tls("  cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_RSA_WITH_AES_128_CBC_SHA\n"), true),
        (tls("  curve_preferences: [CurveP256, CurveP521, X25519]\n"), true),
        (tls("  prefer_server_cipher_suites: false\nhttp_server_config:\n  http2: false\n"), true),
        ("basic_auth_users:\n  alice: $2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG\n".to_owned(), false),
        ("rate_limit:\n  interval: 1s\n  burst: 5\n".to_owned(), false),
        ("rate_limit:\n  interval: 0\n  burst: 0\n".to_owned(), false),
        ("http_server_config:\n  headers:\n    X-Frame-Options: deny\n    Strict-Transport-Security: max-age=1\n".to_owned(), false),
    ];
    for (text, is_tls) in good {
        let settings = pki.settings(&text);
        let settings = settings.unwrap_or_else(|error| panic!("{text}\n{error:#}"));
        assert_eq!(settings.is_tls(), is_tls, "{text}");
    }
    let warned =
        pki.settings(&tls("  min_version: TLS11\n  curve_preferences: [CurveP521, X25519]\n"));
    assert_eq!(warned.unwrap().warnings.len(), 2);
}

#[test]
fn what_the_toolkit_refuses_is_refused_and_named() {
    let pki = Pki::new();
    let bad = [
        ("junk: 1\n".to_owned(), "junk"),
        ("tls_server_config:\n  cert_file: server.pem\n".to_owned(), "key"),
        ("tls_server_config:\n  key_file: server.key\n".to_owned(), "cert"),
        ("tls_server_config:\n  client_auth_type: RequireAnyClientCert\n".to_owned(), "cert"),
        (
            "tls_server_config:\n  cert_file: nowhere\n  key_file: server.key\n".to_owned(),
            "/etc/x/nowhere",
        ),
        (
            "tls_server_config:\n  cert_file: empty\n  key_file: server.key\n".to_owned(),
            "cert_file",
        ),
        (
            "tls_server_config:\n  cert_file: garbage\n  key_file: server.key\n".to_owned(),
            "cert_file",
        ),
        ("tls_server_config:\n  cert_file: server.pem\n  key_file: empty\n".to_owned(), "key_file"),
        (
            "tls_server_config:\n  cert_file: ca.pem\n  key_file: server.key\n".to_owned(),
            "cert_file and key_file",
        ),
        (tls("  cert: both\n"), "one of cert"),
        (tls("  client_auth_type: Whatever\n"), "Whatever"),
        (tls("  client_ca_file: ca.pem\n"), "client_auth_type"),
        (tls("  client_auth_type: RequireAndVerifyClientCert\n"), "client_ca_file"),
        (
            tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: empty\n"),
            "client_ca_file",
        ),
        (tls("  client_allowed_sans: [a]\n"), "client_allowed_sans"),
        (
            tls("  client_auth_type: RequestClientCert\n  client_allowed_sans: [a]\n"),
            "client_allowed_sans",
        ),
        (tls("  min_version: TLS111\n"), "TLS111"),
        (tls("  max_version: TLS11\n"), "max_version"),
        (tls("  min_version: TLS13\n  max_version: TLS12\n"), "min_version"),
        (tls("  cipher_suites: [THE_BEST]\n"), "THE_BEST"),
        (
            tls("  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n  max_version: TLS12\n"),
            "cipher_suites",
        ),
        (tls("  curve_preferences: [CurveP999]\n"), "CurveP999"),
        (tls("  curve_preferences: [CurveP521]\n"), "curve_preferences"),
        ("basic_auth_users:\n  alice: secret\n".to_owned(), "alice"),
        ("basic_auth_users: [alice]\n".to_owned(), ""),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: maybe\n".to_owned(),
            "X-Frame-Options",
        ),
        ("http_server_config:\n  headers:\n    Server: x\n".to_owned(), "Server"),
        ("rate_limit:\n  interval: soon\n  burst: 1\n".to_owned(), "soon"),
        ("rate_limit:\n  interval: 1s\n  burst: 0\n".to_owned(), "burst"),
        ("\t\0".to_owned(), ""),
    ];
    for (text, named) in bad {
        match pki.settings(&text) {
            Ok(settings) => panic!("{text}: {settings:?}"),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains(named) && !error.contains('\n'), "{text}\n{error}");
            }
        }
    }
}

#[test]
fn a_password_is_checked_once_and_nobody_is_told_apart() {
    let hash = bcrypt::hash("open", 4).unwrap();
    let users = Users::new([("alice".to_owned(), hash)].into()).unwrap();
    assert_eq!(users.remember("alice", "open"), None);
    assert!(users.check("alice", "open"));
    assert_eq!(users.remember("alice", "open"), Some(true));
    for (name, password) in [("alice", ""), ("alice", "Open"), ("bob", "open"), ("", "")] {
        assert!(!users.check(name, password), "{name}:{password}");
        assert_eq!(users.remember(name, password), Some(false));
    }
    assert!(!format!("{users:?}").contains("alice"));
}

#[test]
fn whoever_guesses_has_no_right_password_forgotten() {
    let hash = bcrypt::hash("open", 4).unwrap();
    let users = Users::new([("alice".to_owned(), hash)].into()).unwrap();
    assert!(users.check("alice", "open"));
    for guess in 0..300 {
        assert!(!users.check("alice", &guess.to_string()));
    }
    assert_eq!(users.remember("alice", "open"), Some(true));
    // The oldest guesses are forgotten, the newest is not.
    assert_eq!(users.remember("alice", "0"), None);
    assert_eq!(users.remember("alice", "299"), Some(false));
}

#[test]
fn durations_are_as_go_writes_them() {
    let check = |text: &str, milliseconds: u128| {
        assert_eq!(written::duration(text).unwrap().as_millis(), milliseconds, "{text}");
    };
    check("1s", 1000);
    check("1m30s", 90_000);
    check("0.5s", 500);
    check("250ms", 250);
    check("", 0);
    check("0", 0);
    for bad in ["1", "s", "-1s", "1 s", "1y", "."] {
        assert!(written::duration(bad).is_err(), "{bad}");
    }
}
