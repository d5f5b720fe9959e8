//! TLS on the listeners: certificates and keys, which can be replaced while connections are open, and the encrypted
//! sockets. Does not decide who may do what.

mod certificate;
mod socket;

#[cfg(test)]
pub(crate) use socket::tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    config::{self, Problems},
    metrics::{Metrics, ShownCertificate},
};

pub use certificate::{CertificateInfo, names};
pub use socket::TlsSocket;

/// Only HTTP/1.1 is served.
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// The TLS settings of a listener's new connections. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(Arc<ArcSwap<ServerConfig>>);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Built from a certificate and its key.
    ///
    /// # Errors
    /// The invalid setting, and a sentence.
    pub fn new(tls: &config::Tls) -> Result<Self, (&'static str, String)> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(server_config(tls)?))))
    }

    /// New connections use the settings of `other`.
    pub fn take(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Performs the handshake. The caller limits the time.
    ///
    /// # Errors
    /// If the peer does not use TLS, disconnects, or has an untrusted certificate.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.load_full()).accept(stream).await
    }
}

/// The cryptography provider of this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(tls: &config::Tls) -> Result<ServerConfig, (&'static str, String)> {
    let certified = certificate::certified(&tls.identity, &provider())?;
    let unsupported = |error: rustls::Error| ("cert_file", error.to_string());
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unsupported)?;
    let builder = match &tls.client_authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let wrong = |error: &dyn std::fmt::Display| ("client_ca_file", format!("cannot be used: {error}"));
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            // Clients without a certificate may still have a key.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = verifier.allow_unauthenticated().build().map_err(|error| wrong(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    // Resumed TLS sessions need no signature, the greatest cost of a reconnect storm.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unsupported)?;
    Ok(config)
}

/// Reports unusable certificates and keys: those of the listeners, and that of the link to Redis.
pub fn check(config: &config::Config, problems: &mut Problems) {
    for (section, tls) in listeners(config) {
        if let Err((key, text)) = server_config(tls) {
            problems.report(format!("server.{section}.{key}"), text);
        }
    }
    if let Some(identity) = config.redis.as_ref().and_then(|redis| redis.access().identity.clone())
        && let Err((key, text)) = certificate::certified(&identity, &provider())
    {
        problems.report(format!("redis.client_{key}"), text);
    }
}

/// The listeners with TLS, by their section below `server`.
fn listeners(config: &config::Config) -> impl Iterator<Item = (&'static str, &config::Tls)> {
    let server = &config.server;
    [("tls", &server.tls), ("ops_tls", &server.ops_tls)]
        .into_iter()
        .filter_map(|(section, tls)| Some((section, tls.as_ref()?)))
}

/// Every certificate that this process presents.
fn shown(config: &config::Config) -> Vec<(ShownCertificate, CertificateInfo)> {
    let mut found: Vec<_> = listeners(config)
        .map(|(section, tls)| {
            let shown = if section == "tls" { ShownCertificate::Public } else { ShownCertificate::Operations };
            (shown, tls.identity.clone())
        })
        .collect();
    let to_redis = config.redis.as_ref().and_then(|redis| redis.access().identity.clone());
    found.extend(to_redis.map(|identity| (ShownCertificate::RedisClient, identity)));
    found
        .into_iter()
        .filter_map(|(name, identity)| Some((name, CertificateInfo::read(&identity.certificate)?)))
        .collect()
}

/// Exports when the certificates expire, and warns about those that have expired as of `now`, in seconds since 1970.
pub fn export_expiry(config: &config::Config, metrics: &Metrics, now: u64) {
    for (shown, certificate) in shown(config) {
        metrics.certificate_expires_timestamp_seconds.of(shown).set(certificate.expires_at);
        if certificate.is_expired(now) {
            let certificate = shown.as_str();
            tracing::warn!(certificate, "a certificate has expired: it is still presented, and clients refuse it");
        }
    }
}
