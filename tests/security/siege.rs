//! Measures the effect of one attack on the gateway, Redis and other users, before and during it. Every attack is measured
//! in the same way, judged by the same bounds, and is one row of the table.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::{
    attacker::Attacker,
    cost::{Cost, ProcessesUsage, megabytes},
    neighbour::{Asking, Neighbours, Question, ResponseLatencies},
    scene::{AttackLength, AttackScene},
};

/// Maximum number of bytes to Redis per byte of the attacker.
const AMPLIFICATION_MAX: f64 = 20.0;
/// Attacks that send fewer bytes are not judged by bytes: the regular traffic between the gateway and Redis is larger.
const SENT_MIN: u64 = 20_000;
/// Minimum time for which other users are measured in the long form, so that the 99th percentile is not the maximum.
const ASKED_MIN: Duration = Duration::from_secs(8);
/// Maximum slowdown of other users.
const SLOWDOWN_MAX: f64 = 3.0;

/// If set, the figures are written to SECURITY.md.
const WRITE: &str = "TICKGATE_SECURITY_WRITE";
const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";
const COLUMNS: &str = "\
| Attack | sent | Redis received | bytes each | gateway: processor | memory | Redis: processor | memory | others' p99 at rest | meanwhile |
|---|---|---|---|---|---|---|---|---|---|";

static TABLE: Mutex<Vec<SiegeRow>> = Mutex::new(Vec::new());

/// Maximum memory growth by an attack, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct GrowthBounds {
    pub gateway: u64,
    pub redis: u64,
}

impl GrowthBounds {
    /// For attacks that do not target memory.
    pub const SMALL: Self = Self { gateway: 50_000_000, redis: 10_000_000 };
}

/// A running attack.
pub struct Siege {
    attack: &'static str,
    before: ProcessesUsage,
    /// The cost of the neighbours alone.
    at_rest: Cost,
    rest: ResponseLatencies,
    asking: Asking,
    began: Instant,
    /// Another gateway that is not attacked, and its neighbours: they show the load of the machine.
    elsewhere: (AttackScene, Asking),
}

/// One attack in the table, without values that were not measured.
struct SiegeRow {
    attack: &'static str,
    sent_bytes: u64,
    measured: Option<SiegeMeasurements>,
}

/// The measurements of an attack.
struct SiegeMeasurements {
    cost: Cost,
    /// Bytes sent to Redis because of the attack.
    to_redis: u64,
    rest: ResponseLatencies,
    during: ResponseLatencies,
    /// The same measurement at the same time, on a gateway that was not attacked.
    elsewhere: ResponseLatencies,
}

impl Siege {
    /// Measures other users at rest. They keep sending requests until the end of the attack.
    pub async fn lay(scene: &AttackScene, attack: &'static str, question: Question) -> Self {
        let elsewhere = AttackScene::set("").await;
        let neighbours = Neighbours::at(scene.gateway.public).await;
        let others = Neighbours::at(elsewhere.gateway.public).await;
        // The first requests take longer.
        let (neighbours, _) = neighbours.ask_for(question, Duration::ZERO).await;
        let (others, _) = others.ask_for(question, Duration::ZERO).await;
        let before = scene.usage().await;
        let (neighbours, rest) = neighbours.ask_for(question, AttackLength::asked().rest()).await;
        let at_rest = Cost::between(before, scene.usage().await);
        let before = scene.usage().await;
        let elsewhere = (elsewhere, others.ask(question));
        Self { attack, before, at_rest, rest, asking: neighbours.ask(question), began: Instant::now(), elsewhere }
    }

    /// Ends the attack: prints the measurements, judges them, and returns the cost and the latencies of other users.
    pub async fn lift(
        self,
        scene: &AttackScene,
        attackers: &[Arc<Attacker>],
        bounds: GrowthBounds,
    ) -> (Cost, ResponseLatencies) {
        if AttackLength::asked() == AttackLength::Long {
            sleep_until(self.began + ASKED_MIN).await;
        }
        let cost = Cost::between(self.before, scene.usage().await);
        let (_, during) = self.asking.stop().await;
        let (_, elsewhere) = self.elsewhere.1.stop().await;
        let sent_bytes = attackers.iter().map(|attacker| attacker.sent_bytes()).sum();
        let to_redis = cost.received_bytes().saturating_sub(self.at_rest.received_in(cost.time()));
        let seen = SiegeMeasurements { cost, to_redis, rest: self.rest, during, elsewhere };
        let (wrong, during) = (seen.wrong(sent_bytes, bounds), seen.during.clone());
        note(SiegeRow { attack: self.attack, sent_bytes, measured: Some(seen) });
        assert!(wrong.is_empty(), "{}: {}", self.attack, wrong.join("; "));
        assert!(scene.gateway.is_ready().await, "{}: the gateway is not ready", self.attack);
        (cost, during)
    }
}

/// Records an attack that could not affect others, because it was refused at once.
pub fn repelled(attack: &'static str) {
    note(SiegeRow { attack, sent_bytes: 0, measured: None });
}

fn note(row: SiegeRow) {
    println!("{}\n{}", head(), row.line());
    TABLE.lock().push(row);
}

/// Prints all attacks, and writes them to SECURITY.md if requested.
pub fn print_table() {
    let mut table = TABLE.lock();
    if table.is_empty() {
        return;
    }
    table.sort_by_key(|row| row.attack);
    println!("\n{} form\n{}", if AttackLength::asked() == AttackLength::Long { "long" } else { "short" }, head());
    table.iter().for_each(|row| println!("{}", row.line()));
    if std::env::var_os(WRITE).is_some() {
        write(&table);
    }
}

