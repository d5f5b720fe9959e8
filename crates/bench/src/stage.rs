//! The environment of one run: newly started server processes, their addresses and credentials, and the reading of
//! their usage.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tickgate_process::{ChildProcess, ProcessSpec, free_port};
use uuid::Uuid;

use crate::{
    Args, BenchFailure,
    line::LoopbackCertificate,
    load::TargetAccess,
    observe::{self, Processes},
    target::TargetServer,
    token,
};

const LIMIT: &str = include_str!("../../../benches/targets/limit.toml");
const CONFIG: &str = include_str!("../../../benches/tickgate.toml");

/// How long a new gateway may take to reach Redis.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// What must run for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Gateway,
    /// A gateway with TLS clients.
    SecureGateway,
    TwoGateways,
    /// The bare-send server.
    Limit,
    /// Redis alone.
    Redis,
}

/// The servers of one run. Dropping it stops everything that was started.
#[derive(Debug)]
pub(crate) struct BenchStage {
    pub(crate) target: TargetServer,
    pub(crate) access: TargetAccess,
    /// Sockets of a second replica, if the workload requires one.
    pub(crate) second: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) servers: Processes,
    pub(crate) redis: Processes,
    pub(crate) redis_address: Option<String>,
    /// Address of the gateway's own counters.
    pub(crate) metrics: Option<String>,
    secret: String,
    /// The certificate that the gateway presents.
    certificate: Option<LoopbackCertificate>,
    _started: Vec<ChildProcess>,
    // Dropped last: the processes write to it.
    dir: TempDir,
}

impl BenchStage {
    /// Starts what a workload requires, or uses the named server. `publishers`: its publishing connections.
    pub(crate) fn set(
        args: &Args,
        target: &TargetServer,
        needs: Needs,
        publishers: usize,
    ) -> Result<Self, BenchFailure> {
        let dir = TempDir::with_prefix("tickgate-bench-")?;
        let mut stage = Self {
            target: target.clone(),
            access: TargetAccess {
                sockets: args.sockets.clone().unwrap_or_default(),
                publish: args.publish.clone().unwrap_or_default(),
                key: args.key.clone(),
                payload_bytes: args.payload_bytes,
                publishers,
                trust: None,
            },
            second: None,
            seconds: args.seconds,
            servers: Processes(args.pid.clone()),
            redis: Processes::default(),
            redis_address: None,
            metrics: None,
            secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
            certificate: None,
            _started: Vec::new(),
            dir,
        };
        match needs {
            Needs::Limit => stage.start_limit(args)?,
            _ if args.target.is_some() => {}
            // Redis is measured, so it gets the server's core.
            Needs::Redis => stage.start_redis(args.server_cpu)?,
            Needs::Gateway | Needs::SecureGateway | Needs::TwoGateways => {
                if !args.memory {
                    stage.start_redis(args.redis_cpu.or(args.load_cpu))?;
                }
                if needs == Needs::SecureGateway {
                    let certificate = LoopbackCertificate::make(stage.dir.path())?;
                    stage.access.trust = Some(certificate.trust()?);
                    stage.certificate = Some(certificate);
                }
                let (sockets, operations) = stage.start_gateway(args, "gateway")?;
                if needs == Needs::TwoGateways {
                    // Publishing stays on the first replica.
                    stage.second = Some(stage.start_gateway(args, "second")?.0);
                }
                stage.access.sockets = sockets;
                stage.access.publish = operations.clone();
                stage.metrics = Some(operations);
            }
        }
        Ok(stage)
    }

    fn start_limit(&mut self, args: &Args) -> Result<(), BenchFailure> {
        let address = format!("127.0.0.1:{}", free_port()?);
        self.target = TargetServer::parse(LIMIT)?;
        let started = ChildProcess::start(&ProcessSpec {
            name: "limit",
            program: &std::env::current_exe()?,
            arguments: vec!["--limit-listen".into(), address.clone()],
            environment: Vec::new(),
            cpu: args.server_cpu,
            dir: self.dir.path(),
            address: address.clone(),
        })?;
        self.servers = Processes(vec![started.pid()]);
        self._started.push(started);
        self.access.sockets.clone_from(&address);
        self.access.publish = address;
        Ok(())
    }

