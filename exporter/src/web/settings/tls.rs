//! TLS, as the web configuration file asks for it. What Go has and rustls has not is left out with a warning;
//! where nothing would be left, that is an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version,
};

use super::clients::{self, Wanted};
use super::written::{Tls, Version};

/// `None`: no TLS is wanted.
pub(super) fn configure(
    written: &Tls,
    folder: &Path,
    read: &mut dyn FnMut(PathBuf) -> anyhow::Result<Vec<u8>>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    if !written.is_wanted() {
        ensure!(written.client_allowed_sans.is_none(), "client_allowed_sans needs a certificate");
        return Ok(None);
    }
    let mut content = |key: &str, inline: &str, file: &str| -> anyhow::Result<Option<Vec<u8>>> {
        match (inline, file) {
            ("", "") => Ok(None),
            (inline, "") => Ok(Some(inline.into())),
            ("", file) => {
                let path = folder.join(file);
                let content = read(path.clone());
                content.map(Some).with_context(|| format!("{key}_file {}", path.display()))
            }
            _ => bail!("expected one of {key} and {key}_file"),
        }
    };
    let certificates = content("cert", &written.cert, &written.cert_file)?;
    let certificates = certificates.context("expected one of cert and cert_file")?;
    let key = content("key", &written.key, &written.key_file)?;
    let key = key.context("expected one of key and key_file")?;
    let roots = content("client_ca", &written.client_ca, &written.client_ca_file)?;
    let chain = chain(&certificates).context("cert_file")?;
    let key = PrivateKeyDer::from_pem_slice(&key).context("key_file: expected a PEM key")?;
    let provider = Arc::new(provider(written, warnings)?);
    let wanted = Wanted {
        kind: written.client_auth_type.clone(),
        roots: roots.map(|roots| store(&roots)).transpose().context("client_ca_file")?,
        sans: written.client_allowed_sans.clone(),
    };
    let versions = versions(written, warnings)?;
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&versions).context("versions and suites")?;
    let builder = match clients::verifier(wanted, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).context("cert_file and key_file")?;
    config.ignore_client_order = written.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn chain(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.context("expected PEM certificates")?;
    ensure!(!chain.is_empty(), "expected a PEM certificate");
    Ok(chain)
}

fn store(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate).context("a certificate that can sign")?;
    }
    Ok(store)
}

fn versions(
    written: &Tls,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Vec<&'static SupportedProtocolVersion>> {
    let least = written.min_version.unwrap_or(Version::Tls12);
    let most = written.max_version.unwrap_or(Version::Tls13);
    ensure!(least <= most, "min_version is above max_version");
    ensure!(
        most >= Version::Tls12,
        "max_version: expected TLS12 or TLS13: older ones are not spoken"
    );
    if least < Version::Tls12 {
        warnings.push("min_version: TLS 1.2 is the oldest that is spoken".to_owned());
    }
    let both = [(Version::Tls12, &version::TLS12), (Version::Tls13, &version::TLS13)];
    let spoken = both.into_iter().filter(|(version, _)| (least..=most).contains(version));
    Ok(spoken.map(|(_, version)| version).collect())
}

/// Suites of TLS 1.2 and curves that were named; without names, all. Suites of TLS 1.3 are not chosen, in Go
/// neither.
fn provider(written: &Tls, warnings: &mut Vec<String>) -> anyhow::Result<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !written.cipher_suites.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        let (newer, older): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|suite| suite.tls13().is_some());
        let mut named = Vec::new();
        for name in &written.cipher_suites {
            let is_named = |suite: &&SupportedCipherSuite| suite_name(suite) == *name;
            match older.iter().chain(&newer).find(is_named) {
                Some(suite) if suite.tls13().is_none() => named.push(*suite),
                Some(_) => {}
                None if name.starts_with("TLS_") => {
                    warnings.push(format!("cipher_suites: {name} is not spoken"));
                }
                None => bail!("cipher_suites: `{name}` is no cipher suite"),
            }
        }
        let has_newer = written.max_version.is_none_or(|most| most == Version::Tls13);
        ensure!(!named.is_empty() || has_newer, "cipher_suites: none of these is spoken");
        provider.cipher_suites = newer.into_iter().chain(named).collect();
    }
    if !written.curve_preferences.is_empty() {
        let all = std::mem::take(&mut provider.kx_groups);
        for name in &written.curve_preferences {
            provider.kx_groups.extend(curve(name, &all, warnings)?);
        }
        ensure!(!provider.kx_groups.is_empty(), "curve_preferences: none of these is spoken");
    }
    Ok(provider)
}

/// As Go and IANA call it.
fn suite_name(suite: &SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name,
    }
}

fn curve(
    name: &str,
    all: &[&'static dyn SupportedKxGroup],
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<&'static dyn SupportedKxGroup>> {
    let known = [
        ("CurveP256", "secp256r1"),
        ("CurveP384", "secp384r1"),
        ("CurveP521", "secp521r1"),
        ("X25519", "X25519"),
        ("X25519MLKEM768", "X25519MLKEM768"),
    ];
    let known = known.iter().find(|(go, _)| *go == name);
    let (_, wanted) = known.with_context(|| format!("curve_preferences: `{name}` is no curve"))?;
    let group = all.iter().copied().find(|group| format!("{:?}", group.name()) == **wanted);
    if group.is_none() {
        warnings.push(format!("curve_preferences: {name} is not spoken"));
    }
    Ok(group)
}
