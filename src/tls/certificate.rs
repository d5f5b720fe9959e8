//! Certificates and their keys: whether they match, how long they are valid, and for which names. Never opens a file.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use simple_asn1::{ASN1Block, from_der};

use crate::config;

/// What an operator needs to know about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// When it expires, in seconds since 1970.
    pub expires_at: i64,
}

impl CertificateInfo {
    /// The first certificate of a PEM text; `None` if its dates cannot be read.
    #[must_use]
    pub fn read(pem: &str) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Some(Self { expires_at: not_after(&certificate)? })
    }

    /// Whether it has expired as of `now`, in seconds since 1970.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at <= i64::try_from(now).unwrap_or(i64::MAX)
    }
}

/// A certificate chain and its key.
///
/// # Errors
/// Which of the two files is unusable, and why.
pub(super) fn certified(
    identity: &config::Identity,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, (&'static str, String)> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| ("cert_file", format!("holds no certificates: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes());
    let key = key.map_err(|error| ("key_file", format!("holds no private key: {error}")))?;
    if chain.is_empty() || chain.iter().any(|certificate| not_after(certificate).is_none()) {
        return Err(("cert_file", "holds no readable certificate".to_owned()));
    }
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ("key_file", "is not the key of the certificate".to_owned()),
        error => ("key_file", format!("cannot be used: {error}")),
    })
}

/// Whether a verified client certificate is valid for this name.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(wanted) = DnsName::try_from(name) else { return false };
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&ServerName::DnsName(wanted)).is_ok())
}

/// The end of a certificate's validity (RFC 5280, 4.1), in seconds since 1970.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let blocks = from_der(certificate).ok()?;
    let body = sequence(sequence(blocks.first()?)?.first()?)?;
    // The version comes first, tagged, except in the oldest form; validity follows serial, algorithm and issuer.
    let version = usize::from(matches!(body.first()?, ASN1Block::Explicit(..)));
    match sequence(body.get(version + 3)?)?.get(1)? {
        ASN1Block::UTCTime(_, time) | ASN1Block::GeneralizedTime(_, time) => Some(time.assume_utc().unix_timestamp()),
        _ => None,
    }
}

fn sequence(block: &ASN1Block) -> Option<&[ASN1Block]> {
    match block {
        ASN1Block::Sequence(_, blocks) => Some(blocks),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tickgate_kit::certificates::Authority;

    use super::*;
    use crate::{
        config::{Identity, Secret},
        tls::provider,
    };

    fn identity(certificate: &str, key: &str) -> Identity {
        Identity { certificate: certificate.into(), key: Secret::new(key) }
    }

    #[test]
    fn a_certificate_has_an_expiry() {
        let authority = Authority::new();
        let now = crate::clock::unix_s();
        let until = |days: i64| CertificateInfo::read(&authority.issue("a", "DNS:a", days).certificate()).unwrap();
        let left = until(10).expires_at - now as i64;
        assert!((863_900..=864_001).contains(&left), "{left}");
        assert_eq!([until(10), until(-1)].map(|certificate| certificate.is_expired(now)), [false, true]);
        assert_eq!(CertificateInfo::read("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
    }

    #[test]
    fn a_key_must_match_its_certificate() {
        let authority = Authority::new();
        let (own, other) = (authority.issue("own", "DNS:own", 2), authority.issue("other", "DNS:other", 2));
        let (certificate, key) = (own.certificate(), own.key());
        let wrong = |certificate: &str, key: &str| certified(&identity(certificate, key), &provider()).unwrap_err();
        assert!(certified(&identity(&certificate, &key), &provider()).is_ok());
        assert_eq!(wrong(&certificate, &other.key()), ("key_file", "is not the key of the certificate".to_owned()));
        assert_eq!(wrong(&certificate, &certificate).0, "key_file");
        assert_eq!(wrong(&key, &key).0, "cert_file");
        assert_eq!(wrong(&certificate.replace("MII", "AII"), &key).0, "cert_file");
    }

    #[test]
    fn a_certificate_is_valid_only_for_its_names() {
        let authority = Authority::new();
        let issued = authority.issue("engine", "DNS:engine.trading.svc", 2);
        let certificate = CertificateDer::from_pem_slice(issued.certificate().as_bytes()).unwrap();
        assert!(names(&certificate, "engine.trading.svc"));
        for name in ["engine", "trading.svc", "other.trading.svc", "", "*.trading.svc", "a b"] {
            assert!(!names(&certificate, name), "{name}");
        }
    }
}
