//! One replica as a separate process: start, signals, end, and its state. Uses only what an operator could use.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tickgate_client::{
    Error,
    http::{HttpRequest, Response},
};

use crate::support::replica::{API_KEY, SECRET};

/// Timeout of a publisher's request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// Time limit for a replica to report its addresses.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running `tickgate serve`, killed when dropped.
pub struct ServeProcess {
    child: Child,
    pub public: SocketAddr,
    pub operations: SocketAddr,
}

/// The resources of a replica's process.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaUsage {
    pub descriptors: usize,
    pub resident_bytes: u64,
}

/// One scrape of a replica's metrics.
pub struct MetricsScrape(String);

impl ServeProcess {
    /// Starts a replica of this program on free ports and waits until it reports them.
    pub fn start(program: &Path, redis_url: &str, settings: &Path, log: &Path, variables: &[(String, String)]) -> Self {
        let greeting = log.with_extension("greeting");
        let said_of_itself = || std::fs::read_to_string(log).unwrap_or_default();
        let errors = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = Command::new(program);
        command
            .arg("serve")
            .env("TICKGATE_CONFIG", settings)
            .env("TICKGATE__REDIS__URL", redis_url)
            .env("TICKGATE__AUTH__HS256_SECRETS", SECRET)
            .env("TICKGATE__AUTH__API_KEYS", API_KEY)
            .stdin(Stdio::null())
            .stdout(File::create(&greeting).expect("a file for the greeting"))
            .stderr(errors);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().expect("the gateway to run");
        let deadline = Instant::now() + START_TIMEOUT;
        let (public, operations) = loop {
            let said = std::fs::read_to_string(&greeting).unwrap_or_default();
            if let (Some(public), Some(operations)) =
                (address_after(&said, "ws://"), address_after(&said, "operations  http://"))
            {
                break (public, operations);
            }
            assert!(Instant::now() < deadline, "the gateway did not say where it listens");
            assert!(matches!(child.try_wait(), Ok(None)), "the gateway ended: {}", said_of_itself());
            std::thread::yield_now();
        };
        Self { child, public, operations }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        // The shell's built-in command: a small machine may not have the program.
        let status = Command::new("sh").args(["-c", &format!("kill {signal} {}", self.id())]).status();
        assert!(status.expect("a shell").success(), "kill {signal}");
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end of a drain. Returns the exit code.
    pub async fn ended(&mut self, timeout: Duration) -> Option<i32> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Whether the process has ended unexpectedly.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub async fn metrics(&self) -> Option<MetricsScrape> {
        metrics_of(self.operations).await
    }

    pub fn footprint(&self) -> ReplicaUsage {
        let proc = format!("/proc/{}", self.id());
        let descriptors = std::fs::read_dir(format!("{proc}/fd")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident_bytes = kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) * 1024;
        ReplicaUsage { descriptors, resident_bytes }
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        // A stopped process ends only by a kill.
        self.kill();
    }
}

/// Scrapes the replica behind an operations address.
pub async fn metrics_of(operations: SocketAddr) -> Option<MetricsScrape> {
    let answer = exchange(HttpRequest::get(format!("http://{operations}/metrics"))).await.ok()?;
    (answer.status == 200).then_some(MetricsScrape(answer.body))
}

/// Requests JSON with the API key.
pub async fn ask(address: SocketAddr, path: &str) -> Option<Value> {
    let answer = exchange(HttpRequest::get(format!("http://{address}{path}"))).await.ok()?;
    (answer.status == 200).then(|| serde_json::from_str(&answer.body).ok()).flatten()
}

/// Sends a request with the API key to a server that may have ended, be frozen or be half-open. Never waits longer than
/// a publisher would.
pub async fn exchange(request: HttpRequest) -> Result<Response, Error> {
    request.header("x-api-key", API_KEY).timeout(ANSWER_TIMEOUT).send().await
}

impl MetricsScrape {
    /// The sum over a metric's labels.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum over the series of a metric whose labels contain the text.
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let series = self.0.lines().filter(own).filter(|line| line.contains(label));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn address_after(text: &str, mark: &str) -> Option<SocketAddr> {
    let rest = text.split(mark).nth(1)?;
    let (address, _) = rest.split_once(' ')?;
    address.parse().ok()
}
