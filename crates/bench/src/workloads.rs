//! The workloads, one function each.

use std::time::Duration;

use crate::{
    BenchFailure,
    figures::RunFigures,
    load::{Load, TargetAccess},
    measure::{add_latency, add_losses, measured, paced, tokens},
    plan::{PublishRate, TotalRate, WorkloadPlan, user},
    publish::PublishConnection,
    redis_publish,
    stage::{BenchStage, Needs},
    target::ChannelKind,
};

/// Subscribers of a fan-out, topics of many topics, users of private channels.
const THOUSAND: usize = 1000;
/// A token lifetime longer than any run.
const LONG: Duration = Duration::from_secs(3600);
/// Messages in flight in a saturated fan-out; must be fewer than the capacity of an outbox.
const WINDOW: u64 = 64;

/// One workload.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs: Needs,
    /// Publishing connections.
    pub(crate) publishers: usize,
    /// It applies only to the gateway itself.
    pub(crate) own_only: bool,
    pub(crate) run: fn(&BenchStage) -> Result<RunFigures, BenchFailure>,
}

const fn workload(
    name: &'static str,
    about: &'static str,
    needs: Needs,
    run: fn(&BenchStage) -> Result<RunFigures, BenchFailure>,
) -> Workload {
    let own_only = matches!(needs, Needs::SecureGateway | Needs::TwoGateways | Needs::Redis);
    Workload { name, about, needs, publishers: 1, own_only, run }
}

/// All workloads, in the order in which they run.
pub(crate) const WORKLOADS: &[Workload] = &[
    workload("limit-50", "bare send of a ready frame: 50 messages/s to 1,000 connections", Needs::Limit, fan_out_50),
    workload("limit", "bare send of a ready frame, as fast as it goes", Needs::Limit, fan_out_one),
    workload("fan-out-50", "1 topic, 1,000 subscribers, 50 messages/s: nothing to merge", Needs::Gateway, fan_out_50),
    workload("fan-out", "1 topic, 1,000 subscribers, saturated", Needs::Gateway, fan_out),
    workload("topics", "1,000 retained topics, 1 subscriber each, saturated", Needs::Gateway, topics),
    workload("topics-plain", "the same without retention", Needs::Gateway, topics_plain),
    workload("topics-4000", "1,000 retained topics, 4,000 messages/s", Needs::Gateway, topics_4000),
    workload("private", "1,000 users, a reliable message to each in turn, saturated", Needs::Gateway, private),
    workload("trading-day", "2,000 users: 50 tickers, 20 trade tapes, private orders", Needs::Gateway, trading_day),
    workload("idle", "10,000 quiet sessions: memory and CPU", Needs::Gateway, idle_10k),
    workload("idle-18k", "18,000 quiet sessions", Needs::Gateway, idle_18k),
    workload("storm", "10,000 connections with tokens, as fast as they are accepted", Needs::Gateway, storm),
    workload("fan-out-50-tls", "fan-out-50 to TLS clients", Needs::SecureGateway, fan_out_50),
    workload("fan-out-tls", "fan-out to TLS clients", Needs::SecureGateway, fan_out),
    workload("idle-tls", "10,000 quiet sessions over TLS: memory and CPU", Needs::SecureGateway, idle_10k),
    workload("storm-tls", "storm of TLS clients, with a full handshake each", Needs::SecureGateway, storm),
    Workload {
        own_only: true,
        ..workload("replay", "1,000 clients resume one topic, 100 messages missed each", Needs::Gateway, replay)
    },
    Workload {
        own_only: true,
        ..workload(
            "replay-private",
            "1,000 users resume, 100 private messages missed each",
            Needs::Gateway,
            replay_private,
        )
    },
    workload(
        "replicas",
        "published on one replica, 1,000 subscribers on another, saturated",
        Needs::TwoGateways,
        replicas,
    ),
    workload(
        "prices-64k",
        "50 prices, 100 updates/s each, to 20 readers of 64 KiB/s: their age",
        Needs::Gateway,
        |stage| slow_prices(stage, 64),
    ),
    workload("prices-16k", "the same to readers of 16 KiB/s", Needs::Gateway, |stage| slow_prices(stage, 16)),
    workload("slow", "100 messages/s to 900 subscribers, then 100 more that never read", Needs::Gateway, slow),
    Workload {
        own_only: true,
        ..workload(
            "mass",
            "100 messages/s to 100 subscribers next to 10,000 sessions that end at once: by token expiry, by disconnecting",
            Needs::Gateway,
            mass,
        )
    },
    Workload {
        publishers: 4,
        ..workload("publish", "publications to 10,000 retained topics without subscribers", Needs::Gateway, publish)
    },
    workload(
        "redis",
        "the publish script directly in Redis, 10,000 topics, pipelined, 16 per call",
        Needs::Redis,
        |stage| redis_publish::run(stage, 10_000, 16),
    ),
    workload("redis-100", "the same with 100 topics", Needs::Redis, |stage| redis_publish::run(stage, 100, 16)),
    workload("redis-single", "to 10,000 topics with one publication per call", Needs::Redis, |stage| {
        redis_publish::run(stage, 10_000, 1)
    }),
];

