//! The web configuration file as it is written. Unknown keys are errors.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub(super) tls_server_config: Tls,
    pub(super) http_server_config: Http,
    pub(super) basic_auth_users: BTreeMap<String, String>,
    pub(super) rate_limit: Option<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) client_ca: String,
    pub(super) cert_file: String,
    pub(super) key_file: String,
    pub(super) client_ca_file: String,
    pub(super) client_auth_type: String,
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: Option<Version>,
    pub(super) max_version: Option<Version>,
    pub(super) cipher_suites: Vec<String>,
    pub(super) curve_preferences: Vec<String>,
    pub(super) prefer_server_cipher_suites: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            cert: String::new(),
            key: String::new(),
            client_ca: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            client_ca_file: String::new(),
            client_auth_type: String::new(),
            client_allowed_sans: None,
            min_version: None,
            max_version: None,
            cipher_suites: Vec::new(),
            curve_preferences: Vec::new(),
            prefer_server_cipher_suites: true,
        }
    }
}

impl Tls {
    /// Something of it is set that means that TLS is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        let Self { cert, key, client_ca, cert_file, key_file, client_ca_file, .. } = self;
        let texts = [cert, key, client_ca, cert_file, key_file, client_ca_file];
        texts.iter().any(|text| !text.is_empty()) || !self.client_auth_type.is_empty()
    }
}

/// TLS versions.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    #[serde(rename = "TLS10")]
    Tls10,
    #[serde(rename = "TLS11")]
    Tls11,
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    /// Taken, though HTTP/1.1 is all that is served: what asks here asks for one thing at a time.
    pub(super) http2: bool,
    pub(super) headers: BTreeMap<String, String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { http2: true, headers: BTreeMap::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    #[serde(default)]
    pub(super) interval: String,
    #[serde(default)]
    pub(super) burst: u32,
}

/// As Go writes durations: `1s`, `500ms`, `1m30s`; nothing or `0` is none.
pub(super) fn duration(text: &str) -> anyhow::Result<Duration> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    if matches!(rest, "" | "0") {
        return Ok(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => bail!("`{text}` is not valid; expected a time such as 1s, 500ms or 1m"),
        };
        sum += unit * number.parse::<f64>().with_context(|| format!("`{text}` is not valid"))?;
        rest = tail;
    }
    Duration::try_from_secs_f64(sum).with_context(|| format!("`{text}` is too long"))
}
