//! The token that development mode hands out. Never made in production.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tickgate_wire::model::{IssuedAt, Pattern, UserId};

use super::{NewToken, Rights, mint};
use crate::config::Auth;

/// The user of the token.
pub const DEMO_USER: &str = "demo";
const TTL: Duration = Duration::from_secs(24 * 3600);

/// A token for [`DEMO_USER`] with all rights, valid for one day; `None` without an HS256 secret.
#[must_use]
pub fn demo_token(auth: &Auth, now: SystemTime) -> Option<String> {
    let all = || Pattern::new("*").into_iter().collect::<Vec<_>>();
    let rights = Rights { channels: Some(all()), publish: all(), commands: true, runs: Some(all()) };
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = NewToken {
        user: &UserId::new(DEMO_USER).ok()?,
        issued_at: IssuedAt::in_second(second),
        expires_at: second.saturating_add(TTL.as_secs()),
        issuer: auth.issuer.as_deref(),
        audience: auth.audience.as_deref(),
        user_claim: auth.user_claim.as_deref(),
        rights: &rights,
    };
    mint(auth.hs256_secrets.first()?, &token).ok()
}
