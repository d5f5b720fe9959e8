//! Runs a plan at a pace and computes the figures.

use std::time::Duration;

use crate::{
    BenchFailure,
    figures::RunFigures,
    load::Load,
    observe::{Counters, Processes, SystemCalls},
    plan::{PublishRate, StreamPacer, WorkloadPlan},
    stage::BenchStage,
};

/// Duration of publishing before the measurement, unless the measurement is shorter.
const WARM_UP: Duration = Duration::from_millis(1500);
/// Duration of publishing after the counters are read and before latencies are kept.
const RECOVERY: Duration = Duration::from_millis(200);
const NS: f64 = 1e9;

/// All measured counters at one time.
struct Moment {
    now_ns: u64,
    deliveries: u64,
    published: u64,
    server_ns: u64,
    redis_ns: u64,
    load_ns: u64,
    counters: Counters,
}

impl Moment {
    fn now(stage: &BenchStage, load: &Load<'_>) -> Self {
        Self {
            now_ns: load.now_ns(),
            deliveries: load.shared.tally.deliveries(),
            published: load.published,
            server_ns: stage.servers.cpu_ns(),
            redis_ns: stage.redis.cpu_ns(),
            load_ns: Processes(vec![std::process::id()]).cpu_ns(),
            counters: Counters::read(stage.metrics.as_deref()),
        }
    }
}

/// Connects all subscribers, publishes at the pace, and measures.
pub(crate) fn paced(stage: &BenchStage, plan: &WorkloadPlan, pace: &PublishRate) -> Result<RunFigures, BenchFailure> {
    let mut load = Load::new(&stage.target, plan, &stage.access)?;
    load.connect(0..plan.subscribers.len(), &tokens(stage, plan)?, &[])?;
    load.open_publishers()?;
    let figures = measured(stage, &mut load, pace)?;
    load.close_publishers()?;
    load.close_clients()?;
    Ok(figures)
}

/// Publishes at the pace: first to warm up, then for the measured time, then waits for what is in flight.
pub(crate) fn measured(
    stage: &BenchStage,
    load: &mut Load<'_>,
    pace: &PublishRate,
) -> Result<RunFigures, BenchFailure> {
    let mut pacer = load.pacer(pace);
    let time = Duration::from_secs_f64(stage.seconds);
    load.run(&mut pacer, WARM_UP.min(time))?;
    let before = Moment::now(stage, load);
    // Reading the counters delayed the load and the server, so messages that waited meanwhile are not counted.
    load.run(&mut pacer, RECOVERY.min(time / 2))?;
    load.shared.tally.latency.clear();
    load.shared.tally.arrival.clear();
    load.run(&mut pacer, time)?;
    let after = Moment::now(stage, load);
    let mut figures = RunFigures::default();
    add_rates(&mut figures, &before, &after);
    add_latency(&mut figures, load);
    add_system_calls(&mut figures, stage, load, &mut pacer)?;
    load.settle()?;
    add_losses(&mut figures, load);
    Ok(figures)
}

fn add_rates(figures: &mut RunFigures, before: &Moment, after: &Moment) {
    let seconds = (after.now_ns - before.now_ns) as f64 / NS;
    let deliveries = (after.deliveries - before.deliveries) as f64;
    let published = (after.published - before.published) as f64;
    let server_s = (after.server_ns - before.server_ns) as f64 / NS;
    let redis_s = (after.redis_ns - before.redis_ns) as f64 / NS;
    figures.set("deliveries_per_s", deliveries / seconds);
    figures.set("publishes_per_s", published / seconds);
    if server_s > 0.0 {
        figures.set("server_us_per_delivery", server_s * 1e6 / deliveries);
        figures.set("server_cores", server_s / seconds);
    }
    if redis_s > 0.0 {
        figures.set("redis_us_per_publish", redis_s * 1e6 / published);
        figures.set("redis_cores", redis_s / seconds);
    }
    figures.set("load_cores", (after.load_ns - before.load_ns) as f64 / NS / seconds);
    let change = |name: &str| Some(after.counters.get(name)? - before.counters.get(name)?);
    if let (Some(writes), Some(delivered)) = (change("tickgate_writes_total"), change("tickgate_deliveries_total")) {
        figures.set("writes_per_delivery", writes / delivered);
    }
}

/// Counts system calls for another second under the same load, because counting would distort the measurement.
fn add_system_calls(
    figures: &mut RunFigures,
    stage: &BenchStage,
    load: &mut Load<'_>,
    pacer: &mut StreamPacer,
) -> Result<(), BenchFailure> {
    let Some(calls) = SystemCalls::count(&stage.servers) else { return Ok(()) };
    let (since_ns, deliveries) = (load.now_ns(), load.shared.tally.deliveries());
    load.run(pacer, SystemCalls::TAKES)?;
    let deliveries = (load.shared.tally.deliveries() - deliveries) as f64;
    let seconds = (load.now_ns() - since_ns) as f64 / NS;
    if let Some(calls_per_s) = calls.per_second() {
        figures.set("calls_per_delivery", calls_per_s * seconds / deliveries);
    }
    Ok(())
}

pub(crate) fn add_latency(figures: &mut RunFigures, load: &Load<'_>) {
    let latency = &load.shared.tally.latency;
    if latency.is_empty() {
        return;
    }
    for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999)] {
        figures.set(name, latency.quantile_ms(share));
    }
    figures.set("max_ms", latency.max_ms());
    let arrival = &load.shared.tally.arrival;
    if !arrival.is_empty() {
        figures.set("arrival_p50_ms", arrival.quantile_ms(0.5));
        figures.set("arrival_p99_ms", arrival.quantile_ms(0.99));
        figures.set("arrival_max_ms", arrival.max_ms());
    }
}

/// Published messages that were lost, repeated, out of order, or reported as missing.
pub(crate) fn add_losses(figures: &mut RunFigures, load: &Load<'_>) {
    let tally = &load.shared.tally;
    figures.set("lost", (load.expected + tally.disordered).saturating_sub(tally.received) as f64);
    figures.set("skipped", tally.skipped as f64);
    figures.set("disordered", tally.disordered as f64);
    figures.set("gaps", tally.gaps as f64);
    if load.expected_conflated > 0 {
        figures.set("conflated_share", tally.replaced as f64 / load.expected_conflated as f64);
    }
    figures.set("connections_lost", tally.closed as f64);
}

/// A token for each subscriber with a user.
pub(crate) fn tokens(stage: &BenchStage, plan: &WorkloadPlan) -> Result<Vec<String>, BenchFailure> {
    if !stage.is_tickgate() {
        return Ok(Vec::new());
    }
    let token = |user: &Option<String>| user.as_deref().map_or(Ok(String::new()), |user| stage.token(user));
    plan.subscribers.iter().map(|subscriber| token(&subscriber.user)).collect()
}
