//! A well-behaved client that must not be affected by what others do.

use std::{
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::json;

use crate::{
    client::TestClient,
    eventually,
    replica::{REPLICA_THREAD, TestReplica},
};

static WATCH: Once = Once::new();
static REPLICA_PANICKED: AtomicBool = AtomicBool::new(false);
static TEST_FAILED: AtomicBool = AtomicBool::new(false);

/// Distinguishes panics of replicas from those of failing tests in this process: the metric counts both.
fn watch_panics() {
    WATCH.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = thread::current().name() == Some(REPLICA_THREAD);
            if ours { &REPLICA_PANICKED } else { &TEST_FAILED }.store(true, Ordering::SeqCst);
            report(info);
        }));
    });
}

/// A client with its replica; it holds one subscription.
pub struct Bystander<'a> {
    replica: &'a TestReplica,
    client: TestClient,
    heard: u32,
}

impl<'a> Bystander<'a> {
    /// Connects to the replica and subscribes.
    pub async fn at(replica: &'a TestReplica) -> Self {
        watch_panics();
        let mut client = replica.market().await;
        client.subscribe(&["trades:CALM"]).await;
        Self { replica, client, heard: 0 }
    }

    /// The replica runs and is ready, nothing in it panicked, and the bystander still receives its messages.
    pub async fn is_unharmed_by(&mut self, what: &str) {
        for probe in ["/livez", "/readyz"] {
            assert_eq!(self.replica.get(probe).await.status, 200, "{probe} after {what}");
        }
        self.heard += 1;
        let trade = json!({"type": "trade", "number": self.heard, "after": what});
        self.replica.publish("trades:CALM", trade.clone()).await;
        self.client.expect(trade).await;
        let counted = self.replica.metric("tickgate_panics_total").await > 0.0;
        let panicked = REPLICA_PANICKED.load(Ordering::SeqCst) || counted && !TEST_FAILED.load(Ordering::SeqCst);
        assert!(!panicked, "a panic in a replica after {what}");
    }

    /// The same, and the bystander is the only client left: misbehaving clients hold nothing any more.
    pub async fn is_alone_after(&mut self, what: &str) {
        eventually(what, async || (self.replica.metric("tickgate_connections").await == 1.0).then_some(())).await;
        self.is_unharmed_by(what).await;
    }
}
