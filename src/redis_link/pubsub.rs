//! Supervises the pub/sub link: subscriptions, canary, renewal. Sends only subscriptions and a probe over it: a large
//! response would count against its output buffer, and the server would disconnect it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    ChannelEvent, LinkShared, RedisFailure, backoff::LinkBackoff, command::Outage, connect, primary::PrimaryAddress,
    server,
};
use crate::{
    clock,
    defect::{self, Defect},
    fairness::Stride,
    metrics::LinkLabel,
    tasks::Stop,
};

/// Channels per SUBSCRIBE or UNSUBSCRIBE if the server is near; fewer if responses take long.
const STEP_MIN: usize = 50;
const STEP_MAX: usize = 1000;
/// A link with flowing messages gets this multiple of the canary timeout: the replica is busy, not disconnected.
const BUSY_PATIENCE: u32 = 5;

/// What the link's socket task reports to the supervisor.
struct LinkWatch {
    /// False after the link is abandoned: what its task still delivers is dropped.
    alive: AtomicBool,
    ended: Notify,
    seen: Mutex<SocketReport>,
}

#[derive(Clone, Copy)]
struct SocketReport {
    canary: Instant,
    anything: Instant,
    canaries: u64,
}

/// Connects, subscribes, watches, reconnects, until the replica stops.
pub(super) async fn supervise(shared: Arc<LinkShared>, mut stop: Stop) {
    let mut backoff = LinkBackoff::default();
    let mut outage = Outage::new("pubsub");
    while !stop.stopping() {
        let watch = Arc::new(LinkWatch::new());
        let failure = tokio::select! {
            failure = serve(&shared, &watch, &mut outage) => failure,
            () = stop.wait() => return,
        };
        let stood = watch.alive.swap(false, Ordering::SeqCst);
        shared.metrics.redis_up.of(LinkLabel::PubSub).set(0);
        *shared.pubsub_identity.lock() = None;
        shared.pubsub_down_since.lock().get_or_insert_with(Instant::now);
        if outage.report(&shared, &failure) {
            backoff.reset();
        }
        if stood {
            shared.subscriptions.emit_lost();
        }
        shared.primary.ask();
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = shared.primary.changed() => {}
            () = stop.wait() => {}
        }
    }
}

/// One link from its start to its end; returns why it ended.
async fn serve(shared: &Arc<LinkShared>, watch: &Arc<LinkWatch>, outage: &mut Outage) -> RedisFailure {
    let place = match shared.primary.place() {
        Ok(place) => place,
        Err(failure) => return failure,
    };
    tokio::select! {
        failure = serve_at(shared, watch, outage, &place) => failure,
        () = shared.primary.moved_from(&place) => RedisFailure::Superseded,
    }
}

async fn serve_at(
    shared: &Arc<LinkShared>,
    watch: &Arc<LinkWatch>,
    outage: &mut Outage,
    place: &PrimaryAddress,
) -> RedisFailure {
    let (connection, identity) = match connect(shared, watch, place).await {
        Ok(connected) => connected,
        Err(failure) => return failure,
    };
    shared.subscriptions.restart();
    watch.alive.store(true, Ordering::SeqCst);
    watch.seen_now();
    outage.over();
    shared.metrics.redis_reconnects_total.of(LinkLabel::PubSub).inc();
    attend(shared, watch, connection, &identity).await
}

async fn connect(
    shared: &Arc<LinkShared>,
    watch: &Arc<LinkWatch>,
    place: &PrimaryAddress,
) -> Result<(MultiplexedConnection, Arc<str>), RedisFailure> {
    let (owner, link) = (Arc::clone(shared), Arc::clone(watch));
    let push = move |info: PushInfo| link.take(&owner, info);
    let attempt = connect::establish(&shared.config, place, "tickgate-pubsub", push);
    let bound = shared.config.connect_timeout + shared.config.response_timeout * 4;
    let established = timeout(bound, attempt).await.map_err(|_| RedisFailure::TimedOut)??;
    *shared.pubsub_identity.lock() = Some(Arc::clone(&established.identity));
    // If the command link leads elsewhere, one of the two is wrong.
    shared.suspicion.notify_one();
    Ok((established.connection, established.identity))
}

