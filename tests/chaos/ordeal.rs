//! The run: each fault alone, with its times; then all faults at random, several at once; then a quiet phase, after
//! which everything must be as before.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    cast,
    dice::Dice,
    faults::{self, FaultTarget, InjectedFault, PermittedEffect},
    figures::ChaosFigures,
    follower::ClientOrder,
    sight::{badly_ended, connected, counts_are, eventually_published, links, watch_links},
    specials,
    stage::{self, ChaosStage},
};

/// How long a member may be missing before it is certainly removed (docs/adr/0010-generations.md, "Leases").
const LEASE_MAX: Duration = Duration::from_secs(60);
/// Maximum time from the last fault until every client has everything.
const CONVERGENCE_MAX: Duration = Duration::from_secs(10);
/// Maximum time from the kill of a replica until the counts are correct.
const COUNTS_MAX: Duration = Duration::from_secs(20);
/// Number of concurrent faults.
const AT_ONCE: usize = 3;
const SECONDS_DEFAULT: u64 = 88;
/// Of which the end and its counts take this many.
const END_SECONDS: u64 = 14;
const FAULTS_MIN: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_silently_wrong() {
    let seed = number_from("TICKGATE_CHAOS_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64 % 1_000_000)
    });
    let seconds = number_from("TICKGATE_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
    eprintln!("chaos: seed {seed}, {seconds} s");
    let mut run = ChaosRun::begin(seed).await;
    // A longer run has time to inject each fault alone repeatedly before they are combined.
    let is_long = seconds > SECONDS_DEFAULT;
    run.each_alone(is_long).await;
    while is_long && run.begun.elapsed() < Duration::from_secs(seconds) * 6 / 10 {
        run.each_alone(is_long).await;
    }
    run.specials().await;
    eprintln!("{:>6.1} s  all at random", run.begun.elapsed().as_secs_f64());
    run.all_at_random(run.begun + Duration::from_secs(seconds.saturating_sub(END_SECONDS))).await;
    eprintln!("{:>6.1} s  quiet", run.begun.elapsed().as_secs_f64());
    run.quiet().await;
    run.count_after_kill().await;
    run.empty().await;
    run.figures.seconds = run.begun.elapsed().as_secs_f64();
    run.finish();
}

/// The kinds of faults whose names contain one of the words; all without words.
fn kinds_from(words: Option<&str>) -> Vec<InjectedFault> {
    let words: Vec<_> = words.into_iter().flat_map(|words| words.split(',')).collect();
    let named =
        |fault: &&InjectedFault| words.is_empty() || words.iter().any(|word| format!("{fault:?}").contains(word));
    InjectedFault::ALL.iter().filter(named).copied().collect()
}

/// A number from the environment.
fn number_from(variable: &str) -> Option<u64> {
    text_from(variable)?.parse().ok()
}

fn text_from(variable: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a switch of the suite, not a setting of the gateway")]
    std::env::var(variable).ok()
}

struct ChaosRun {
    begun: Instant,
    /// The kinds of faults to inject.
    kinds: Vec<InjectedFault>,
    stage: Arc<ChaosStage>,
    dice: Dice,
    figures: ChaosFigures,
    violations: Vec<String>,
    /// When something happened after which a change of server may be doubtful.
    doubt: Option<Instant>,
}

impl ChaosRun {
    async fn begin(seed: u64) -> Self {
        let begun = Instant::now();
        let mut dice = Dice::new(seed);
        let stage = ChaosStage::set(cast::durable(), None, &[]).await;
        stage.seat_audience(&mut dice);
        connected(&stage).await;
        stage.start_traffic(4, &mut dice);
        let violations = Vec::new();
        let kinds = kinds_from(text_from("TICKGATE_CHAOS_FAULTS").as_deref());
        let mut run = Self {
            begun,
            kinds,
            stage,
            dice,
            figures: ChaosFigures { seed, ..ChaosFigures::default() },
            violations,
            doubt: None,
        };
        run.converge("the start", Instant::now()).await;
        run
    }

