//! What an operator may do to this replica: combines the parts that the API's calls need. Does not decide about rights.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    api::{ConnectionDetail, Lifecycle, Operator, TraceSubject},
    config::{Effective, is_log_filter},
    connection::{drain, replica::Replica},
    hub::{StartedTrace, TracedSubject},
    telemetry::LogFilter,
};

/// This replica, from its operator's point of view.
pub(super) struct Controls {
    pub(super) replica: Arc<Replica>,
    pub(super) lifecycle: Lifecycle,
    /// Known only when the replica runs in its own process.
    pub(super) outside: Arc<ProcessContext>,
}

/// What the process that contains the replica knows.
#[derive(Debug, Default)]
pub(super) struct ProcessContext {
    /// The configuration in force.
    pub(super) effective: ArcSwapOption<Effective>,
    pub(super) filter: ArcSwapOption<LogFilter>,
}

impl ProcessContext {
    /// The `log.filter` that is configured now.
    fn filter_configured(&self) -> Option<String> {
        let effective = self.effective.load_full()?;
        Some(effective.to_json()["config"]["log"]["filter"].as_str()?.to_owned())
    }
}

impl Operator for Controls {
    fn drain(&self) {
        if !self.lifecycle.hold(true) {
            return;
        }
        let (replica, lifecycle) = (self.replica.clone(), self.lifecycle.clone());
        let config = replica.config.drain.clone();
        tracing::info!(connections = replica.connections.len(), "drained by an operator");
        self.replica.tasks.spawn("operator's drain", async move {
            let moved = async {
                tokio::time::sleep(config.delay).await;
                replica.hold(true);
                drain::move_all(&replica, config.spread).await;
            };
            let mut stop = replica.tasks.stop();
            tokio::select! {
                () = moved => {}
                () = lifecycle.released() => {}
                () = stop.wait() => {}
            }
            // Undrained in the meantime: the last command counts.
            replica.hold(lifecycle.is_held());
        });
    }

    fn undrain(&self) {
        if self.lifecycle.hold(false) {
            self.replica.hold(false);
            tracing::info!("drain ended by an operator");
        }
    }

    fn rebalance(&self, share: f64, spread: Duration) -> usize {
        let (replica, mut stop) = (self.replica.clone(), self.replica.tasks.stop());
        let asked = (replica.connections.len() as f64 * share).ceil() as usize;
        self.replica.tasks.spawn("rebalance", async move {
            tokio::select! {
                count = drain::move_share(&replica, share, spread) => {
                    tracing::info!(connections = count, "asked clients to reconnect");
                }
                () = stop.wait() => {}
            }
        });
        asked
    }

    fn log(&self, filter: &str, time: Duration) -> Result<(), String> {
        let Some(log) = self.outside.filter.load_full() else {
            return Err("this replica does not own the log of its process".into());
        };
        let unreadable = || "`filter` is invalid: write it as in log.filter".to_owned();
        if !is_log_filter(filter) {
            return Err(unreadable());
        }
        log.set(filter).map_err(|_| unreadable())?;
        let (outside, mut stop) = (self.outside.clone(), self.replica.tasks.stop());
        self.replica.tasks.spawn("log filter", async move {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = stop.wait() => return,
            }
            if let Some(configured) = outside.filter_configured() {
                // Validated above.
                let _ = log.set(&configured);
            }
        });
        Ok(())
    }

    fn trace(&self, subject: TraceSubject, time: Duration) -> Option<mpsc::Receiver<Bytes>> {
        let replica = self.replica.clone();
        let (user, subject) = match subject {
            TraceSubject::User(user) => (Some(user.clone()), TracedSubject::User(user)),
            TraceSubject::Topic(topic) => (None, TracedSubject::Topic(topic)),
        };
        let StartedTrace { number, sender, lines } = replica.hub.traces().begin(subject)?;
        // Connections that are already open; later ones are handled when they open.
        for handle in replica.connections.all().iter().filter(|handle| user.is_some() && handle.user() == user.as_ref())
        {
            handle.trace_opening(replica.hub.traces());
        }
        self.replica.tasks.spawn("trace", async move {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = sender.closed() => {}
                () = replica.hub.traces().over() => {}
            }
            replica.hub.traces().end(number);
        });
        Some(lines)
    }

    fn configuration(&self) -> serde_json::Value {
        let Some(effective) = self.outside.effective.load_full() else { return serde_json::json!({}) };
        let mut shown = effective.to_json();
        shown["origins"] = serde_json::json!(effective.origins());
        shown
    }

    fn connection(&self, id: &str) -> Option<ConnectionDetail> {
        let handle = self.replica.connections.all().into_iter().find(|handle| handle.id().is(id))?;
        let outbox = handle.outbox.detail();
        Some(ConnectionDetail {
            connection_id: id.to_owned(),
            user: handle.user().map(ToString::to_string),
            session: format!("{:?}", handle.session),
            endpoint: handle.origin.profile.name.clone(),
            address: handle.origin.address.to_string(),
            age_seconds: handle.age_ms(self.replica.uptime.now_ms()) / 1_000,
            silent_seconds: handle.silent_ms(self.replica.uptime.now_ms()) / 1_000,
            subscriptions: outbox.subscriptions,
            waiting_messages: outbox.waiting_messages,
            waiting_bytes: outbox.waiting_bytes,
            written_bytes: outbox.written_bytes,
            behind: outbox.behind,
            lagging: outbox.lagging,
        })
    }
}