/// Updates the subscriptions and watches the link at the same time: the watch detects a link that no longer responds to
/// a SUBSCRIBE.
async fn attend(
    shared: &LinkShared,
    watch: &LinkWatch,
    connection: MultiplexedConnection,
    identity: &str,
) -> RedisFailure {
    let mut prober = connection.clone();
    tokio::select! {
        failure = keep_subscribed(shared, connection) => failure,
        failure = keep_proven(shared, watch, &mut prober, identity) => failure,
    }
}

async fn keep_subscribed(shared: &LinkShared, mut connection: MultiplexedConnection) -> RedisFailure {
    // Responses may wait behind many messages; the watch detects silence.
    connection.set_response_timeout(shared.config.canary_timeout * BUSY_PATIENCE);
    match subscribe_all(shared, &mut connection).await {
        Ok(never) => match never {},
        Err(error) => RedisFailure::of(&error),
    }
}

async fn subscribe_all(shared: &LinkShared, connection: &mut MultiplexedConnection) -> RedisResult<Infallible> {
    let mut stride = Stride::new(STEP_MIN, STEP_MAX);
    // The control channels first: a verified link receives them.
    send_step(shared, connection, &mut stride).await?;
    connection.subscribe(shared.subscriptions.canary()).await?;
    shared.canary_due.notify_one();
    loop {
        while send_step(shared, connection, &mut stride).await? {}
        shared.subscriptions.changed.notified().await;
    }
}

/// Sends a chunk of the changes. False if nothing is left.
async fn send_step(
    shared: &LinkShared,
    connection: &mut MultiplexedConnection,
    stride: &mut Stride,
) -> RedisResult<bool> {
    let names = |channels: &[Arc<str>]| channels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let step = shared.subscriptions.step(stride.count());
    let began = Instant::now();
    for channel in &step.confirmed {
        shared.confirmed(channel);
    }
    let (mut subscribing, mut unsubscribing) = (connection.clone(), connection.clone());
    let subscribe =
        async { if step.subscribe.is_empty() { Ok(()) } else { subscribing.subscribe(names(&step.subscribe)).await } };
    let unsubscribe = async {
        if step.unsubscribe.is_empty() { Ok(()) } else { unsubscribing.unsubscribe(names(&step.unsubscribe)).await }
    };
    // No channel is in both, and nothing waits for the channels to unsubscribe.
    tokio::try_join!(subscribe, unsubscribe)?;
    let count = step.subscribe.len().max(step.unsubscribe.len());
    if count > 0 {
        stride.took(count, began.elapsed());
    }
    Ok(step.more)
}

/// Watches the canary, and queries the server's role: that detects a dead path or a demoted server even while there is
/// no command link to send a canary.
async fn keep_proven(
    shared: &LinkShared,
    watch: &LinkWatch,
    connection: &mut MultiplexedConnection,
    identity: &str,
) -> RedisFailure {
    if defect::is(Defect::NoCanary) {
        watch.ended.notified().await;
        return RedisFailure::Closed;
    }
    let mut probe_at = Instant::now() + shared.config.canary_interval;
    loop {
        tokio::select! {
            () = watch.ended.notified() => return RedisFailure::Closed,
            () = sleep_until(probe_at.min(watch.deadline(shared))) => {}
        }
        if Instant::now() >= watch.deadline(shared) {
            return RedisFailure::Other("the canary did not return".into());
        }
        if !shared.is_one_server() {
            return RedisFailure::Other("the two links lead to different servers".into());
        }
        if Instant::now() >= probe_at {
            let before = watch.seen.lock().anything;
            match connect::check_place(connection, identity).await {
                Ok(()) => {}
                // The response waits behind messages that still flow: busy, not dead.
                Err(RedisFailure::TimedOut) if watch.seen.lock().anything > before => {}
                Err(failure) => return failure,
            }
            probe_at = Instant::now() + shared.config.canary_interval;
        }
    }
}