    /// Waits until every client has everything acknowledged since. Returns how long it took.
    async fn converge(&mut self, after: &str, since: Instant) -> Option<Duration> {
        let published = eventually_published(&self.stage, since, CONVERGENCE_MAX).await;
        match self.stage.converged(since, CONVERGENCE_MAX).await {
            Ok(at) if published => Some(at.saturating_duration_since(since)),
            Ok(_) => {
                self.violations.push(format!("after {after}: nothing can be published"));
                None
            }
            Err(who) => {
                self.violations.push(format!("after {after}: not converged within {CONVERGENCE_MAX:?}: {who}"));
                None
            }
        }
    }

    /// Injects each fault once. Faults of clients overlap with faults of Redis or a replica, unless `strictly` alone:
    /// neither may cause a gap. Otherwise nothing else happens meanwhile.
    async fn each_alone(&mut self, strictly: bool) {
        let mut order = self.kinds.clone();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.index(at + 1));
        }
        let (mut of_clients, others): (Vec<_>, Vec<_>) =
            order.into_iter().partition(|fault| fault.target() == FaultTarget::Client);
        for fault in others {
            let fits =
                !strictly && fault.effect() == PermittedEffect::Nothing && fault != InjectedFault::ReplicaDrained;
            self.alone(fault, of_clients.pop_if(|_| fits)).await;
        }
        for fault in of_clients {
            self.alone(fault, None).await;
        }
    }

    async fn alone(&mut self, fault: InjectedFault, of_clients: Option<InjectedFault>) {
        let gaps = self.stage.total(|diary| diary.gaps());
        let links = links(&self.stage).await;
        let watch = Arc::new(Mutex::new(None));
        let mut other_dice = self.dice.fork();
        let text = of_clients.map_or(fault.text().into(), |other| format!("{}, {}", fault.text(), other.text()));
        let (injected, began, healed) = {
            let watching = watch_links(Arc::clone(&self.stage), links, Arc::clone(&watch));
            let whole = async {
                let inject_other = async {
                    match of_clients {
                        Some(other) => Some(faults::inject(&self.stage, other, &mut other_dice).await),
                        None => None,
                    }
                };
                let (injected, other) = tokio::join!(faults::inject(&self.stage, fault, &mut self.dice), inject_other);
                let over = injected.over.max(other.map_or(injected.over, |other| other.over));
                let began = injected.began.min(other.map_or(injected.began, |other| other.began));
                (injected, began, self.converge(&text, over).await)
            };
            tokio::pin!(whole);
            tokio::select! {
                done = &mut whole => done,
                () = watching => whole.await,
            }
        };
        let told = self.stage.total(|diary| diary.gaps()) - gaps;
        // Not promised by docs/guarantees.md while a missing member may have acknowledged publications.
        let in_doubt = fault.changes_server() && self.doubt.is_some_and(|at| at.elapsed() < LEASE_MAX);
        if fault.leaves_doubt() {
            self.doubt = Some(Instant::now());
        }
        if fault.effect() == PermittedEffect::Nothing && !in_doubt {
            let new = self.stage.gaps_since(began);
            if !new.is_empty() {
                self.violations.push(format!("after {text}, where nothing was lost:\n    {}", new.join("\n    ")));
            }
        }
        if fault == InjectedFault::ReplicaDrained {
            self.violations.extend(badly_ended(&self.stage, injected.began));
        }
        let noticed = *watch.lock();
        let row = self.figures.row(fault);
        row.injected += 1;
        row.gaps += told;
        row.healed.extend(healed);
        row.noticed.extend(noticed.map(|at: Instant| at.saturating_duration_since(injected.began)));
        if let Some(other) = of_clients {
            let row = self.figures.row(other);
            row.injected += 1;
            row.healed.extend(healed);
        }
        if fault.effect() == PermittedEffect::Forgets {
            // The next probe detects an emptied server, and its losses are then reported.
            sleep(Duration::from_millis(1_500)).await;
        }
        eprintln!("{:>6.1} s  {text}: healed {healed:?}, gaps {told}", self.begun.elapsed().as_secs_f64());
    }

    /// Faults that need separate clients.
    async fn specials(&mut self) {
        if self.kinds.len() < InjectedFault::ALL.len() {
            return;
        }
        let (stage, dice) = (Arc::clone(&self.stage), [self.dice.fork(), self.dice.fork(), self.dice.fork()]);
        let [mut one, mut two, mut three] = dice;
        let (trimmed, slow, never) = tokio::join!(
            specials::history_trimmed(&stage, &mut one),
            specials::slow_reader(&stage, &mut two),
            specials::never_reader(&stage, &mut three),
        );
        self.violations.extend(trimmed.into_iter().chain(slow).chain(never));
        self.violations.extend(specials::rolling_restart(&stage).await);
        self.figures.specials = 3 + stage::REPLICAS;
        self.converge("the rolling restart", Instant::now()).await;
    }

    /// Injects faults at random, until the time is over and there were enough.
    async fn all_at_random(&mut self, until: Instant) {
        let faults = tickgate::tasks::Tasks::new();
        let injected = Arc::new(Mutex::new(Vec::new()));
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        if self.kinds.len() == InjectedFault::ALL.len() {
            let (stage, mut dice) = (Arc::clone(&self.stage), self.dice.fork());
            faults.spawn("fault", async move { specials::frozen_past_its_lease(&stage, &mut dice).await });
            self.figures.specials += 1;
        }
        let enough = if self.kinds.len() == InjectedFault::ALL.len() { FAULTS_MIN } else { 0 };
        while Instant::now() < until || self.figures.injected() + injected.lock().len() < enough {
            let fault = self.kinds[self.dice.index(self.kinds.len())];
            let permit = Arc::clone(&room).acquire_owned().await.expect("open");
            let (stage, injected, mut dice) = (Arc::clone(&self.stage), Arc::clone(&injected), self.dice.fork());
            faults.spawn("fault", async move {
                faults::inject(&stage, fault, &mut dice).await;
                injected.lock().push(fault);
                drop(permit);
            });
            let slow = matches!(fault.target(), FaultTarget::Redis | FaultTarget::Replica);
            sleep(Duration::from_millis(self.dice.between(20, if slow { 200 } else { 100 }))).await;
        }
        if faults.end(Duration::from_secs(60)).await > 0 {
            self.violations.push("a fault did not end".into());
        }
        for fault in injected.lock().drain(..) {
            self.figures.row(fault).injected += 1;
        }
    }

    /// After the last fault.
    async fn quiet(&mut self) {
        let over = Instant::now();
        if let Some(took) = self.converge("the last fault", over).await {
            self.figures.converged = took;
        }
        self.stage.stop_traffic().await;
        if let Err(who) = self.stage.converged(Instant::now() - Duration::from_secs(600), CONVERGENCE_MAX).await {
            self.violations.push(format!("after the last publication: {who}"));
        }
        // Losses of the last fault may still be about to be reported.
        let deadline = over + 2 * CONVERGENCE_MAX;
        let mut wrong = self.stage.judge();
        while !wrong.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(200)).await;
            wrong = self.stage.judge();
        }
        self.violations.extend(wrong);
        for (number, place) in self.stage.places.iter().enumerate() {
            if place.process.lock().await.has_ended() {
                self.violations.push(format!("replica {number} ended by itself"));
            }
        }
        let panics = self.stage.metric("tickgate_panics_total").await;
        if panics != 0.0 {
            self.violations.push(format!("{panics} panics"));
        }
    }

    /// Kills one replica permanently, and measures how soon the others count correctly.
    async fn count_after_kill(&mut self) {
        let clients = self.stage.clients.lock().iter().filter(|client| !client.dismissed).count();
        if let Err(told) = counts_are(&self.stage, clients, COUNTS_MAX).await {
            self.violations.push(format!("before the kill: {told}"));
        }
        let killed = self.dice.index(stage::REPLICAS);
        self.stage.places[killed].process.lock().await.kill();
        let began = Instant::now();
        // Until all clients are back, the dead replica's cannot be distinguished from those of the living.
        sleep(Duration::from_millis(100)).await;
        if let Err(who) = self.stage.converged(Instant::now(), CONVERGENCE_MAX).await {
            self.violations.push(format!("after the kill: {who}"));
        }
        match counts_are(&self.stage, clients, COUNTS_MAX).await {
            Ok(()) => self.figures.counted = began.elapsed(),
            Err(told) => self.violations.push(format!("after the kill: {told}")),
        }
        self.stage.restart(killed).await;
    }

    /// All clients leave: nothing of them may remain.
    async fn empty(&mut self) {
        for client in self.stage.clients.lock().iter() {
            client.orders.send_replace(ClientOrder::End);
        }
        for (number, place) in self.stage.places.iter().enumerate() {
            let process = place.process.lock().await;
            let fresh = *place.fresh.lock();
            let left = async || -> Option<String> {
                let Some(metrics) = process.metrics().await else { return Some("no metrics".into()) };
                let gauges = ["connections", "subscriptions", "topics", "slow_consumers"];
                let wrong: Vec<_> = gauges
                    .iter()
                    .map(|name| (name, metrics.sum(&format!("tickgate_{name}"))))
                    .filter(|(_, value)| *value != 0.0)
                    .map(|(name, value)| format!("{name} is {value}"))
                    .collect();
                if !wrong.is_empty() {
                    return Some(wrong.join(", "));
                }
                let now = process.footprint();
                // The number of connections to Redis may vary slightly.
                if now.descriptors > fresh.descriptors + 8 {
                    return Some(format!("{} descriptors, {} when it was fresh", now.descriptors, fresh.descriptors));
                }
                if now.resident_bytes > fresh.resident_bytes + (64 << 20) {
                    return Some(format!("{} bytes, {} when it was fresh", now.resident_bytes, fresh.resident_bytes));
                }
                None
            };
            let deadline = Instant::now() + COUNTS_MAX;
            loop {
                match left().await {
                    None => break,
                    Some(what) if Instant::now() > deadline => {
                        self.violations.push(format!("replica {number}, after all clients left: {what}"));
                        break;
                    }
                    Some(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        }
    }

    /// Writes the figures, and fails if a promise was broken.
    fn finish(mut self) {
        let stage = &self.stage;
        let (accepted, refused, unknown, duplicates, given_up) = {
            let ledger = stage.ledger.lock();
            (ledger.accepted(), ledger.refused, ledger.unknown + ledger.unanswered, ledger.duplicates, ledger.given_up)
        };
        let figures = &mut self.figures;
        (figures.accepted, figures.refused, figures.unknown, figures.duplicates) =
            (accepted, refused, unknown, duplicates);
        figures.delivered = stage.total(|diary| diary.pushes());
        figures.gaps = stage.total(|diary| diary.gaps());
        figures.connections = stage.total(|diary| usize::try_from(diary.connections).unwrap_or(0));
        figures.count(&self.violations);
        figures.write(&target_dir());
        eprintln!("chaos: {}", figures.summary());
        eprintln!("chaos: {refused} refused, {unknown} unknown, {duplicates} deduplicated, {given_up} given up");
        if self.violations.is_empty() {
            return;
        }
        let kept = target_dir().join(format!("failed-{}", figures.seed));
        keep(stage.dir.path(), &kept);
        // A loss is often only the consequence of another violation.
        self.violations.sort_by_key(|violation| violation.contains(": Lost("));
        let all = self.violations.join("\n");
        let _ = std::fs::write(kept.join("violations.txt"), all);
        let shown: Vec<_> = self.violations.iter().take(40).map(String::as_str).collect();
        panic!(
            "{} promises broken (logs in {}); the same dice again: \
             TICKGATE_CHAOS_SEED={} cargo test --test chaos never_silently_wrong\n{}",
            self.violations.len(),
            kept.display(),
            figures.seed,
            shown.join("\n")
        );
    }
}

/// The directory for figures and for the logs of failed runs.
pub fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("chaos")
}

fn keep(from: &Path, to: &Path) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}
