//! Supervises the command link. Never gives up, never returns a link that failed a probe.

use std::{sync::Arc, time::Duration};

use redis::{PushInfo, PushKind};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{AttachedServer, LinkShared, RedisFailure, backoff::LinkBackoff, connect, primary::PrimaryAddress};
use crate::{
    metrics::{LinkLabel, RedisCommand},
    tasks::Stop,
};

/// How often a lasting outage is logged again.
const REMINDER: Duration = Duration::from_secs(30);
/// A link that lasted this long has recovered: a later failure is another outage.
const STEADY: Duration = Duration::from_secs(5);

/// Connects, probes, reconnects, until the replica stops.
pub(super) async fn supervise(shared: Arc<LinkShared>, mut stop: Stop) {
    let mut backoff = LinkBackoff::default();
    let mut outage = Outage::new("command");
    // The pub/sub link may have connected to the server first: this link logs it as well.
    let mut logged = String::new();
    while !stop.stopping() {
        let failure = tokio::select! {
            failure = serve(&shared, &mut outage, &mut logged) => failure,
            () = stop.wait() => {
                shared.uninstall();
                return;
            }
        };
        let stood = shared.command.load().is_some();
        if stood {
            shared.uninstall();
        } else {
            *shared.obstacle.lock() = failure.is_obstacle().then(|| failure.to_string().into());
        }
        if outage.report(&shared, &failure) {
            backoff.reset();
        }
        // A lost link may be a failover.
        shared.primary.ask();
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = shared.primary.changed() => {}
            () = stop.wait() => {}
        }
    }
}

/// Runs one link until it ends, which it does at the latest when the primary changes. Returns the reason.
async fn serve(shared: &LinkShared, outage: &mut Outage, logged: &mut String) -> RedisFailure {
    let place = match shared.primary.place() {
        Ok(place) => place,
        Err(failure) => return failure,
    };
    tokio::select! {
        failure = serve_at(shared, &place, outage, logged) => failure,
        () = shared.primary.moved_from(&place) => RedisFailure::Superseded,
    }
}

async fn serve_at(
    shared: &LinkShared,
    place: &PrimaryAddress,
    outage: &mut Outage,
    logged: &mut String,
) -> RedisFailure {
    let ended = Arc::new(Notify::new());
    match connect(shared, place, &ended, logged).await {
        Ok(attached) => {
            outage.over();
            shared.install(&attached);
            watch(shared, attached, &ended).await
        }
        Err(failure) => failure,
    }
}

/// `logged`: the last server that was logged.
async fn connect(
    shared: &LinkShared,
    place: &PrimaryAddress,
    ended: &Arc<Notify>,
    logged: &mut String,
) -> Result<AttachedServer, RedisFailure> {
    let signal = Arc::clone(ended);
    let push = move |info: PushInfo| {
        if info.kind == PushKind::Disconnection {
            signal.notify_one();
        }
    };
    let attempt = connect::establish(&shared.config, place, "tickgate-command", push);
    let bound = shared.config.connect_timeout + shared.config.response_timeout * 4;
    let connect::Established { mut connection, identity, server } =
        timeout(bound, attempt).await.map_err(|_| RedisFailure::TimedOut)??;
    connect::check_format(&mut connection, &shared.keys).await?;
    let scripts = shared.scripts.lock().clone();
    for script in scripts {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(script).to_owned();
        load.query_async::<redis::Value>(&mut connection).await?;
    }
    if **logged != *identity {
        if !logged.is_empty() {
            shared.changes.send_modify(|changes| *changes += 1);
        }
        identity.as_ref().clone_into(logged);
        tracing::info!(
            address = connect::shown_address(&shared.config, &shared.primary),
            server = &*server.version,
            identity = &*identity,
            "connected to redis"
        );
        connect::warn_of_settings(&mut connection).await;
    }
    Ok(AttachedServer { connection, identity })
}

/// Probes the link every second and on request; returns why it failed.
async fn watch(shared: &LinkShared, attached: AttachedServer, ended: &Notify) -> RedisFailure {
    let AttachedServer { mut connection, identity } = attached;
    loop {
        tokio::select! {
            () = ended.notified() => return RedisFailure::Closed,
            () = shared.suspicion.notified() => {}
            () = sleep(shared.config.canary_interval) => {}
        }
        let timer = shared.metrics.redis_command_duration_seconds.of(RedisCommand::Probe).start_timer();
        if let Err(failure) = connect::check_place(&mut connection, &identity).await {
            return failure;
        }
        drop(timer);
        if !shared.is_one_server() {
            return RedisFailure::Other("the two links lead to different servers".into());
        }
    }
}

impl LinkShared {
    fn install(&self, attached: &AttachedServer) {
        self.pool.renew();
        *self.obstacle.lock() = None;
        *self.command_since.lock() = Instant::now();
        self.command.store(Some(Arc::new(attached.clone())));
        self.identities.send_replace(Some(Arc::clone(&attached.identity)));
        self.canary_due.notify_one();
        self.metrics.redis_up.of(LinkLabel::Command).set(1);
        self.metrics.redis_reconnects_total.of(LinkLabel::Command).inc();
    }

    fn uninstall(&self) {
        self.command.store(None);
        self.identities.send_replace(None);
        *self.command_since.lock() = Instant::now();
        self.metrics.redis_up.of(LinkLabel::Command).set(0);
    }
}

/// Logs an outage once, then again when its cause changes or it lasts. A link that repeatedly fails soon is one outage.
pub(super) struct Outage {
    link: &'static str,
    reported: Option<(RedisFailure, Instant)>,
    began: Option<Instant>,
    stood: Option<Instant>,
}

impl Outage {
    pub(super) const fn new(link: &'static str) -> Self {
        Self { link, reported: None, began: None, stood: None }
    }

    /// The link failed or could not be established. True if it had lasted long enough for this to be a new outage.
    pub(super) fn report(&mut self, shared: &LinkShared, failure: &RedisFailure) -> bool {
        shared.metrics.redis_errors_total.of(failure.label()).inc();
        let now = Instant::now();
        let fresh = self.stood.take().is_some_and(|since| now - since > STEADY);
        if fresh {
            (self.reported, self.began) = (None, None);
        }
        let began = *self.began.get_or_insert(now);
        let due = |(reported, at): &(RedisFailure, Instant)| reported != failure || now - *at >= REMINDER;
        if self.reported.as_ref().is_none_or(due) {
            let down = (now - began).as_secs();
            let (link, address) = (self.link, connect::shown_address(&shared.config, &shared.primary));
            tracing::warn!(link, address, down_seconds = down, %failure, "the link to redis is down");
            self.reported = Some((failure.clone(), now));
        }
        fresh
    }

    /// The link is established.
    pub(super) fn over(&mut self) {
        let now = Instant::now();
        self.stood = Some(now);
        if let Some(began) = self.began {
            let down_ms = u64::try_from((now - began).as_millis()).unwrap_or(u64::MAX);
            tracing::info!(link = self.link, down_ms, "the link to redis is back");
        }
    }
}
