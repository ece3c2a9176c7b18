//! Clients' certificates: asked for, wanted, or verified, and whose they are.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the file says of clients.
pub(super) struct Wanted {
    pub(super) kind: String,
    /// Certificates that sign clients'.
    pub(super) roots: Option<RootCertStore>,
    /// Subject alternative names of which one must be there.
    pub(super) sans: Option<Vec<String>>,
}

/// How clients are looked at; `None`: not at all.
pub(super) fn verifier(
    wanted: Wanted,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Option<Arc<dyn ClientCertVerifier>>> {
    let Wanted { kind, roots, sans } = wanted;
    let (is_mandatory, is_verified) = match kind.as_str() {
        "" | "NoClientCert" => {
            ensure!(roots.is_none(), "client_ca_file has no meaning without a client_auth_type");
            ensure!(sans.is_none(), "{SANS}");
            return Ok(None);
        }
        "RequestClientCert" => (false, false),
        "RequireAnyClientCert" | "RequireClientCert" => (true, false),
        "VerifyClientCertIfGiven" => (false, true),
        "RequireAndVerifyClientCert" => (true, true),
        other => bail!(
            "client_auth_type: `{other}` is not valid; expected NoClientCert, RequestClientCert, \
             RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
        ),
    };
    ensure!(sans.is_none() || is_mandatory, "{SANS}");
    let inner = match is_verified {
        true => {
            let roots = roots.with_context(|| format!("{kind} needs client_ca_file"))?;
            let builder =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
            Some(builder.build().context("client_ca_file")?)
        }
        false => None,
    };
    Ok(Some(Arc::new(Clients { is_mandatory, inner, sans, provider: provider.clone() })))
}

const SANS: &str = "client_allowed_sans needs a client_auth_type of RequireAnyClientCert or \
                    RequireAndVerifyClientCert: else a client may come without a certificate";

struct Clients {
    is_mandatory: bool,
    /// Verifies who signed the certificate; `None`: anybody.
    inner: Option<Arc<dyn ClientCertVerifier>>,
    sans: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("is_mandatory", &self.is_mandatory).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.as_ref().map_or(&[], |inner| inner.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(inner) = &self.inner {
            inner.verify_client_cert(certificate, others, now)?;
        }
        if let Some(sans) = &self.sans
            && !names(certificate)?.iter().any(|name| sans.contains(name))
        {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate's subject alternative names: DNS names, e-mail addresses, IP addresses and URIs.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let Some(names) = certificate.subject_alternative_name().map_err(|_| bad())? else {
        return Ok(Vec::new());
    };
    Ok(names.value.general_names.iter().filter_map(name).collect())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            (*name).to_owned()
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from).ok()?,
            _ => <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from).ok()?,
        }
        .to_string(),
        _ => return None,
    })
}
