//! How fast one replica publishes through one Redis: `cargo run --release --example publish_rate -- redis://127.0.0.1/`.
//!
//! Prints publications per second, the processor time of this process and of the server for each, and how long a
//! publication takes at a fixed pace. Give the server a core of its own for figures that mean something.

use std::{
    env::args,
    error::Error,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tickgate::{
    backplane::{Backplane, Redis},
    config,
    metrics::Metrics,
    model::{Class, Pattern, Publication, Topic, TopicRule},
    redis_link::RedisLink,
    tasks::Tasks,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

const TOPICS: usize = 100;
const PAYLOAD_BYTES: usize = 200;
const DURATION: Duration = Duration::from_secs(4);

struct Load {
    backplane: Backplane,
    topics: Vec<Topic>,
    payload: Bytes,
    rule: Arc<TopicRule>,
}

impl Load {
    fn publication(&self, n: usize) -> Publication {
        Publication {
            topic: self.topics[n % TOPICS].clone(),
            channel: None,
            payload: self.payload.clone(),
            msg_id: None,
            rule: Arc::clone(&self.rule),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = args().nth(1).unwrap_or_else(|| "redis://127.0.0.1/".to_owned());
    let tasks = Tasks::new();
    let link = RedisLink::start(&settings(&url), &tasks, Metrics::new());
    while link.command().is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    let load = Load {
        backplane: Backplane::Redis(Redis::start_on(&link, &tasks)),
        topics: (0..TOPICS).map(|n| Topic::public(&format!("rate:{n}"))).collect::<Result<_, _>>()?,
        payload: format!("{{\"x\":\"{}\"}}", "y".repeat(PAYLOAD_BYTES - 8)).into(),
        rule: Arc::new(TopicRule {
            pattern: Pattern::new("*")?,
            class: Class::Reliable,
            retain_max: 1000,
            retain_ttl: Duration::from_secs(3600),
            wait_replicas: 0,
            wait_aof: false,
        }),
    };
    for under_way in [1, 64, 512, 4096] {
        saturate(&load, &link, under_way).await?;
    }
    for per_second in [1000, 10_000, 50_000] {
        pace(&load, per_second).await?;
    }
    tasks.end(Duration::from_secs(1)).await;
    Ok(())
}

/// So many publications under way at any time.
async fn saturate(load: &Load, link: &RedisLink, under_way: usize) -> Result<(), Box<dyn Error>> {
    let mut waiting = FuturesUnordered::new();
    let (mut count, began, own, server) = (0, Instant::now(), own_cpu()?, server_cpu(link).await?);
    while began.elapsed() < DURATION {
        while waiting.len() < under_way {
            waiting.push(load.backplane.publish(load.publication(count)));
            count += 1;
        }
        if let Some(result) = waiting.next().await {
            result?;
        }
    }
    while let Some(result) = waiting.next().await {
        result?;
    }
    let (elapsed, each) = (began.elapsed().as_secs_f64(), count as f64);
    let (own, server) = (own_cpu()? - own, server_cpu(link).await? - server);
    println!(
        "{under_way:>5} under way: {:>8.0}/s, client {:.2} us each, server {:.2} us each",
        each / elapsed,
        own * 1e6 / each,
        server * 1e6 / each
    );
    Ok(())
}

/// A fixed pace, each publication's time from its call to its answer.
async fn pace(load: &Load, per_second: usize) -> Result<(), Box<dyn Error>> {
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waiting = FuturesUnordered::new();
    let (mut times, began) = (Vec::new(), Instant::now());
    let mut sent = 0;
    while began.elapsed() < DURATION {
        tokio::select! {
            _ = tick.tick() => {
                for _ in 0..(per_second / 1000) {
                    let (answer, asked) = (load.backplane.publish(load.publication(sent)), Instant::now());
                    sent += 1;
                    waiting.push(async move { answer.await.map(|_| asked.elapsed()) });
                }
            }
            Some(time) = waiting.next() => times.push(time?),
        }
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    println!("{per_second:>6}/s: p50 {} us, p99 {} us, p99.9 {} us", at(0.5), at(0.99), at(0.999));
    Ok(())
}

fn settings(url: &str) -> config::Redis {
    config::Redis {
        url: config::Secret::new(url),
        prefix: "rate1:".to_owned(),
        pool_size: 2,
        pool_wait_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        canary_interval: Duration::from_secs(1),
        canary_timeout: Duration::from_secs(2),
        compare_interval: Duration::from_secs(5),
        dedupe_ttl: Duration::from_secs(60),
        ca_file: None,
    }
}

/// Processor time of this process, in seconds.
fn own_cpu() -> Result<f64, Box<dyn Error>> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// Processor time of the server's main thread, in seconds.
async fn server_cpu(link: &RedisLink) -> Result<f64, Box<dyn Error>> {
    let mut connection = link.command()?;
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok())
    };
    let main = field("used_cpu_user_main_thread").zip(field("used_cpu_sys_main_thread"));
    Ok(main.map_or(0.0, |(user, system)| user + system))
}
