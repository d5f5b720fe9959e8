//! What each setting of Redis can lose: a client is away while a hundred publications are acknowledged, Redis fails,
//! and the client returns. What it does not receive must be reported to it. docs/guarantees.md has the table.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tickgate_wire::model::{Class, StreamId};
use tokio::time::sleep;

use crate::{
    cast::{self, Casting},
    dice::Dice,
    follower::ClientOrder,
    ordeal::target_dir,
    record::{HeardEvent, SharedDiary, TestedChannel},
    redis_line::{loaded, say},
    sight::connected,
    stage::ChaosStage,
    standby::Standby,
};

const HALF: usize = 50;
const AT_ONCE: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration of Redis, and how it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureCase {
    AofAlwaysThenKilled,
    AofEverySecThenKilled,
    DumpKilled,
    NoPersistenceThenKilled,
    PlannedFailover,
    LaggingFailover,
    LaggingFailoverWithWait,
    Full,
    FullEvictsAll,
    FullEvictsVolatile,
}

/// The fate of the publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate {
    acknowledged: usize,
    refused: usize,
    unknown: usize,
    /// Acknowledged publications that the client received.
    got: usize,
    /// Not received, and covered by a gap.
    told: usize,
    /// Not received, and not reported.
    silent: usize,
}

impl FailureCase {
    const ALL: &[Self] = &[
        Self::AofAlwaysThenKilled,
        Self::AofEverySecThenKilled,
        Self::DumpKilled,
        Self::NoPersistenceThenKilled,
        Self::PlannedFailover,
        Self::LaggingFailover,
        Self::LaggingFailoverWithWait,
        Self::Full,
        Self::FullEvictsAll,
        Self::FullEvictsVolatile,
    ];

    /// Its name in the documentation.
    const fn text(self) -> &'static str {
        match self {
            Self::AofAlwaysThenKilled => "`appendonly yes`, `appendfsync always`; killed",
            Self::AofEverySecThenKilled => "`appendonly yes`, `appendfsync everysec`; killed",
            Self::DumpKilled => "RDB only, a dump half-way; killed",
            Self::NoPersistenceThenKilled => "no persistence; killed",
            Self::PlannedFailover => "failover after the replica has caught up",
            Self::LaggingFailover => "failover to a replica that lags by half",
            Self::LaggingFailoverWithWait => "the same, topic with `wait_replicas = 1`",
            Self::Full => "`maxmemory` reached half-way, `noeviction`",
            Self::FullEvictsAll => "`maxmemory` reached half-way, `allkeys-lru`",
            Self::FullEvictsVolatile => "`maxmemory` reached half-way, `volatile-lru`",
        }
    }

    /// Overrides of the shipped settings.
    const fn persistence(self) -> &'static [&'static str] {
        match self {
            Self::AofAlwaysThenKilled => &["--appendfsync", "always"],
            Self::DumpKilled | Self::NoPersistenceThenKilled => &["--appendonly", "no"],
            _ => &[],
        }
    }

    const fn has_standby(self) -> bool {
        matches!(self, Self::PlannedFailover | Self::LaggingFailover | Self::LaggingFailoverWithWait)
    }

    fn channel(self) -> TestedChannel {
        let name = if self == Self::LaggingFailoverWithWait { "replicated" } else { "bulk" };
        TestedChannel::public(name, Class::Reliable)
    }
}

struct Trial {
    stage: Arc<ChaosStage>,
    channel: TestedChannel,
    dice: Dice,
    fate: Fate,
}