/// Publishes this replica's canary over the command link, at every interval and whenever a link waits for verification.
pub(super) async fn publish_canaries(shared: Arc<LinkShared>, mut stop: Stop) {
    while !stop.stopping() {
        let attached = shared.command.load_full();
        if let Some(mut connection) = attached.map(|attached| attached.connection.clone()) {
            let canary = redis::cmd("PUBLISH").arg(shared.subscriptions.canary()).arg(canary_clock()).to_owned();
            let (mut clock, sent_us) = (connection.clone(), clock::unix_us());
            let asked = async {
                redis::cmd("TIME").query_async::<(u64, u64)>(&mut clock).await.map(|time| (time, clock::unix_us()))
            };
            let (published, time) = tokio::join!(canary.query_async::<Value>(&mut connection), asked);
            if published.is_err_and(|error| RedisFailure::of(&error).accuses_link()) {
                shared.suspicion.notify_one();
            }
            if let Ok(((seconds, micros), received_us)) = time
                && let Some(skew) = server::clock_skew(sent_us, received_us, seconds * 1_000_000 + micros)
            {
                shared.metrics.redis_clock_skew_seconds.set(skew);
            }
        }
        tokio::select! {
            () = sleep(shared.config.canary_interval) => {}
            () = shared.canary_due.notified() => {}
            () = stop.wait() => {}
        }
    }
}

/// When a canary was sent, in microseconds of this process.
fn canary_clock() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl LinkWatch {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            alive: AtomicBool::new(false),
            ended: Notify::new(),
            seen: Mutex::new(SocketReport { canary: now, anything: now, canaries: 0 }),
        }
    }

    fn seen_now(&self) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        (seen.canary, seen.anything) = (now, now);
    }

    /// When the link counts as dead. Not soon while no canary can be sent.
    fn deadline(&self, shared: &LinkShared) -> Instant {
        let timeout = shared.config.canary_timeout;
        if shared.command.load().is_none() {
            return Instant::now() + timeout;
        }
        let SocketReport { canary, anything, .. } = *self.seen.lock();
        let due = canary.max(*shared.command_since.lock()) + timeout;
        // Messages after the last canary mean that the replica is busy, for a limited time.
        due.max((anything + timeout).min(due + timeout * (BUSY_PATIENCE - 1)))
    }

    /// Handles what the server sends unprompted. Runs in the connection's own task: never blocks.
    fn take(&self, shared: &LinkShared, info: PushInfo) {
        let PushInfo { kind, data } = info;
        if kind == PushKind::Disconnection {
            self.ended.notify_one();
            return;
        }
        let mut parts = data.into_iter();
        let Some(channel) = parts.next().and_then(text) else { return };
        match kind {
            PushKind::Message if channel == shared.subscriptions.canary() => self.take_canary(shared, parts.next()),
            PushKind::Message => {
                let Some(Value::BulkString(payload)) = parts.next() else { return };
                if self.alive.load(Ordering::Relaxed) {
                    self.seen.lock().anything = Instant::now();
                    shared.subscriptions.deliver(&channel, payload);
                }
            }
            PushKind::Subscribe
                if self.alive.load(Ordering::Relaxed) && shared.subscriptions.confirm_subscribe(&channel) =>
            {
                shared.confirmed(&channel);
            }
            PushKind::Unsubscribe if !shared.subscriptions.confirm_unsubscribe(&channel) => {
                tracing::warn!("redis ended a subscription unexpectedly");
                self.ended.notify_one();
            }
            _ => {}
        }
    }

    fn take_canary(&self, shared: &LinkShared, sent: Option<Value>) {
        if !self.alive.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let first = {
            let mut seen = self.seen.lock();
            (seen.canary, seen.anything) = (now, now);
            seen.canaries += 1;
            seen.canaries == 1
        };
        if first {
            shared.prove_pubsub();
        }
        if let Some(sent) = sent.and_then(text).and_then(|sent| sent.parse::<u64>().ok()) {
            let trip = Duration::from_micros(canary_clock().saturating_sub(sent));
            shared.metrics.redis_canary_seconds.observe(trip.as_secs_f64());
        }
    }
}

impl LinkShared {
    /// The first canary returned: the link works in both directions.
    fn prove_pubsub(&self) {
        *self.pubsub_down_since.lock() = None;
        self.metrics.redis_up.of(LinkLabel::PubSub).set(1);
        self.pubsub_links.send_modify(|links| *links += 1);
    }

    fn confirmed(&self, channel: &str) {
        if !self.subscriptions.is_control(channel) {
            self.subscriptions.emit(ChannelEvent::Confirmed { channel });
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
