//! The gateway under attack: a separate process with default settings, except for its ports, keys and Redis.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{
    eventually, http,
    redis::free_port,
    replica::{API_KEY, SECRET},
};

/// The program to attack instead of the one that was built.
const PROGRAM: &str = "TICKGATE_SECURITY_GATEWAY";

/// A running gateway, killed when dropped.
pub struct AttackedGateway {
    child: Child,
    dir: TempDir,
    pub public: SocketAddr,
    operations: SocketAddr,
}

/// Unusual conditions for starting a gateway.
#[derive(Debug, Default)]
pub struct Oddity {
    /// Receives the log instead of a file.
    pub log: Option<OwnedFd>,
    /// The name of a deliberate defect.
    pub defect: Option<&'static str>,
}

/// The resources used by the process, as counted by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct KernelUsage {
    pub processor: Duration,
    pub resident_bytes: u64,
    /// The maximum resident memory so far.
    pub peak_bytes: u64,
}

/// The program under attack.
pub fn program() -> String {
    std::env::var(PROGRAM).unwrap_or_else(|_| env!("CARGO_BIN_EXE_tickgate").to_owned())
}

impl AttackedGateway {
    /// Starts it on free ports and waits until it is ready. `settings` as in a configuration file.
    pub async fn start(redis_url: &str, settings: &str) -> Self {
        Self::start_oddly(redis_url, settings, Oddity::default()).await
    }

    pub async fn start_oddly(redis_url: &str, settings: &str, oddity: Oddity) -> Self {
        // Another process may take a free port before the gateway binds it: then others are tried.
        for _ in 0..10 {
            let mut gateway = Self::spawn(redis_url, settings, &oddity);
            let ready = eventually("the gateway to be ready", async || match gateway.child.try_wait() {
                Ok(None) => gateway.serves().await.then_some(true),
                _ => Some(false),
            });
            if ready.await {
                return gateway;
            }
            assert!(gateway.log().contains("cannot listen"), "the gateway ended: {}", gateway.log());
        }
        panic!("no free port");
    }

    fn spawn(redis_url: &str, settings: &str, oddity: &Oddity) -> Self {
        let dir = TempDir::with_prefix("tickgate-security-").expect("a temporary directory");
        let file = dir.path().join("tickgate.toml");
        std::fs::write(&file, settings).expect("the settings");
        let log = File::create(dir.path().join("log")).expect("a log file");
        let output = log.try_clone().expect("the log file");
        let log = oddity.log.as_ref().map_or_else(|| log.into(), |log| log.try_clone().expect("a descriptor"));
        let [public, operations] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let child = Command::new(program())
            .arg("serve")
            .env("TICKGATE_CONFIG", &file)
            .env("TICKGATE__SERVER__LISTEN", public.to_string())
            .env("TICKGATE__SERVER__OPS_LISTEN", operations.to_string())
            .env("TICKGATE__REDIS__URL", redis_url)
            .env("TICKGATE__AUTH__HS256_SECRETS", SECRET)
            .env("TICKGATE__AUTH__API_KEYS", API_KEY)
            .envs(oddity.defect.map(|defect| ("TICKGATE_TEST_DEFECT", defect)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .expect("the gateway to run");
        Self { child, dir, public, operations }
    }

    /// Publishes over HTTP; returns the status of the response.
    pub async fn publish(&self, channel: &str, data: &serde_json::Value) -> u16 {
        self.post("/api/v1/publish", &serde_json::json!({"channel": channel, "data": data})).await.status
    }

    /// Sends a request as a backend; returns the response.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> http::TestResponse {
        let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
        http::send(self.operations, "POST", path, &headers, Some(body.to_string())).await
    }

    /// Requests a ticket for this token.
    pub async fn ticket(&self, token: &str) -> String {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let answer = http::send(self.operations, "POST", "/api/v1/tickets", &headers, None).await;
        answer.json()["ticket"].as_str().expect("a ticket").to_owned()
    }

    /// Whether the registry counts a connection of this user.
    pub async fn counts(&self, user: &str) -> bool {
        let key = [("x-api-key", API_KEY)];
        let status = http::send(self.public, "GET", "/ws/status", &key, None).await.json();
        status["user_connections"][user].as_u64().is_some_and(|count| count > 0)
    }

    /// Waits until both links to Redis work.
    pub async fn linked(&self) {
        eventually("both links to Redis", async || (self.metric("tickgate_redis_up").await >= 2.0).then_some(())).await;
    }

    /// Sends SIGTERM, and waits until the process has exited.
    pub async fn end(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        self.ended().await
    }

    /// Waits until the process has exited.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the gateway to end", async || self.child.try_wait().expect("its own child")).await
    }

    /// Whether it listens, is ready, and has both links.
    async fn serves(&self) -> bool {
        TcpStream::connect(self.public).await.is_ok()
            && TcpStream::connect(self.operations).await.is_ok()
            && self.is_ready().await
            && self.metric("tickgate_redis_up").await >= 2.0
    }

    /// Whether load balancers would send new clients to it.
    pub async fn is_ready(&self) -> bool {
        http::send(self.public, "GET", "/readyz", &[], None).await.status == 200
    }

    /// The sum over a metric's labels; zero for a metric that this program does not have.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = http::send(self.operations, "GET", "/metrics", &[("x-api-key", API_KEY)], None).await;
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        answer.body.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn footprint(&self) -> KernelUsage {
        let proc = format!("/proc/{}", self.child.id());
        let read = |name: &str| std::fs::read_to_string(format!("{proc}/{name}")).expect("a living process");
        let status = read("status");
        let bytes = |field: &str| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
            kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).expect("a number of kB") * 1024
        };
        // After the name, which may contain anything: the state, nine more fields, then the time in user and system
        // mode.
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum();
        // The kernel's unit of this figure on every Linux platform.
        let processor = Duration::from_millis(ticks * 10);
        KernelUsage { processor, resident_bytes: bytes("VmRSS:"), peak_bytes: bytes("VmHWM:") }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for AttackedGateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