impl Trial {
    async fn of(case: FailureCase) -> Fate {
        let stage = ChaosStage::set(cast::server(case.persistence()), None, &[]).await;
        let (mut trial, mut standby) =
            (Self { stage, channel: case.channel(), dice: Dice::new(1), fate: Fate::default() }, None);
        if case.has_standby() {
            standby = Some(Standby::of(&*trial.stage.redis.lock().await).await);
        }
        let casting = Casting::usual("traveller", "user0", vec![trial.channel.clone()]);
        let (diary, orders) = trial.stage.seat(casting, &mut trial.dice);
        connected(&trial.stage).await;
        trial.insist_on_each().await;
        trial.stage.converged(Instant::now() - PATIENCE, PATIENCE).await.expect("the first publication");
        let away_since = trial.head();
        orders.send_replace(ClientOrder::StayAway(trial.stage.next_order(), PATIENCE * 10));
        trial.publish(HALF).await;
        trial.prepare(case, standby.as_ref()).await;
        trial.publish(HALF).await;
        let _standby = trial.fail(case, standby).await;
        let owed = trial.acknowledged_after(away_since);
        trial.insist().await;
        orders.send_replace(ClientOrder::Live);
        trial.stage.converged(Instant::now() - PATIENCE * 10, PATIENCE).await.expect("the traveller to catch up");
        // Replicas verify what they acknowledged once they have found the server.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fate = trial.judge(&owed, &diary);
            if fate.silent == 0 || Instant::now() > deadline {
                return fate;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn head(&self) -> StreamId {
        self.stage.ledger.lock().heads().get(&self.channel.stream).map(|(head, _)| *head).expect("something accepted")
    }

    fn acknowledged_after(&self, after: StreamId) -> Vec<StreamId> {
        let ledger = self.stage.ledger.lock();
        let all = ledger.acknowledged[&self.channel.stream].keys();
        all.copied().filter(|id| *id > after).collect()
    }

    /// One attempt for each, several at once: some take as long as the timeout for a server.
    async fn publish(&mut self, count: usize) {
        let before = self.count();
        let attempts = (0..count).map(|_| {
            let (stage, channel, mut dice) = (&self.stage, &self.channel, self.dice.fork());
            async move { stage.traffic.attempt(channel, 1_000, &mut dice).await }
        });
        stream::iter(attempts).buffer_unordered(AT_ONCE).collect::<()>().await;
        let now = self.count();
        self.fate.refused += now.0 - before.0;
        self.fate.unknown += now.1 - before.1;
    }

    fn count(&self) -> (usize, usize) {
        let ledger = self.stage.ledger.lock();
        let number = |count: u64| usize::try_from(count).expect("few");
        (number(ledger.refused), number(ledger.unknown + ledger.unanswered))
    }

    /// Makes as many attempts as necessary.
    async fn insist(&mut self) {
        assert!(self.stage.traffic.publish(&self.channel, 100, &mut self.dice).await, "a publication is accepted");
    }

    /// A replica acknowledges nothing before the others know it: each must, before single attempts count.
    async fn insist_on_each(&mut self) {
        let replicas = self.stage.operations.read().clone();
        for replica in replicas {
            let accepted = self.stage.traffic.publish_by(&[replica], &self.channel, 100, &mut self.dice).await;
            assert!(accepted, "{replica} accepts a publication");
        }
    }

    /// Prepares the failure half-way.
    async fn prepare(&self, case: FailureCase, standby: Option<&Standby>) {
        let redis = self.stage.redis.lock().await;
        let port = redis.port();
        match case {
            FailureCase::DumpKilled => say(port, "SAVE").await,
            FailureCase::LaggingFailover | FailureCase::LaggingFailoverWithWait => {
                let standby = standby.expect("a standby");
                // Exactly half, independent of what is in flight.
                standby.catch_up_with(&redis).await;
                standby.fall_behind();
            }
            FailureCase::Full => say(port, "CONFIG SET maxmemory 1mb").await,
            FailureCase::FullEvictsAll | FailureCase::FullEvictsVolatile => {
                let policy = if case == FailureCase::FullEvictsAll { "allkeys-lru" } else { "volatile-lru" };
                say(port, &format!("CONFIG SET maxmemory-policy {policy}")).await;
                say(port, "CONFIG SET maxmemory 1mb").await;
            }
            _ => {}
        }
    }

    /// Redis fails and recovers; with another standby if publications wait for one.
    async fn fail(&self, case: FailureCase, standby: Option<Standby>) -> Option<Standby> {
        let mut redis = self.stage.redis.lock().await;
        match (case, standby) {
            (FailureCase::PlannedFailover, Some(standby)) => standby.take_over(&self.stage, &mut redis).await,
            (_, Some(standby)) => standby.take_over_from_the_dead(&self.stage, &mut redis).await,
            (FailureCase::Full | FailureCase::FullEvictsAll | FailureCase::FullEvictsVolatile, None) => {
                say(redis.port(), "CONFIG SET maxmemory 0").await;
            }
            (_, None) => {
                redis.kill();
                tokio::task::block_in_place(|| redis.restart());
                loaded(redis.port()).await;
            }
        }
        if case == FailureCase::LaggingFailoverWithWait { Some(Standby::of(&redis).await) } else { None }
    }

    fn judge(&self, owed: &[StreamId], diary: &SharedDiary) -> Fate {
        let diary = diary.lock();
        let heard = &diary.streams[&self.channel.stream];
        let got =
            |id: StreamId| heard.iter().any(|(_, heard)| matches!(heard, HeardEvent::Push { id: at, .. } if *at == id));
        let told = |id: StreamId| {
            heard.iter().any(|(_, heard)| match heard {
                HeardEvent::Gap { after, before, .. } => *after < id && before.is_none_or(|before| id < before),
                _ => false,
            })
        };
        let mut fate = Fate { acknowledged: owed.len(), ..self.fate };
        for id in owed {
            let place = match () {
                () if got(*id) => &mut fate.got,
                () if told(*id) => &mut fate.told,
                () => &mut fate.silent,
            };
            *place += 1;
        }
        fate
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loss_of_a_redis_setting_is_reported() {
    let mut table = String::from(
        "| Redis | acknowledged | refused | unknown | got | told as missing | missing and not told |\n|---|---|---|---|---|---|---|\n",
    );
    let mut fates = Vec::new();
    for case in FailureCase::ALL {
        let fate = Trial::of(*case).await;
        let Fate { acknowledged, refused, unknown, got, told, silent } = fate;
        let text = case.text();
        eprintln!("{text}: {fate:?}");
        let _ = writeln!(table, "| {text} | {acknowledged} | {refused} | {unknown} | {got} | {told} | {silent} |");
        fates.push((*case, fate));
    }
    std::fs::create_dir_all(target_dir()).expect("a directory");
    std::fs::write(target_dir().join("settings.md"), &table).expect("the table to be written");
    let of = |case: FailureCase| fates.iter().find(|(known, _)| *known == case).map(|(_, fate)| *fate).expect("tried");
    for (case, fate) in &fates {
        assert_eq!(fate.silent, 0, "{case:?}: {fate:?}");
    }
    for case in [FailureCase::AofAlwaysThenKilled, FailureCase::AofEverySecThenKilled, FailureCase::PlannedFailover] {
        assert_eq!((of(case).got, of(case).told), (2 * HALF, 0), "{case:?}");
    }
    for case in [FailureCase::DumpKilled, FailureCase::LaggingFailover] {
        assert_eq!((of(case).got, of(case).told), (HALF, HALF), "{case:?}");
    }
    assert_eq!(of(FailureCase::NoPersistenceThenKilled).told, 2 * HALF);
    for case in [FailureCase::LaggingFailoverWithWait, FailureCase::Full] {
        assert_eq!(
            (of(case).acknowledged, of(case).got),
            (HALF, HALF),
            "{case:?}: what can be lost is not acknowledged"
        );
    }
}
