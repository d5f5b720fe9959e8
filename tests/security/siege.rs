//! One attack as those see it who pay for it: the gateway, Redis, and other users before and while it lasts. Every attack is
//! measured in the same way, judged by the same bounds, and is one row of one table.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    attacker::Attacker,
    cost::{Cost, Usage, megabytes},
    neighbour::{Asking, Latencies, Neighbours, Question},
    scene::{Form, Scene},
};

/// Bytes that Redis may be sent for each byte of a stranger.
const AMPLIFICATION_MAX: f64 = 20.0;
/// An attack of fewer bytes is not one by their number: what the gateway and Redis say to each other anyway is more.
const SENT_MIN: u64 = 20_000;
/// How many times longer than at rest others may wait, at the 99th percentile.
const SLOWDOWN_MAX: f64 = 3.0;

static TABLE: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// What an attack may take of memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub gateway: u64,
    pub redis: u64,
}

impl Bounds {
    /// Of an attack that is not about memory.
    pub const SMALL: Self = Self { gateway: 50_000_000, redis: 10_000_000 };
}

/// An attack under way.
pub struct Siege {
    attack: &'static str,
    before: Usage,
    /// What neighbours alone cost.
    at_rest: Cost,
    rest: Latencies,
    asking: Asking,
    /// Another gateway that nobody attacks, and its neighbours: what they see is the machine's.
    elsewhere: (Scene, Asking),
}

/// One attack in the table. What was not measured of it is left out.
struct Row {
    attack: &'static str,
    sent_bytes: u64,
    measured: Option<Seen>,
}

/// What was measured of an attack.
struct Seen {
    cost: Cost,
    /// Bytes that Redis was sent because of it.
    to_redis: u64,
    rest: Latencies,
    during: Latencies,
    /// Meanwhile, of a gateway that was not attacked.
    elsewhere: Latencies,
}

impl Siege {
    /// Measures others at rest. From now on they go on asking.
    pub async fn lay(scene: &Scene, attack: &'static str, question: Question) -> Self {
        let elsewhere = Scene::set("").await;
        let neighbours = Neighbours::at(scene.gateway.public).await;
        let others = Neighbours::at(elsewhere.gateway.public).await;
        // What is done for the first time takes longer.
        let (neighbours, _) = neighbours.ask_for(question, Duration::ZERO).await;
        let (others, _) = others.ask_for(question, Duration::ZERO).await;
        let before = scene.usage().await;
        let (neighbours, rest) = neighbours.ask_for(question, Form::asked().rest()).await;
        let at_rest = Cost::between(before, scene.usage().await);
        let before = scene.usage().await;
        let elsewhere = (elsewhere, others.ask(question));
        Self { attack, before, at_rest, rest, asking: neighbours.ask(question), elsewhere }
    }

    /// Ends it: prints what was seen, judges it, and says what it cost, and how long others waited.
    pub async fn lift(self, scene: &Scene, attackers: &[Arc<Attacker>], bounds: Bounds) -> (Cost, Latencies) {
        let cost = Cost::between(self.before, scene.usage().await);
        let (_, during) = self.asking.stop().await;
        let (_, elsewhere) = self.elsewhere.1.stop().await;
        let sent_bytes = attackers.iter().map(|attacker| attacker.sent_bytes()).sum();
        let to_redis = cost.received_bytes().saturating_sub(self.at_rest.received_in(cost.time()));
        let seen = Seen { cost, to_redis, rest: self.rest, during, elsewhere };
        let (wrong, during) = (seen.wrong(sent_bytes, bounds), seen.during.clone());
        note(Row { attack: self.attack, sent_bytes, measured: Some(seen) });
        assert!(wrong.is_empty(), "{}: {}", self.attack, wrong.join("; "));
        assert!(scene.gateway.is_ready().await, "{}: the gateway is not ready", self.attack);
        (cost, during)
    }
}

/// An attack that nobody else could notice: it ended before there was anybody.
pub fn repelled(attack: &'static str) {
    note(Row { attack, sent_bytes: 0, measured: None });
}

fn note(row: Row) {
    println!("{}\n{}", head(), row.line());
    TABLE.lock().push(row);
}

/// Prints all attacks that were made.
pub fn print_table() {
    let mut table = TABLE.lock();
    if table.is_empty() {
        return;
    }
    table.sort_by_key(|row| row.attack);
    println!("\n{} form\n{}", if Form::asked() == Form::Long { "long" } else { "short" }, head());
    table.iter().for_each(|row| println!("{}", row.line()));
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

impl Row {
    fn line(&self) -> String {
        let Some(seen) = &self.measured else { return format!("{:<42} {:>9}", self.attack, "-") };
        let each =
            if self.sent_bytes == 0 { "-".into() } else { format!("{:.1}", seen.amplification(self.sent_bytes)) };
        let percent = |load: f64| format!("{:.0} %", load * 100.0);
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let Seen { cost, to_redis, rest, during, elsewhere } = seen;
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

impl Seen {
    fn amplification(&self, sent_bytes: u64) -> f64 {
        self.to_redis as f64 / sent_bytes.max(1) as f64
    }

    /// How many times longer others waited. The short form is made beside other work: it compares with the same machine at
    /// the same time.
    fn slowdown(&self) -> f64 {
        let machine = Form::asked().or(self.elsewhere.p99(), Duration::ZERO).max(Form::asked().noise());
        self.during.p99().as_secs_f64() / self.rest.p99().max(machine).as_secs_f64()
    }

    /// What is beyond the bounds.
    fn wrong(&self, sent_bytes: u64, bounds: Bounds) -> Vec<String> {
        let Self { cost, rest, during, .. } = self;
        let (each, times) = (self.amplification(sent_bytes), self.slowdown());
        let (grown, redis_grown) = (cost.grown_bytes(), cost.redis_grown_bytes());
        let checks = [
            (
                sent_bytes >= SENT_MIN && each >= AMPLIFICATION_MAX,
                format!("{each:.1} bytes to Redis for each byte sent"),
            ),
            (times >= SLOWDOWN_MAX, format!("others waited {times:.1} times as long")),
            (
                rest.refused + during.refused > 0,
                format!("others were refused, {} of {}", during.refused, during.asked()),
            ),
            (grown > bounds.gateway, format!("the gateway grew by {}", megabytes(grown))),
            (redis_grown > bounds.redis, format!("Redis grew by {}", megabytes(redis_grown))),
        ];
        checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect()
    }
}
