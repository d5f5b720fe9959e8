//! Why a token was refused. Never holds any part of the token.

use thiserror::Error;

use crate::metrics::AuthFailure;

/// Why a token was refused. The text may be sent to the client; [`TokenError::reason`] is the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Longer than `auth.token_bytes_max`.
    #[error("the token is too long")]
    TooLong,
    /// Not three base64url parts with a JSON header.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// The header requires an unsupported feature: `crit`, encryption, compression, another `typ`.
    #[error("the token's header asks for an unsupported feature: {0}")]
    Header(&'static str),
    /// No configured key is bound to the token's algorithm.
    #[error("the token's algorithm is not accepted here")]
    Algorithm,
    /// Keys of the algorithm exist, but none with the token's `kid`.
    #[error("no key for this token is known")]
    UnknownKey,
    /// The key set was never loaded. The gateway's fault: the client should retry.
    #[error("keys cannot be loaded now")]
    KeysUnavailable,
    /// The signature does not match any key that the token may use.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` has passed, allowing for `auth.leeway`.
    #[error("the token is expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is not `auth.issuer`.
    #[error("the token is from another issuer")]
    Issuer,
    /// `aud` does not contain `auth.audience`, or is present although none is configured.
    #[error("the token is for another audience")]
    Audience,
    /// The claim that names the user is missing or invalid.
    #[error("the token names no user: its claim must be 1 to 128 printable bytes")]
    Subject,
    /// A claim is missing or of the wrong type.
    #[error("the token's claim is missing or malformed: {0}")]
    Claim(&'static str),
}

impl TokenError {
    /// The metric label; its text may be logged.
    #[must_use]
    pub const fn reason(self) -> AuthFailure {
        match self {
            Self::TooLong => AuthFailure::TooLong,
            Self::Malformed => AuthFailure::Malformed,
            Self::Header(_) => AuthFailure::Header,
            Self::Algorithm => AuthFailure::Algorithm,
            Self::UnknownKey => AuthFailure::UnknownKey,
            Self::KeysUnavailable => AuthFailure::KeysUnavailable,
            Self::Signature => AuthFailure::Signature,
            Self::Expired => AuthFailure::Expired,
            Self::NotYetValid => AuthFailure::NotYetValid,
            Self::Issuer => AuthFailure::Issuer,
            Self::Audience => AuthFailure::Audience,
            Self::Subject => AuthFailure::Subject,
            Self::Claim(_) => AuthFailure::Claim,
        }
    }

    /// Whether the gateway is at fault and may accept the same token later.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::KeysUnavailable)
    }
}
