//! The processes of a demo: one Redis and three replicas, on free loopback ports, with their files in a temporary
//! folder. Dropping the stage stops and removes everything.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tickgate_client::http::HttpRequest;
use tickgate_process::{ChildProcess, ProcessSpec, free_port};
use uuid::Uuid;

use crate::cli::CommandFailure;

pub(super) const REPLICAS: usize = 3;
/// How long a replica may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The running processes.
#[derive(Debug)]
pub(super) struct DemoStage {
    redis_server: PathBuf,
    redis_port: u16,
    redis: Option<ChildProcess>,
    replicas: Vec<Option<ChildProcess>>,
    /// Addresses for clients.
    pub listeners: Vec<String>,
    /// Addresses for publishers.
    pub operations: Vec<String>,
    pub secret: String,
    pub api_key: String,
    // Dropped last: the processes write to it.
    dir: TempDir,
}

impl DemoStage {
    /// Starts everything, and waits until every replica is ready.
    pub(super) async fn set(redis_server: &Path) -> Result<Self, CommandFailure> {
        let dir = TempDir::with_prefix("tickgate-demo-")
            .map_err(|error| failed("cannot create a temporary folder", &error))?;
        let random = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut stage = Self {
            redis_server: redis_server.to_owned(),
            redis_port: port()?,
            redis: None,
            replicas: Vec::new(),
            listeners: Vec::new(),
            operations: Vec::new(),
            secret: random(),
            api_key: random(),
            dir,
        };
        stage.start_redis()?;
        for number in 1..=REPLICAS {
            stage.start_replica(number)?;
        }
        for listener in &stage.listeners {
            ready(listener).await?;
        }
        Ok(stage)
    }

    pub(super) const fn redis_port(&self) -> u16 {
        self.redis_port
    }

    /// Starts Redis, or restarts it with the file that it left.
    pub(super) fn start_redis(&mut self) -> Result<(), CommandFailure> {
        let (port, dir) = (self.redis_port.to_string(), self.dir.path().display().to_string());
        let words = ["--port", &port, "--bind", "127.0.0.1", "--dir", &dir, "--save", ""];
        // Acknowledged writes survive a kill, as configured in docs/operations.md.
        let durable = ["--appendonly", "yes", "--appendfsync", "everysec"];
        let spec = ProcessSpec {
            name: "redis",
            program: &self.redis_server,
            arguments: words.iter().chain(&durable).map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
            cpu: None,
            dir: self.dir.path(),
            address: format!("127.0.0.1:{port}"),
        };
        let hint = "the demo requires redis-server: install it, or set --redis-server";
        self.redis = Some(ChildProcess::start(&spec).map_err(|error| failed(hint, &error))?);
        Ok(())
    }

    fn start_replica(&mut self, number: usize) -> Result<(), CommandFailure> {
        let (listener, operations) = (format!("127.0.0.1:{}", port()?), format!("127.0.0.1:{}", port()?));
        let settings = [
            ("SERVER__LISTEN", listener.clone()),
            ("SERVER__OPS_LISTEN", operations.clone()),
            ("REDIS__URL", format!("redis://127.0.0.1:{}", self.redis_port)),
            ("AUTH__HS256_SECRETS", self.secret.clone()),
            ("AUTH__API_KEYS", self.api_key.clone()),
            // A thousand clients of a few users, from one address.
            ("LIMITS__CONNECTIONS_PER_USER_MAX", "1000".into()),
            ("FEEDS__SYNTHETIC__ENABLED", "off".into()),
        ];
        let program = std::env::current_exe().map_err(|error| failed("cannot find this program", &error))?;
        let spec = ProcessSpec {
            name: &format!("replica-{number}"),
            program: &program,
            arguments: vec!["serve".into(), "--development".into()],
            environment: settings.map(|(key, value)| (format!("TICKGATE__{key}"), value)).to_vec(),
            cpu: None,
            dir: self.dir.path(),
            address: listener.clone(),
        };
        self.replicas.push(Some(ChildProcess::start(&spec).map_err(|error| failed("cannot start a replica", &error))?));
        self.listeners.push(listener);
        self.operations.push(format!("http://{operations}"));
        Ok(())
    }

    /// Kills a replica; returns its process id.
    pub(super) fn kill_replica(&mut self, number: usize) -> Option<u32> {
        self.replicas[number].take().map(|process| process.pid())
    }

    /// Kills Redis; returns its process id.
    pub(super) fn kill_redis(&mut self) -> Option<u32> {
        self.redis.take().map(|process| process.pid())
    }
}

async fn ready(listener: &str) -> Result<(), CommandFailure> {
    let url = format!("http://{listener}/readyz");
    let asked = async {
        loop {
            if HttpRequest::get(&url).send().await.is_ok_and(|answer| answer.status.is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let late = |_| CommandFailure::new(format!("a replica was not ready within {READY_TIMEOUT:?}"));
    tokio::time::timeout(READY_TIMEOUT, asked).await.map_err(late)
}

fn port() -> Result<u16, CommandFailure> {
    free_port().map_err(|error| failed("no free port", &error))
}

fn failed(what: &str, error: &std::io::Error) -> CommandFailure {
    CommandFailure::new(format!("{what}: {error}"))
}
