//! Follows the primary through sentinels: one connection to each, asked every second and at every hint. Never connects
//! to the servers themselves: the links do, and check what they find.
//!
//! `+switch-master` is only a hint to ask: it may come from a sentinel that is late, and it does not come at all from
//! one that is cut off. The verdict closes the links to any other server at once. `SENTINEL FAILOVER` leaves the previous
//! primary accepting writes for up to 10 s, all of which are lost.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    LinkShared, RedisFailure,
    backoff::LinkBackoff,
    connect,
    primary::PrimaryAddress,
    transport,
    verdict::{self, PrimaryDoubt, SentinelAnswer},
};
use crate::{
    config::{self, Sentinels, ServerAddress},
    tasks::Stop,
};

/// How often a lasting doubt is logged again.
const REMINDER: Duration = Duration::from_secs(30);

/// The answer of a sentinel that has not been asked yet.
const NOT_ASKED: Result<SentinelAnswer, RedisFailure> = Err(RedisFailure::Disconnected);

/// The last answer of each sentinel, and the decision.
struct SentinelAnswers {
    of_sentinels: Vec<Result<SentinelAnswer, RedisFailure>>,
    /// Greatest config epoch that was followed.
    seen: u64,
    doubt: Option<(PrimaryDoubt, Instant)>,
}

/// Asks all sentinels until the replica stops. Returns at once if there are none.
pub(super) async fn follow(shared: Arc<LinkShared>, mut stop: Stop) {
    let Some(sentinels) = shared.config.access().sentinels.clone() else { return };
    let of_sentinels = vec![NOT_ASKED; sentinels.addresses.len()];
    let answers = Mutex::new(SentinelAnswers { of_sentinels, seen: 0, doubt: None });
    let asking = (0..sentinels.addresses.len()).map(|at| keep_asking(&shared, &answers, at));
    tokio::select! {
        _ = join_all(asking) => {}
        () = stop.wait() => {}
    }
}

/// The primary, from one round of questions.
///
/// # Errors
/// Why it is not known.
pub(super) async fn find(config: &config::Redis) -> Result<PrimaryAddress, RedisFailure> {
    let access = config.access();
    let Some(sentinels) = &access.sentinels else { return Ok(None) };
    let asked = sentinels.addresses.iter().map(|address| async move {
        let bound = config.connect_timeout + config.response_timeout;
        let question = async { ask(&mut open(config, address, |_| {}).await?, &sentinels.name).await };
        timeout(bound, question).await.unwrap_or(Err(RedisFailure::TimedOut))
    });
    judge(&join_all(asked).await, sentinels, 0).map(|answer| place(sentinels, answer)).map_err(|(_, failure)| failure)
}

fn place(sentinels: &Sentinels, answer: &SentinelAnswer) -> PrimaryAddress {
    Some(Arc::new(sentinels.reachable(&answer.primary)))
}

/// Keeps a connection to one sentinel, and records its last answer.
async fn keep_asking(shared: &LinkShared, answers: &Mutex<SentinelAnswers>, at: usize) {
    let mut backoff = LinkBackoff::default();
    let mut is_logged = false;
    loop {
        let Some(sentinels) = shared.config.access().sentinels.clone() else { return };
        let address = &sentinels.addresses[at];
        let failure = ask_until_lost(shared, answers, (at, address), &sentinels, (&mut backoff, &mut is_logged)).await;
        if !std::mem::replace(&mut is_logged, true) {
            tracing::warn!(sentinel = %address, %failure, "a sentinel does not answer");
        }
        answers.lock().record(shared, &sentinels, at, Err(failure));
        sleep(backoff.next()).await;
    }
}

/// One connection from its start to its end; returns why it ended.
async fn ask_until_lost(
    shared: &LinkShared,
    answers: &Mutex<SentinelAnswers>,
    (at, address): (usize, &ServerAddress),
    sentinels: &Sentinels,
    (backoff, is_logged): (&mut LinkBackoff, &mut bool),
) -> RedisFailure {
    let config = &shared.config;
    let (ended, primary) = (Arc::new(Notify::new()), Arc::clone(&shared.primary));
    let signal = Arc::clone(&ended);
    let push = move |info: PushInfo| match info.kind {
        PushKind::Disconnection => signal.notify_one(),
        PushKind::Message => primary.ask(),
        _ => {}
    };
    let opened = timeout(config.connect_timeout, open(config, address, push)).await;
    let mut connection = match opened.unwrap_or(Err(RedisFailure::TimedOut)) {
        Ok(connection) => connection,
        Err(failure) => return failure,
    };
    // Before the first question, so that no failover between the two is missed.
    if let Err(error) = connection.subscribe("+switch-master").await {
        return RedisFailure::of(&error);
    }
    let mut questions = shared.primary.questions();
    loop {
        match ask(&mut connection, &sentinels.name).await {
            Ok(answer) => {
                backoff.reset();
                if std::mem::replace(is_logged, false) {
                    tracing::info!(sentinel = %address, "a sentinel answers again");
                }
                answers.lock().record(shared, sentinels, at, Ok(answer));
            }
            Err(failure) => return failure,
        }
        tokio::select! {
            () = ended.notified() => return RedisFailure::Closed,
            _ = questions.changed() => {}
            () = sleep(config.canary_interval) => {}
        }
    }
}

