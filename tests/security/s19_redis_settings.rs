//! S19: the recommended redis.conf is used without changes. It once listened on every address, without protection or
//! password, so that all messages, tokens and keys were readable on the network.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    siege::repelled,
    support::{
        eventually,
        redis::{RedisServer, free_port},
    },
};

/// Killed when dropped.
struct RunningReplica(Child);

impl Drop for RunningReplica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn s19_the_recommended_redis_is_for_this_machine_and_asks_who_is_there() {
    let (port, dir) = (free_port(), TempDir::new().unwrap());
    let mut command = Command::new("redis-server");
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis/redis.conf");
    command.args([settings, "--port", &port.to_string(), "--logfile", "redis.log", "--dir"]).arg(dir.path());
    let _running = RunningReplica(command.stdout(Stdio::null()).spawn().expect("redis-server"));
    eventually("redis to listen", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    // A server that listens on every address also listens on all of loopback.
    let elsewhere = TcpStream::connect(("127.0.0.2", port)).await;
    println!("  attacker   from another address: {:?}", elsewhere.as_ref().map(|_| "connected"));
    assert!(elsewhere.is_err(), "it listens on more than the one address of this machine");
    let redis = RedisServer::shipped(&[]);
    let mut stranger = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
    for command in ["GET tg2:anything", "CONFIG GET *", "KEYS *", "FLUSHALL", "AUTH default -"] {
        stranger.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 1_024];
        let len = timeout(Duration::from_secs(5), stranger.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
        println!("  attacker   {command}: {}", answer.trim_end());
        assert!(answer.starts_with("-NOAUTH") || answer.starts_with("-WRONGPASS"), "{command}: {answer}");
    }
    let protected: Vec<String> = redis.run(&["CONFIG", "GET", "protected-mode"]).await;
    assert_eq!(protected, ["protected-mode", "yes"]);
    repelled("S19 the recommended redis.conf");
}
