//! The servers that are trusted for `https`, and the client certificate they receive. Never opens a connection.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::error::Error;

/// Both sides of the trust between a client and a server.
#[derive(Clone, Default)]
pub(crate) struct ServerTrust {
    pub(crate) servers: Servers,
    /// Certificate chain and key, in PEM form.
    pub(crate) identity: Option<(Bytes, Bytes)>,
}

/// Trusted servers.
#[derive(Clone, Debug, Default)]
pub(crate) enum Servers {
    /// The certificates that the operating system trusts.
    #[default]
    BySystem,
    /// Those with a certificate that one of these authorities signed.
    SignedBy(Bytes),
    /// The one with this certificate.
    Pinned(Bytes),
}

/// Never shows the key.
impl fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

impl ServerTrust {
    /// The TLS settings of a connection.
    ///
    /// # Errors
    /// If a certificate or key cannot be used, or the system trusts none.
    pub(crate) fn config(&self) -> Result<ClientConfig, Error> {
        let untrusted = |error: &dyn fmt::Display| Error::Unreachable(format!("no trusted certificates: {error}"));
        let invalid = |error: &dyn fmt::Display| Error::Invalid(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| invalid(&error))?;
        let builder = match &self.servers {
            Servers::BySystem => builder.with_native_roots().map_err(|error| untrusted(&error))?,
            Servers::SignedBy(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| untrusted(&error))?;
                    roots.add(certificate).map_err(|error| untrusted(&error))?;
                }
                if roots.is_empty() {
                    return Err(untrusted(&"the file contains none"));
                }
                builder.with_root_certificates(roots)
            }
            Servers::Pinned(pem) => {
                let certificate = CertificateDer::from_pem_slice(pem).map_err(|error| untrusted(&error))?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { certificate, provider }))
            }
        };
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid(&error))?;
        builder.with_client_auth_cert(chain.map_err(|error| invalid(&error))?, key).map_err(|error| invalid(&error))
    }
}

/// Trusts one certificate. The server must still prove that it has the key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if **end_entity == *self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the server's certificate is not the expected one".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
