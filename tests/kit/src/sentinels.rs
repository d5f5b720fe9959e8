//! Redis behind sentinels: a primary, replicas, and sentinels that monitor them, removed with the test.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tickgate::config::{self, Access, Sentinels, ServerAddress};

use crate::{
    eventually,
    follower::redis_config,
    redis::{PROGRAM, RedisServer, free_port},
};

/// Under which the sentinels monitor the primary.
pub const NAME: &str = "tickgate";

/// One process of `redis-server --sentinel`.
pub struct SentinelServer {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl SentinelServer {
    /// Monitors the server with this port. `quorum`: how many sentinels must find it dead. `settings`: lines to add.
    pub async fn monitoring(port: u16, quorum: usize, settings: &str) -> Self {
        let dir = TempDir::with_prefix("tickgate-sentinel-").expect("a temporary directory");
        let own = free_port();
        // The first two as docs/sentinel.md recommends.
        let text = format!(
            "port {own}\nbind 127.0.0.1\ndir {}\nlogfile sentinel.log\n\
             sentinel monitor {NAME} 127.0.0.1 {port} {quorum}\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 10000\n\
             sentinel parallel-syncs {NAME} 2\n{settings}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("sentinel.conf"), text).expect("the settings to be written");
        let sentinel = Self { child: spawn(&dir), port: own, dir };
        sentinel.answers().await;
        sentinel
    }

    /// Its address for the settings of a gateway.
    pub fn address(&self) -> ServerAddress {
        ServerAddress { host: "127.0.0.1".into(), port: self.port }
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.child.kill().expect("the sentinel to be running");
        self.child.wait().expect("the sentinel to end");
    }

    /// Starts it again after [`SentinelServer::kill`], with what it knew.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.dir);
        self.answers().await;
    }

    /// Runs one command on its own connection.
    pub async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("a valid url");
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    /// The port of the primary that it names.
    pub async fn primary(&self) -> u16 {
        let (_, port): (String, u16) =
            self.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await.expect("an answer");
        port
    }

    async fn field(&self, name: &str) -> String {
        let fields: std::collections::HashMap<String, String> =
            self.run(&["SENTINEL", "MASTER", NAME]).await.expect("an answer");
        fields[name].clone()
    }

    async fn answers(&self) {
        // One that requires a password responds with an error.
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("a valid url");
        let answers = async || match client.get_multiplexed_async_connection().await {
            Ok(mut connection) => redis::cmd("PING")
                .query_async::<String>(&mut connection)
                .await
                .map_or_else(|error| error.code().is_some_and(|code| code == "NOAUTH").then_some(()), |_| Some(())),
            Err(_) => None,
        };
        eventually("the sentinel answers", answers).await;
    }
}

impl Drop for SentinelServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("sentinel.log")).unwrap_or_default();
            eprintln!("the sentinel said:\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir) -> Child {
    let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(program);
    command.arg(dir.path().join("sentinel.conf")).arg("--sentinel");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server: install it (apt-get install redis-server)")
}

/// A primary with two replicas, and three sentinels that know each other.
pub struct Deployment {
    /// The primary, then its replicas, as they were at the start.
    pub servers: Vec<RedisServer>,
    /// The sentinels.
    pub sentinels: Vec<SentinelServer>,
}

impl Deployment {
    /// Starts everything and waits until a failover is possible.
    pub async fn start() -> Self {
        let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica = || {
            let arguments = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
            RedisServer::start_with(&arguments)
        };
        let servers = vec![primary, replica(), replica()];
        eventually("both replicas are in sync", async || {
            let info: String = servers[0].run(&["INFO", "replication"]).await;
            (info.matches("state=online").count() == 2).then_some(())
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(SentinelServer::monitoring(servers[0].port(), 2, "").await);
        }
        for sentinel in &sentinels {
            eventually("the sentinel knows all others", async || {
                let known = (sentinel.field("num-other-sentinels").await, sentinel.field("num-slaves").await);
                (known == ("2".to_owned(), "2".to_owned())).then_some(())
            })
            .await;
        }
        Self { servers, sentinels }
    }

    /// Settings of a gateway.
    pub fn settings(&self) -> config::Redis {
        settings(&self.sentinels.iter().map(SentinelServer::address).collect::<Vec<_>>())
    }

    /// The server that the first sentinel names.
    pub async fn primary(&self) -> &RedisServer {
        let port = self.sentinels[0].primary().await;
        self.servers.iter().find(|server| server.port() == port).expect("one of the servers")
    }
}

/// Settings of a gateway that asks these sentinels.
pub fn settings(addresses: &[ServerAddress]) -> config::Redis {
    let sentinels = Sentinels { name: NAME.into(), addresses: addresses.to_vec(), ..Sentinels::default() };
    // As by default: what is in flight to a server that was left is unknown after this time.
    let settings = config::Redis { response_timeout: Duration::from_secs(1), ..redis_config("") };
    settings.access.store(Access { sentinels: Some(sentinels), ..Access::default() }.into());
    settings
}