async fn open(
    config: &config::Redis,
    address: &ServerAddress,
    push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<MultiplexedConnection, RedisFailure> {
    let info = connect::sentinel_info(config, address)?;
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.response_timeout))
        .set_push_sender(move |info: PushInfo| {
            push(info);
            Ok::<(), ()>(())
        });
    let is_tls = config.access().is_tls();
    transport::open(&info, &settings, "tickgate-sentinel")
        .await
        .map_err(|error| RedisFailure::of_connecting(&error, is_tls))
}

/// The epoch before the address: at worst the address is newer than its epoch.
async fn ask(connection: &mut MultiplexedConnection, name: &str) -> Result<SentinelAnswer, RedisFailure> {
    type SentinelFields = HashMap<String, String>;
    let question = |word: &str| redis::cmd("SENTINEL").arg(word).arg(name).to_owned();
    let mut pipeline = redis::pipe();
    for word in ["MASTER", "REPLICAS", "GET-MASTER-ADDR-BY-NAME"] {
        pipeline.add_command(question(word));
    }
    let answered =
        pipeline.query_async::<(SentinelFields, Vec<SentinelFields>, Option<(String, u16)>)>(connection).await;
    let (master, replicas, primary) = answered.map_err(|error| explained(&error, name))?;
    let (host, port) = primary.ok_or_else(|| unknown(name))?;
    let known = std::iter::once(&master).chain(&replicas).filter_map(|fields| {
        Some(ServerAddress { host: fields.get("ip")?.clone(), port: fields.get("port")?.parse().ok()? })
    });
    let epoch = master.get("config-epoch").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(SentinelAnswer { primary: ServerAddress { host, port }, epoch, known: known.collect() })
}

fn explained(error: &redis::RedisError, name: &str) -> RedisFailure {
    let text = error.to_string();
    if text.contains("No such master") {
        unknown(name)
    } else if text.contains("unknown command") {
        RedisFailure::NoPrimary("redis.addresses names a server that is not a sentinel".into())
    } else {
        RedisFailure::of(error)
    }
}

fn unknown(name: &str) -> RedisFailure {
    RedisFailure::NoPrimary(format!("the sentinel does not know the name {name:?}").into())
}

/// The answer to follow, or the doubt with its text.
fn judge<'a>(
    answers: &'a [Result<SentinelAnswer, RedisFailure>],
    sentinels: &Sentinels,
    seen: u64,
) -> Result<&'a SentinelAnswer, (PrimaryDoubt, RedisFailure)> {
    let given: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).cloned().collect();
    match verdict::decide(&given, sentinels.addresses.len(), seen) {
        Ok(found) => {
            let found = answers.iter().filter_map(|answer| answer.as_ref().ok()).find(|answer| *answer == found);
            found.ok_or((PrimaryDoubt::Silence, RedisFailure::Disconnected))
        }
        // The reason why none answers is more useful than the fact.
        Err(PrimaryDoubt::Silence) => {
            let told = |failure: &&RedisFailure| matches!(failure, RedisFailure::NoPrimary(_));
            let failures = || answers.iter().filter_map(|answer| answer.as_ref().err());
            let failure = failures().find(told).or_else(|| failures().next());
            let text = failure.map_or_else(String::new, |failure| format!(": {failure}"));
            Err((PrimaryDoubt::Silence, RedisFailure::NoPrimary(format!("{}{text}", PrimaryDoubt::Silence).into())))
        }
        Err(doubt) => {
            let failure = RedisFailure::NoPrimary(doubt.to_string().into());
            Err((doubt, failure))
        }
    }
}

impl SentinelAnswers {
    /// Records the answer of one sentinel, and acts on all of them.
    fn record(
        &mut self,
        shared: &LinkShared,
        sentinels: &Sentinels,
        at: usize,
        answer: Result<SentinelAnswer, RedisFailure>,
    ) {
        self.of_sentinels[at] = answer;
        let answering = self.of_sentinels.iter().filter(|answer| answer.is_ok()).count();
        shared.metrics.redis_sentinels.set(i64::try_from(answering).unwrap_or(i64::MAX));
        // At the start, all are asked before one is followed: the first to answer may be wrong.
        if self.of_sentinels.contains(&NOT_ASKED) {
            return;
        }
        match judge(&self.of_sentinels, sentinels, self.seen).cloned() {
            Ok(answer) => self.follow(shared, sentinels, &answer),
            Err((doubt, failure)) => self.doubt(shared, doubt, &failure),
        }
    }

    fn follow(&mut self, shared: &LinkShared, sentinels: &Sentinels, answer: &SentinelAnswer) {
        (self.seen, self.doubt) = (answer.epoch, None);
        shared.metrics.redis_sentinels_doubt.set(0);
        let place = place(sentinels, answer);
        let was_known = shared.primary.place().is_ok();
        if shared.primary.set(Ok(place)) {
            if was_known {
                shared.metrics.redis_primary_moves_total.inc();
            }
            let SentinelAnswer { primary, epoch, .. } = answer;
            tracing::info!(%primary, epoch, "the sentinels name the primary");
        }
    }

    /// A primary that was named stays: its links are still proven by themselves.
    fn doubt(&mut self, shared: &LinkShared, doubt: PrimaryDoubt, failure: &RedisFailure) {
        let now = Instant::now();
        let is_logged_already = matches!(&self.doubt, Some((before, at)) if *before == doubt && now - *at < REMINDER);
        shared.metrics.redis_sentinels_doubt.set(1);
        if shared.primary.place().is_err() {
            shared.primary.set(Err(failure.clone()));
        }
        if !is_logged_already {
            tracing::warn!(%failure, "the sentinels name no primary");
            self.doubt = Some((doubt, now));
        }
    }
}