fn fixed(plan: &WorkloadPlan, per_second: f64) -> PublishRate {
    PublishRate::Rates(vec![TotalRate { streams: 0..plan.streams.len() as u32, per_second }])
}

fn fan_out_50(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, THOUSAND);
    paced(stage, &plan, &fixed(&plan, 50.0))
}

fn fan_out(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, THOUSAND);
    paced(stage, &plan, &PublishRate::Window(WINDOW * THOUSAND as u64))
}

/// One message is a delivery to every subscriber, so few messages must be in flight.
fn fan_out_one(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, THOUSAND);
    paced(stage, &plan, &PublishRate::Window(8 * THOUSAND as u64))
}

fn topics(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::one_each(&stage.target.channels, ChannelKind::Reliable, THOUSAND);
    paced(stage, &plan, &PublishRate::Window(4096))
}

fn topics_plain(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::one_each(&stage.target.channels, ChannelKind::Plain, THOUSAND);
    paced(stage, &plan, &PublishRate::Window(4096))
}

fn topics_4000(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::one_each(&stage.target.channels, ChannelKind::Reliable, THOUSAND);
    paced(stage, &plan, &fixed(&plan, 4000.0))
}

fn private(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::one_each(&stage.target.channels, ChannelKind::Private, THOUSAND);
    paced(stage, &plan, &PublishRate::Window(2048))
}

/// Each of 2,000 users follows five tickers (20/s each), two trade tapes (10/s each) and receives one order every two
/// seconds.
fn trading_day(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    const USERS: u32 = 2000;
    let channels = &stage.target.channels;
    let mut plan = WorkloadPlan::default();
    let tickers = plan.add_streams(channels, ChannelKind::State, 50);
    let tapes = plan.add_streams(channels, ChannelKind::Event, 20);
    let orders = plan.add_streams(channels, ChannelKind::Private, USERS as usize);
    for number in 0..USERS {
        let own_tickers = (0..5).map(|at| tickers.start + (number + 11 * at) % 50);
        let own_tapes = (0..2).map(|at| tapes.start + (number + 7 * at) % 20);
        plan.subscribe(own_tickers.chain(own_tapes).chain([orders.start + number]));
    }
    let pace = PublishRate::Rates(vec![
        TotalRate { streams: tickers, per_second: 1000.0 },
        TotalRate { streams: tapes, per_second: 200.0 },
        TotalRate { streams: orders, per_second: f64::from(USERS) / 2.0 },
    ]);
    paced(stage, &plan, &pace)
}

fn idle_10k(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    idle(stage, 10_000)
}

fn idle_18k(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    idle(stage, 18_000)
}

/// Every connection has its own session and one subscription.
fn quiet(stage: &BenchStage, count: usize) -> WorkloadPlan {
    let mut plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, count);
    plan.subscribers.iter_mut().enumerate().for_each(|(number, subscriber)| subscriber.user = Some(user(number)));
    plan
}

fn idle(stage: &BenchStage, count: usize) -> Result<RunFigures, BenchFailure> {
    let plan = quiet(stage, count);
    let tokens = tokens(stage, &plan)?;
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    // The first connections include the cost of shared allocations, so they are not measured.
    load.connect(0..100, &tokens, &[])?;
    load.idle(Duration::from_millis(500))?;
    let before = stage.servers.resident_bytes();
    load.connect(100..count, &tokens, &[])?;
    // Time for at least one round of periodic maintenance in the server.
    load.idle(Duration::from_secs(8))?;
    let after = stage.servers.resident_bytes();
    let (cpu_ns, redis_ns, start_ns) = (stage.servers.cpu_ns(), stage.redis.cpu_ns(), load.now_ns());
    load.idle(Duration::from_secs_f64(stage.seconds))?;
    let span_ns = (load.now_ns() - start_ns) as f64;
    let mut figures = RunFigures::default();
    figures.set("kib_per_connection", (after.saturating_sub(before)) as f64 / 1024.0 / (count - 100) as f64);
    figures.set("server_mib", after as f64 / f64::from(1 << 20));
    figures.set("server_cores", (stage.servers.cpu_ns() - cpu_ns) as f64 / span_ns);
    figures.set("redis_cores", (stage.redis.cpu_ns() - redis_ns) as f64 / span_ns);
    add_losses(&mut figures, &load);
    load.close_clients()?;
    Ok(figures)
}

