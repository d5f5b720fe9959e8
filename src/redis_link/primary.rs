//! Where the server of a link is: always at the configured address, or where the sentinels say.

use std::sync::Arc;

use tokio::sync::watch;

use super::RedisFailure;
use crate::config::{self, ServerAddress};

/// The address of a server that sentinels name; `None`: the configured one.
pub(super) type PrimaryAddress = Option<Arc<ServerAddress>>;

/// What is known now. Changed only by `sentinels`.
#[derive(Debug)]
pub(super) struct Primary {
    place: watch::Sender<Result<PrimaryAddress, RedisFailure>>,
    /// Counts requests to ask the sentinels now.
    questions: watch::Sender<u64>,
}

impl Primary {
    /// Before the first answer of a sentinel.
    pub(super) fn new(config: &config::Redis) -> Self {
        let place = match config.access().sentinels {
            Some(_) => Err(RedisFailure::NoPrimary("no sentinel has answered yet".into())),
            None => Ok(None),
        };
        Self { place: watch::Sender::new(place), questions: watch::Sender::new(0) }
    }

    /// Where to connect now.
    ///
    /// # Errors
    /// [`RedisFailure::NoPrimary`] if the sentinels have named no server.
    pub(super) fn place(&self) -> Result<PrimaryAddress, RedisFailure> {
        self.place.borrow().clone()
    }

    /// A verdict of the sentinels. True if it is a new one.
    pub(super) fn set(&self, place: Result<PrimaryAddress, RedisFailure>) -> bool {
        self.place.send_if_modified(|before| {
            let is_new = *before != place;
            *before = place;
            is_new
        })
    }

    /// Resolves when the sentinels name another server than `place`.
    pub(super) async fn moved_from(&self, place: &PrimaryAddress) {
        // The sender is `self`, so the wait can't fail.
        let _ = self.place.subscribe().wait_for(|now| now.as_ref().is_ok_and(|now| now != place)).await;
    }

    /// Resolves at the next verdict.
    pub(super) async fn changed(&self) {
        let _ = self.place.subscribe().changed().await;
    }

    /// Something suggests another primary: the sentinels are asked at once.
    pub(super) fn ask(&self) {
        self.questions.send_modify(|count| *count += 1);
    }

    /// Watches requests to ask at once.
    pub(super) fn questions(&self) -> watch::Receiver<u64> {
        self.questions.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> PrimaryAddress {
        Some(Arc::new(ServerAddress { host: "h".into(), port }))
    }

    #[tokio::test]
    async fn a_link_is_left_only_for_another_server() {
        let primary = Primary { place: watch::Sender::new(Ok(at(1))), questions: watch::Sender::new(0) };
        let one = at(1);
        let moved = primary.moved_from(&one);
        tokio::pin!(moved);
        assert!(!primary.set(Ok(at(1))));
        assert!(primary.set(Err(RedisFailure::NoPrimary("doubt".into()))));
        assert!(futures_util::poll!(&mut moved).is_pending(), "doubt closes no link that works");
        assert!(primary.set(Ok(at(2))));
        moved.await;
        assert_eq!(primary.place(), Ok(at(2)));
    }
}