    fn start_redis(&mut self, cpu: Option<usize>) -> Result<(), BenchFailure> {
        let port = free_port()?.to_string();
        let dir = self.dir.path().display().to_string();
        let words = ["--port", &port, "--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--appendonly", "no"];
        let tuned = ["--stream-node-max-bytes", "1024", "--client-output-buffer-limit", "pubsub 256mb 64mb 60"];
        let started = ChildProcess::start(&ProcessSpec {
            name: "redis",
            program: Path::new("redis-server"),
            arguments: words.iter().chain(&tuned).map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
            cpu,
            dir: self.dir.path(),
            address: format!("127.0.0.1:{port}"),
        })?;
        self.redis = Processes(vec![started.pid()]);
        self.redis_address = Some(format!("127.0.0.1:{port}"));
        self._started.push(started);
        Ok(())
    }

    /// Starts a replica; returns the addresses of its public and operations listeners.
    fn start_gateway(&mut self, args: &Args, name: &str) -> Result<(String, String), BenchFailure> {
        let (sockets, operations) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let config = self.dir.path().join("tickgate.toml");
        std::fs::write(&config, CONFIG)?;
        self.access.key = format!("bench-{}", self.secret);
        let mut environment = vec![
            ("TICKGATE__SERVER__LISTEN".into(), sockets.clone()),
            ("TICKGATE__SERVER__OPS_LISTEN".into(), operations.clone()),
            ("TICKGATE__AUTH__HS256_SECRETS".into(), self.secret.clone()),
            ("TICKGATE__AUTH__API_KEYS".into(), self.access.key.clone()),
        ];
        if let Some(redis) = &self.redis_address {
            environment.push(("TICKGATE__REDIS__URL".into(), format!("redis://{redis}")));
        }
        if let Some(LoopbackCertificate { file, key_file }) = &self.certificate {
            for (key, path) in [("CERT_FILE", file), ("KEY_FILE", key_file)] {
                environment.push((format!("TICKGATE__SERVER__TLS__{key}"), path.display().to_string()));
            }
        }
        let started = ChildProcess::start(&ProcessSpec {
            name,
            program: &args.gateway()?,
            arguments: vec!["serve".into(), "--config".into(), config.display().to_string()],
            environment,
            cpu: args.server_cpu,
            dir: self.dir.path(),
            address: sockets.clone(),
        })?;
        self.servers.0.push(started.pid());
        self._started.push(started);
        let end = Instant::now() + READY_TIMEOUT;
        while !observe::is_ready(&sockets, self.access.trust.as_ref()) {
            if Instant::now() > end {
                return Err(BenchFailure::Said(format!("the {name} does not become ready")));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok((sockets, operations))
    }

    /// A token for a user, valid for an hour.
    pub(crate) fn token(&self, user: &str) -> Result<String, BenchFailure> {
        self.token_for(user, Duration::from_secs(3600))
    }

    /// A token that expires after this time, in whole seconds.
    pub(crate) fn token_for(&self, user: &str, life: Duration) -> Result<String, BenchFailure> {
        token::sign(&self.secret, user, life)
    }

    /// Whether the target is the gateway itself.
    pub(crate) fn is_tickgate(&self) -> bool {
        self.target.name == "tickgate"
    }
}

/// The machine on which the figures were measured.
pub(crate) fn machine() -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name.trim()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.trim(),
    })
}

#[cfg(test)]
mod tests {
    use tickgate::config::{Config, ConfigSources, TokenRule};
    use tickgate_wire::model::{Class, Topic};

    use super::*;
    use crate::target::{ChannelKind, TICKGATE};

    #[test]
    fn the_gateway_settings_offer_the_channels_of_every_workload() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tickgate.toml");
        std::fs::write(&path, CONFIG).unwrap();
        let secrets = [("TICKGATE__AUTH__HS256_SECRETS", "s"), ("TICKGATE__AUTH__API_KEYS", "k")];
        let environment = secrets.map(|(name, letter)| (name.to_owned(), letter.repeat(40)));
        let sources = ConfigSources { file: Some(path), environment: environment.into(), ..ConfigSources::default() };
        let (config, _) = Config::load(&sources).unwrap();
        let profile = config.profiles.iter().find(|profile| profile.name == "bench").unwrap();
        assert_eq!((profile.path.as_str(), profile.token), ("/ws/bench", TokenRule::Optional));

        let channels = TargetServer::parse(TICKGATE).unwrap().channels;
        let expected = [
            (ChannelKind::Plain, Class::Event, false),
            (ChannelKind::Event, Class::Event, true),
            (ChannelKind::State, Class::State, true),
            (ChannelKind::Reliable, Class::Reliable, true),
        ];
        for (kind, class, retained) in expected {
            let name = channels.name(kind, 7);
            let rule = config.topics.of_topic(&Topic::public(&name).unwrap());
            assert_eq!((rule.class, rule.retain_max > 0), (class, retained), "{name}");
            assert!(profile.channels.iter().any(|channel| channel.pattern.matches(&name)), "{name}");
        }
    }
}