fn storm(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    const COUNT: usize = 10_000;
    let plan = quiet(stage, COUNT);
    let tokens = tokens(stage, &plan)?;
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    let (cpu_ns, redis_ns) = (stage.servers.cpu_ns(), stage.redis.cpu_ns());
    let took = load.connect(0..COUNT, &tokens, &[])?.as_secs_f64();
    let mut figures = RunFigures::default();
    figures.set("connections_per_s", COUNT as f64 / took);
    let each = |after: u64, before: u64| (after - before) as f64 / 1e3 / COUNT as f64;
    figures.set("server_us_per_connection", each(stage.servers.cpu_ns(), cpu_ns));
    figures.set("redis_us_per_connection", each(stage.redis.cpu_ns(), redis_ns));
    load.close_clients()?;
    Ok(figures)
}

fn replay(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let mut plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Reliable, THOUSAND);
    // One subscriber stays connected; it shows when all missed messages have been published.
    plan.subscribe([0]);
    come_back(stage, &plan, THOUSAND)
}

fn replay_private(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::one_each(&stage.target.channels, ChannelKind::Private, THOUSAND);
    come_back(stage, &plan, THOUSAND)
}

/// Every subscriber receives a message, the first `leavers` disconnect, miss 100 messages of each stream, and reconnect
/// at once.
fn come_back(stage: &BenchStage, plan: &WorkloadPlan, leavers: usize) -> Result<RunFigures, BenchFailure> {
    const MISSED: u32 = 100;
    let tokens = tokens(stage, plan)?;
    let streams = plan.streams.len() as u32;
    let mut load = Load::new(&stage.target, plan, &stage.access)?;
    load.shared.keep_cursor = true;
    load.connect(0..plan.subscribers.len(), &tokens, &[])?;
    load.open_publishers()?;
    (0..streams).for_each(|stream| load.publish(stream));
    load.settle()?;
    let cursors: Vec<Vec<String>> = load.clients.iter().map(|client| client.cursor.iter().cloned().collect()).collect();
    if load.under_way() > 0 || cursors.iter().any(Vec::is_empty) {
        return Err(BenchFailure::Said("the first messages contained no cursor".into()));
    }
    load.shared.keep_cursor = false;
    load.leave(leavers)?;
    for _ in 0..MISSED {
        (0..streams).for_each(|stream| load.publish(stream));
        load.drain_publishers(PublishConnection::is_full)?;
    }
    // The response to the request arrives when all of it has been accepted.
    load.close_publishers()?;
    load.idle(Duration::from_millis(500))?;
    load.shared.tally.latency.clear();
    let (start_ns, cpu_ns, redis_ns) = (load.now_ns(), stage.servers.cpu_ns(), stage.redis.cpu_ns());
    load.connect(0..leavers, &tokens, &cursors)?;
    load.settle()?;
    let mut figures = RunFigures::default();
    figures.set("all_back_s", (load.shared.tally.last_ns.saturating_sub(start_ns)) as f64 / 1e9);
    let messages = leavers as f64 * f64::from(MISSED);
    figures.set("server_us_per_delivery", (stage.servers.cpu_ns() - cpu_ns) as f64 / 1e3 / messages);
    figures.set("redis_us_per_delivery", (stage.redis.cpu_ns() - redis_ns) as f64 / 1e3 / messages);
    add_losses(&mut figures, &load);
    load.close_clients()?;
    Ok(figures)
}

fn replicas(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, THOUSAND);
    let sockets = stage.second.clone().unwrap_or_default();
    let access = TargetAccess { sockets, ..stage.access.clone() };
    let mut load = Load::new(&stage.target, &plan, &access)?;
    load.connect(0..THOUSAND, &[], &[])?;
    load.open_publishers()?;
    let figures = measured(stage, &mut load, &PublishRate::Window(WINDOW * THOUSAND as u64))?;
    load.close_clients()?;
    Ok(figures)
}

/// First without the slow subscribers, then with them; compares the figures of the other subscribers.
fn slow(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    let mut plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, 900);
    (0..100).for_each(|_| plan.subscribe_slow(0));
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    load.connect(0..900, &[], &[])?;
    load.open_publishers()?;
    let pace = fixed(&plan, 100.0);
    let alone = measured(stage, &mut load, &pace)?;
    load.connect(900..1000, &[], &[])?;
    let before = stage.servers.resident_bytes();
    let mut figures = measured(stage, &mut load, &pace)?;
    let grown = stage.servers.resident_bytes().saturating_sub(before);
    for (name, alone_name) in [("p50_ms", "p50_alone_ms"), ("p99_ms", "p99_alone_ms")] {
        figures.set(alone_name, alone.get(name).unwrap_or(f64::NAN));
    }
    figures.set("grown_kib_per_slow", grown as f64 / 1024.0 / 100.0);
    load.close_publishers()?;
    load.close_clients()?;
    Ok(figures)
}

