//! The source of tokens, and when to renew one. Never prints a token.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::time::Timestamp;
use tokio::time::timeout;

use crate::{
    defect::{OmittedRule, is},
    error::Error,
};

/// Time limit for getting a token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A token is renewed this long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// Minimum time between two renewals, for sources that return the same token again.
const RENEW_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A token that is being fetched.
pub(crate) type Getting = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

/// A source of tokens.
#[derive(Clone)]
pub(crate) struct TokenSource(Arc<dyn Fn() -> Getting + Send + Sync>);

impl TokenSource {
    /// Always returns the same token.
    pub(crate) fn fixed(token: String) -> Self {
        Self(Arc::new(move || Box::pin(ready(Ok(token.clone())))))
    }

    /// Calls a function for each token.
    pub(crate) fn function<F, R, E>(function: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        Self(Arc::new(move || {
            let getting = function();
            Box::pin(async move { getting.await.map_err(|error| Error::Token(error.to_string())) })
        }))
    }

    /// Gets a token within 30 seconds.
    pub(crate) fn get(&self) -> Getting {
        let (getting, limit) = ((self.0)(), TOKEN_TIMEOUT);
        Box::pin(
            async move { timeout(limit, getting).await.unwrap_or(Err(Error::Timeout { what: "no token", limit })) },
        )
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

/// The token in use.
#[derive(Default)]
pub(crate) struct CurrentToken {
    text: Option<String>,
    ends: Option<Instant>,
}

impl fmt::Debug for CurrentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl CurrentToken {
    /// The token, unless it has expired.
    pub(crate) fn valid(&self, now: Instant) -> Option<String> {
        self.text.clone().filter(|_| self.ends.is_none_or(|ends| ends > now))
    }

    pub(crate) fn set(&mut self, text: String) {
        *self = Self { text: Some(text), ends: None };
    }

    /// Forgets the token, because the gateway requires a new one.
    pub(crate) fn drop(&mut self) {
        if !is(OmittedRule::OldToken) {
            *self = Self::default();
        }
    }

    /// Records the time left. Returns when to renew the token.
    pub(crate) fn left(&mut self, now: Instant, left: Duration) -> Option<Instant> {
        self.ends = now.checked_add(left);
        now.checked_add((left - RENEW_BEFORE.min(left / 2)).max(RENEW_INTERVAL_MIN))
    }
}

/// The gateway's clock, which may differ from the local one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerClock {
    time: Timestamp,
    at: Instant,
}

impl ServerClock {
    pub(crate) fn new(time: Timestamp, at: Instant) -> Self {
        Self { time, at }
    }

    /// The duration until a time of the gateway's clock; zero if it has passed.
    pub(crate) fn until(&self, time: Timestamp, now: Instant) -> Duration {
        let left = Duration::from_millis(time.ms().saturating_sub(self.time.ms()));
        left.saturating_sub(now.saturating_duration_since(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_a_minute_or_half_of_its_life_before_it_expires() {
        let (mut token, now) = (CurrentToken::default(), Instant::now());
        token.set("a".into());
        let in_seconds = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!(token.left(now, Duration::from_secs(3600)), in_seconds(3540));
        assert_eq!(token.left(now, Duration::from_secs(6)), in_seconds(3));
        assert_eq!(token.left(now, Duration::ZERO), in_seconds(1));
        assert_eq!(token.valid(now), None, "it has expired");
        assert!(!format!("{token:?}").contains('a') || !format!("{token:?}").contains("\"a\""));
    }

    #[test]
    fn the_gateways_clock_determines_expiry() {
        let now = Instant::now();
        let clock = ServerClock::new(Timestamp::from_ms(1_000_000), now);
        let later = now + Duration::from_secs(2);
        assert_eq!(clock.until(Timestamp::from_ms(1_005_000), later), Duration::from_secs(3));
        assert_eq!(clock.until(Timestamp::from_ms(999_000), later), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_failure_says_why() {
        let source = TokenSource::function(|| async { Err::<String, _>("the login is down") });
        assert_eq!(source.get().await.unwrap_err().to_string(), "no token: the login is down");
        assert_eq!(TokenSource::fixed("a".into()).get().await.unwrap(), "a");
    }
}
