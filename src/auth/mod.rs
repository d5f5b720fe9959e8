//! Who may do what: tokens are verified in `token`, rights are decided in `policy` (pure).
//!
//! | file | owns |
//! |---|---|
//! | `token` | [`Verifier`]: from a token's text to a [`TokenIdentity`] |
//! | `jws` | the compact form of a token and its header |
//! | `keys` | one key, bound to one algorithm; where keys come from |
//! | `jwks` | a key set by URL: fetched, cached, refreshed |
//! | `claims` | the claims of a verified token, and whether they are acceptable now |
//! | `refusal` | why a token was refused |
//! | `mint` | making tokens, for development and tests |
//! | `demo_token` | the token that development mode hands out |
//! | `api_keys` | keys of backends, compared in constant time, and their rights |
//! | `policy` | what an identity may do |
//!
//! Never logs, shows or stores any part of a token or key.

mod api_keys;
mod claims;
mod demo_token;
mod jwks;
mod jws;
mod keys;
mod mint;
mod policy;
mod refusal;
#[cfg(test)]
mod tests;
mod token;

pub use api_keys::ApiKey;
pub use demo_token::{DEMO_USER, demo_token};
pub use mint::{MintError, NewToken, mint};
pub use policy::{Rights, TokenIdentity};
pub use refusal::TokenError;
pub use token::Verifier;