/// Replaces the figures in SECURITY.md.
fn write(table: &[SiegeRow]) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SECURITY.md");
    let document = std::fs::read_to_string(path).expect("SECURITY.md");
    let (before, rest) = document.split_once(BEGIN).expect("where the figures begin");
    let (_, after) = rest.split_once(END).expect("where the figures end");
    let rows: String = table.iter().filter_map(SiegeRow::figures).map(|row| row + "\n").collect();
    std::fs::write(path, format!("{before}{BEGIN}\n\n{COLUMNS}\n{rows}\n{END}{after}")).expect("SECURITY.md");
}

fn head() -> String {
    format!(
        "{:<42} {:>9} {:>9} {:>6} | {:>7} {:>9} | {:>7} {:>9} | {:>7} {:>7} | {:>7} {:>9} {:>7} {:>5}",
        "",
        "attacker",
        "Redis",
        "bytes",
        "gateway",
        "",
        "Redis",
        "",
        "others",
        "median",
        "others",
        "elsewhere",
        "p99",
        ""
    ) + &format!(
        "\n{:<42} {:>9} {:>9} {:>6} | {:>7} {:>9} | {:>7} {:>9} | {:>7} {:>7} | {:>7} {:>9} {:>7} {:>5}",
        "attack",
        "sent",
        "was sent",
        "each",
        "busy",
        "grew by",
        "busy",
        "grew by",
        "rest ms",
        "during",
        "rest ms",
        "during",
        "during",
        "times"
    )
}

impl SiegeRow {
    fn line(&self) -> String {
        let Some(seen) = &self.measured else { return format!("{:<42} {:>9}", self.attack, "-") };
        let each =
            if self.sent_bytes == 0 { "-".into() } else { format!("{:.1}", seen.amplification(self.sent_bytes)) };
        let SiegeMeasurements { cost, to_redis, rest, during, elsewhere } = seen;
        format!(
            "{:<42} {:>9} {:>9} {:>6} | {:>7} {:>9} | {:>7} {:>9} | {:>7} {:>7} | {:>7} {:>9} {:>7} {:>5.1}",
            self.attack,
            megabytes(self.sent_bytes),
            megabytes(*to_redis),
            each,
            percent(cost.gateway_load()),
            megabytes(cost.grown_bytes()),
            percent(cost.redis_load()),
            megabytes(cost.redis_grown_bytes()),
            ms(rest.median()),
            ms(during.median()),
            ms(rest.p99()),
            ms(elsewhere.p99()),
            ms(during.p99()),
            seen.slowdown(),
        )
    }
}

fn percent(load: f64) -> String {
    format!("{:.0} %", load * 100.0)
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

impl SiegeRow {
    /// A row of the table in SECURITY.md. `None` if nothing was measured.
    fn figures(&self) -> Option<String> {
        let SiegeMeasurements { cost, to_redis, rest, during, .. } = self.measured.as_ref()?;
        let each = if self.is_judged_by_bytes() {
            format!("{:.1}", *to_redis as f64 / self.sent_bytes as f64)
        } else {
            "–".into()
        };
        let attack = self.attack.split_whitespace().collect::<Vec<_>>().join(" ");
        let cells = [
            attack,
            megabytes(self.sent_bytes),
            megabytes(*to_redis),
            each,
            percent(cost.gateway_load()),
            megabytes(cost.grown_bytes()),
            percent(cost.redis_load()),
            megabytes(cost.redis_grown_bytes()),
            ms(rest.p99()) + " ms",
            ms(during.p99()) + " ms",
        ];
        Some(format!("| {} |", cells.join(" | ")))
    }

    const fn is_judged_by_bytes(&self) -> bool {
        self.sent_bytes >= SENT_MIN
    }
}

impl SiegeMeasurements {
    fn amplification(&self, sent_bytes: u64) -> f64 {
        self.to_redis as f64 / sent_bytes.max(1) as f64
    }

    /// The slowdown of other users, at the 99th percentile. The short form runs next to other work, which determines the
    /// slowest of a hundred responses; it therefore compares medians, also with a gateway that is not attacked.
    fn slowdown(&self) -> f64 {
        let (rest, during, machine) = AttackLength::asked().or(
            (self.rest.median(), self.during.median(), self.elsewhere.median()),
            (self.rest.p99(), self.during.p99(), Duration::ZERO),
        );
        during.as_secs_f64() / rest.max(machine).max(AttackLength::asked().noise()).as_secs_f64()
    }

    /// The exceeded bounds.
    fn wrong(&self, sent_bytes: u64, bounds: GrowthBounds) -> Vec<String> {
        let Self { cost, rest, during, .. } = self;
        let (each, times) = (self.amplification(sent_bytes), self.slowdown());
        let (grown, redis_grown) = (cost.grown_bytes(), cost.redis_grown_bytes());
        // On a busy machine a subscribe may reach its timeout of three seconds.
        let refused_max = AttackLength::asked().or(during.asked() / 20, 0);
        let checks = [
            (
                sent_bytes >= SENT_MIN && each >= AMPLIFICATION_MAX,
                format!("{each:.1} bytes to Redis for each byte sent"),
            ),
            (times >= SLOWDOWN_MAX, format!("others waited {times:.1} times as long")),
            (
                rest.refused + during.refused > refused_max,
                format!("others were refused, {} of {}", during.refused, during.asked()),
            ),
            (grown > bounds.gateway, format!("the gateway grew by {}", megabytes(grown))),
            (redis_grown > bounds.redis, format!("Redis grew by {}", megabytes(redis_grown))),
        ];
        checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect()
    }
}
