//! The web configuration file: Prometheus exporter-toolkit's format
//! (<https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>).
//!
//! Text and a way to read files come in; [`Settings`] that the server works with go out, or what is wrong with
//! them. `written` is the file as it is written, `tls` what becomes of it.

mod clients;
mod tls;
mod users;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::header::{HeaderName, HeaderValue};
use rustls::ServerConfig;

pub(super) use users::Users;
use written::Written;

/// How the server answers.
#[derive(Debug, Default)]
pub struct Settings {
    /// `None`: no TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) users: Users,
    /// Set in every response.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) limiter: Option<DefaultDirectRateLimiter>,
    /// The file has nothing in it.
    pub is_blank: bool,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

impl Settings {
    /// From the file's text. Files that it names are read by `read`, relative to its folder.
    pub fn new(
        text: &str,
        folder: &Path,
        read: &mut dyn FnMut(PathBuf) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        // An empty file configures nothing, as in the toolkit.
        let is_blank = text.trim().is_empty();
        let written: Written = match is_blank {
            true => Written::default(),
            false => serde_saphyr::from_str(text).map_err(|error| {
                anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or_default())
            })?,
        };
        let mut warnings = Vec::new();
        let tls = tls::configure(&written.tls_server_config, folder, read, &mut warnings);
        let limiter = limiter(written.rate_limit.as_ref()).context("rate_limit")?;
        Ok(Self {
            tls: tls.context("tls_server_config")?,
            users: Users::new(written.basic_auth_users).context("basic_auth_users")?,
            headers: headers(&written.http_server_config).context("http_server_config")?,
            limiter,
            is_blank,
            warnings,
        })
    }

    /// TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Users are asked for.
    pub fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// There is room for a request at this moment.
    pub(super) fn has_room(&self) -> bool {
        self.limiter.as_ref().is_none_or(|limiter| limiter.check().is_ok())
    }
}

/// Headers that may be set, and the values that make sense where these are few.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

fn headers(http: &written::Http) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for (name, value) in &http.headers {
        let known = HEADERS.iter().find(|(known, _)| known == name);
        let (name, values) = known.with_context(|| {
            let names: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
            format!("header `{name}` cannot be set; expected one of {}", names.join(", "))
        })?;
        ensure!(
            values.is_empty() || values.contains(&value.as_str()),
            "{name}: `{value}` is not valid; expected {}",
            values.join(" or ")
        );
        if !value.is_empty() {
            headers.push((name.parse()?, value.parse().with_context(|| format!("header {name}"))?));
        }
    }
    Ok(headers)
}

fn limiter(rate: Option<&written::Rate>) -> anyhow::Result<Option<DefaultDirectRateLimiter>> {
    let Some(rate) = rate else { return Ok(None) };
    let interval = written::duration(&rate.interval).context("interval")?;
    // Zero switches it off. A burst of zero would answer nobody.
    let Some(quota) = Quota::with_period(interval) else { return Ok(None) };
    let burst = rate.burst.try_into().ok().context("burst: expected 1 or more")?;
    Ok(Some(RateLimiter::direct(quota.allow_burst(burst))))
}

#[cfg(test)]
mod tests;