/// Measures the age of prices when slow, steady readers read them, and when they reached the readers' kernels, which is
/// the delay caused by the gateway. Nearly all prices are replaced by newer ones before delivery.
fn slow_prices(stage: &BenchStage, kib_per_s: u32) -> Result<RunFigures, BenchFailure> {
    /// By then, the readers have read everything that the kernels buffered before the gateway detected the readers as
    /// slow.
    const SETTLED: Duration = Duration::from_secs(30);
    let mut plan = WorkloadPlan::default();
    let prices = plan.add_streams(&stage.target.channels, ChannelKind::State, 50);
    (0..20).for_each(|_| plan.subscribe_steady(prices.clone(), kib_per_s * 1024));
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    load.connect(0..20, &[], &[])?;
    load.open_publishers()?;
    let pace = fixed(&plan, 5_000.0);
    let mut pacer = load.pacer(&pace);
    load.run(&mut pacer, SETTLED)?;
    let figures = measured(stage, &mut load, &pace)?;
    load.close_publishers()?;
    load.close_clients()?;
    Ok(figures)
}

/// The effect on the remaining subscribers when the tokens of 10,000 others expire in the same second, and when 10,000
/// disconnect together.
fn mass(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    const STAY: usize = 100;
    const CROWD: usize = 10_000;
    /// Enough for all of them to connect.
    const LIFE: Duration = Duration::from_secs(5);
    let mut plan = WorkloadPlan::fan_out(&stage.target.channels, ChannelKind::Event, STAY);
    let quiet = plan.add_streams(&stage.target.channels, ChannelKind::State, 1).start;
    (0..CROWD).for_each(|_| plan.subscribe([quiet]));
    let crowd = STAY..STAY + CROWD;
    let tokens =
        |life| (0..STAY + CROWD).map(|number| stage.token_for(&user(number), life)).collect::<Result<Vec<_>, _>>();
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    load.connect(0..STAY, &tokens(LONG)?, &[])?;
    load.open_publishers()?;
    let pace = PublishRate::Rates(vec![TotalRate { streams: 0..1, per_second: 100.0 }]);
    let mut figures = measured(stage, &mut load, &pace)?;

    load.connect(crowd.clone(), &tokens(LIFE)?, &[])?;
    let expiring = load.run_until_closed(&pace, CROWD)?;
    figures.set("p99_expiring_ms", load.shared.tally.latency.quantile_ms(0.99));
    figures.set("expiring_s", expiring.as_secs_f64());

    load.clients.truncate(STAY);
    load.connect(crowd.clone(), &tokens(LONG)?, &[])?;
    load.begin_to_leave(crowd);
    let leaving = load.run_until_closed(&pace, CROWD)?;
    figures.set("p99_leaving_ms", load.shared.tally.latency.quantile_ms(0.99));
    figures.set("leaving_s", leaving.as_secs_f64());
    load.settle()?;
    add_losses(&mut figures, &load);
    load.close_publishers()?;
    load.close_clients()?;
    Ok(figures)
}

fn publish(stage: &BenchStage) -> Result<RunFigures, BenchFailure> {
    const MESSAGES: u32 = 400_000;
    let mut plan = WorkloadPlan::default();
    let streams = plan.add_streams(&stage.target.channels, ChannelKind::Reliable, 10_000);
    let mut load = Load::new(&stage.target, &plan, &stage.access)?;
    load.open_publishers()?;
    let (start_ns, cpu_ns, redis_ns) = (load.now_ns(), stage.servers.cpu_ns(), stage.redis.cpu_ns());
    for message in 0..MESSAGES {
        load.publish(message % streams.end);
        if message % 256 == 0 {
            load.drain_publishers(PublishConnection::is_full)?;
        }
    }
    load.close_publishers()?;
    let span_ns = (load.now_ns() - start_ns) as f64;
    let mut figures = RunFigures::default();
    figures.set("publishes_per_s", f64::from(MESSAGES) * 1e9 / span_ns);
    let each = |after: u64, before: u64| (after - before) as f64 / 1e3 / f64::from(MESSAGES);
    figures.set("server_us_per_publish", each(stage.servers.cpu_ns(), cpu_ns));
    figures.set("redis_us_per_publish", each(stage.redis.cpu_ns(), redis_ns));
    add_latency(&mut figures, &load);
    Ok(figures)
}
