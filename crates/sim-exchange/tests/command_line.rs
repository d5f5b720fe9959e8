//! The program as a process: its port, its clock, its exit.
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
};

struct RunningExchange {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl RunningExchange {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sim-exchange"));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, output, address }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Stops it as a service manager does: returns its exit code and its last line.
    fn end(mut self) -> (Option<i32>, String) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest.lines().last().unwrap_or_default().to_owned())
    }
}

impl Drop for RunningExchange {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn trades(seed: &str) -> String {
    let exchange = RunningExchange::start(&["--clock", "virtual", "--seed", seed]);
    exchange.ask("POST", "/sim/step", r#"{"steps":20}"#);
    let answer = exchange.ask("GET", "/sim/truth/trades?symbol=BTCUSDT", "");
    answer.split("\r\n\r\n").nth(1).unwrap().to_owned()
}

#[test]
fn a_seed_determines_the_market() {
    let first = trades("7");
    assert!(first.len() > 1_000, "{first}");
    assert_eq!(first, trades("7"));
    assert_ne!(first, trades("8"));
}

#[test]
fn requests_after_a_refusal_are_a_violation_and_strict_ends_with_one() {
    let exchange = RunningExchange::start(&["--strict", "--set", "rest-limit=25"]);
    assert!(exchange.ask("GET", "/api/v3/exchangeInfo", "").starts_with("HTTP/1.1 200"));
    let refused = exchange.ask("GET", "/api/v3/exchangeInfo", "");
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("Retry-After: 60"), "{refused}");
    assert!(exchange.ask("GET", "/api/v3/ping", "").starts_with("HTTP/1.1 418"));
    let (code, last) = exchange.end();
    assert!(code == Some(1) && last.contains("rest_after_429"), "{code:?} {last}");
    assert_eq!(RunningExchange::start(&["--strict"]).end().0, Some(0));
}

#[test]
fn invalid_arguments_are_refused() {
    let exchange = RunningExchange::start(&["--clock", "virtual"]);
    for (path, body) in [("/sim/fault", r#"{"kind":"x"}"#), ("/sim/set", r#"{"day":"30"}"#), ("/sim/fault", "x")] {
        assert!(exchange.ask("POST", path, body).starts_with("HTTP/1.1 400"), "{path} {body}");
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_sim-exchange")).args(["--set", "day"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
