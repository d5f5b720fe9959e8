//! `sim-exchange` as a process of one test, with its faults, its log and its true data.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tickgate_client::http::HttpRequest;

use crate::support::program;

/// Maximum response size of the exchange, in bytes: tens of thousands of trades.
const BYTES_MAX: usize = 64 << 20;

pub struct ExchangeProcess {
    child: Child,
    pub address: String,
}

impl ExchangeProcess {
    /// Starts it with additional arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let path = program().with_file_name("sim-exchange");
        assert!(path.exists(), "{} is missing: cargo build -p tickgate-sim-exchange", path.display());
        let mut command = Command::new(path);
        command.args(["--listen", "127.0.0.1:0", "--seed", "7"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    pub async fn get(&self, path: &str) -> Value {
        let request = HttpRequest::get(format!("http://{}{path}", self.address)).body_bytes_max(BYTES_MAX);
        let answer = request.send().await.unwrap();
        serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{path}: {answer:?}"))
    }

    async fn post(&self, path: &str, body: Value) {
        let answer =
            HttpRequest::post(format!("http://{}{path}", self.address), body.to_string()).send().await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{body}: {}", answer.body);
    }

    /// Starts a fault, such as `{"kind": "mute", "for": "5s"}`.
    pub async fn fault(&self, fault: Value) {
        self.post("/sim/fault", fault).await;
    }

    /// Sets a switch.
    pub async fn set(&self, switch: &str, value: &str) {
        self.post("/sim/set", json!({ switch: value })).await;
    }

    /// Advances a virtual clock by steps of 100 ms.
    pub async fn step(&self, steps: u64) {
        self.post("/sim/step", json!({ "steps": steps })).await;
    }

    /// The violations of a client.
    pub async fn violations(&self) -> Vec<String> {
        let list = self.get("/sim/violations").await;
        list.as_array().unwrap().iter().map(|violation| format!("a violation: {violation}")).collect()
    }

    /// Entries of the log of one kind.
    pub async fn log(&self, what: &str) -> Vec<Value> {
        let log = self.get("/sim/log").await;
        log.as_array().unwrap().iter().filter(|entry| entry["what"] == what).cloned().collect()
    }

    /// Attempts to connect so far.
    pub async fn connects(&self) -> usize {
        self.log("connect").await.len()
    }

    /// The streams of all connections, each list in order.
    pub async fn streams(&self) -> Vec<Vec<String>> {
        let connections = self.get("/sim/connections").await;
        let streams = |connection: &Value| {
            let names = connection["streams"].as_array().unwrap().iter();
            let mut names: Vec<_> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        connections.as_array().unwrap().iter().map(streams).collect()
    }
}

impl Drop for ExchangeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
