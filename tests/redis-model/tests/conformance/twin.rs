//! A real server and its model, driven by the same commands.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    time::{SystemTime, UNIX_EPOCH},
};

use tickgate_kit::redis::RedisServer;
use tickgate_redis_model::{ClientId, RedisModel, Refusals, ReplicationRole, ScriptEngine, ServerIdentity, read_reply};

/// The condition of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Well,
    Full,
    WithoutReplicas,
    Replica,
    /// These commands are denied.
    Denied(&'static [&'static str]),
    Forgetful,
}

impl Condition {
    pub const ALL: &'static [Self] = &[
        Self::Well,
        Self::Full,
        Self::WithoutReplicas,
        Self::Replica,
        Self::Denied(&["xadd"]),
        Self::Denied(&["publish", "expire"]),
        Self::Denied(&["xinfo", "time", "get", "evalsha"]),
        Self::Forgetful,
        Self::Well,
    ];
}

/// One connection of each kind on both sides: the first uses version 3, the second version 2, and both may subscribe.
pub struct Twin {
    real: [TcpStream; 2],
    admin: TcpStream,
    model: RedisModel,
    clients: [ClientId; 2],
    seed: u64,
    denied: &'static [&'static str],
}

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

pub fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// Sends commands, and reads until the end mark is answered.
fn exchange(stream: &mut TcpStream, command: &[Vec<u8>], mark: &str) -> Vec<u8> {
    let mut bytes = encode(command);
    bytes.extend(encode(&words(&format!("PING {mark}"))));
    stream.write_all(&bytes).unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "redis-server closed the connection after {command:?}");
        got.extend_from_slice(&buffer[..count]);
        if until(&mut got, mark) {
            return got;
        }
    }
}

/// Cuts off the response to the end mark; false if it has not arrived.
fn until(bytes: &mut Vec<u8>, mark: &str) -> bool {
    let mut at = 0;
    while let Some(len) = read_reply(&bytes[at..]) {
        if String::from_utf8_lossy(&bytes[at..at + len]).contains(mark) {
            bytes.truncate(at);
            return true;
        }
        at += len;
    }
    false
}

impl Twin {
    pub fn new(server: &RedisServer, seed: u64) -> Self {
        let connect = || {
            let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        };
        let identity = ServerIdentity { run_id: "0".repeat(40), replid: "1".repeat(40), former: None };
        let mut model = RedisModel::new(identity, ScriptEngine::new());
        model.set_node_entries(3);
        model.set_time(now_us());
        let clients = [model.connect(), model.connect()];
        let mut twin = Self { real: [connect(), connect()], admin: connect(), model, clients, seed, denied: &[] };
        for command in ["ACL SETUSER admin on nopass +@all ~* &*", "AUTH admin -"] {
            twin.administer(command);
        }
        twin.become_so(Condition::Well);
        for command in ["ACL SETUSER default +@all", "FLUSHALL", "SCRIPT FLUSH"] {
            twin.administer(command);
        }
        exchange(&mut twin.real[0], &words("HELLO 3"), "end");
        let mut hello = encode(&words("HELLO 3"));
        twin.model.receive(clients[0], &mut hello);
        twin.model.take_output(clients[0]);
        twin
    }

    fn administer(&mut self, command: &str) {
        let answer = exchange(&mut self.admin, &words(command), "end");
        assert!(!answer.starts_with(b"-"), "{command}: {}", String::from_utf8_lossy(&answer));
    }

    /// Puts both sides into a condition, from the previous one.
    pub fn become_so(&mut self, condition: Condition) {
        self.administer("REPLICAOF NO ONE");
        self.administer(&format!("CONFIG SET maxmemory {}", u8::from(condition == Condition::Full)));
        let replicas = u8::from(condition == Condition::WithoutReplicas);
        self.administer(&format!("CONFIG SET min-replicas-to-write {replicas}"));
        for command in self.denied {
            self.administer(&format!("ACL SETUSER default +{command}"));
        }
        self.denied = if let Condition::Denied(commands) = condition { commands } else { &[] };
        for command in self.denied {
            self.administer(&format!("ACL SETUSER default -{command}"));
        }
        self.model.refuse(Refusals {
            full: condition == Condition::Full,
            no_replicas: condition == Condition::WithoutReplicas,
            denied: self.denied.iter().map(ToString::to_string).collect::<BTreeSet<_>>(),
            ..Refusals::default()
        });
        self.model.set_role(ReplicationRole::Primary);
        match condition {
            Condition::Replica => {
                self.administer("REPLICAOF 127.0.0.1 1");
                self.model.set_role(ReplicationRole::Replica { host: "127.0.0.1".into(), port: 1 });
            }
            Condition::Forgetful => {
                self.administer("SCRIPT FLUSH");
                self.model.run(&["SCRIPT", "FLUSH"]);
            }
            _ => {}
        }
    }

    /// Sends a command to both, on one of the connections, and compares what every connection receives.
    ///
    /// # Errors
    /// The difference.
    pub fn ask(&mut self, number: u64, command: &[Vec<u8>]) -> Result<(), String> {
        let on = usize::from(number.is_multiple_of(3));
        for at in [on, 1 - on] {
            let mark = format!("mark-{number}-{at}");
            let command = if at == on { command.to_vec() } else { words("EXISTS none") };
            self.model.set_time(now_us());
            let real = exchange(&mut self.real[at], &command, &mark);
            let mut bytes = encode(&command);
            bytes.extend(encode(&words(&format!("PING {mark}"))));
            self.model.receive(self.clients[at], &mut bytes);
            let (mut model, _) = self.model.take_output(self.clients[at]);
            assert!(until(&mut model, &mark), "the model responds");
            let shown: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word)).collect();
            let name = shown[0].to_lowercase();
            let (real, model) = (String::from_utf8_lossy(&real), String::from_utf8_lossy(&model));
            // The script of standings responds with what is left of the key's life.
            let shows_life = matches!(&*name, "pttl" | "ttl") || shown.iter().any(|word| word.ends_with(":standing"));
            if !is_same(&name, shows_life, &real, &model) {
                let shown: Vec<_> = shown.iter().map(|word| word.chars().take(90).collect::<String>()).collect();
                let (seed, shown) = (self.seed, shown.join(" "));
                return Err(format!("seed {seed}, command {number}: {shown}\n  redis {real:?}\n  model {model:?}"));
            }
        }
        Ok(())
    }
}

/// Whether two responses are equal except for what depends on a clock or an allocator.
fn is_same(name: &str, shows_life: bool, real: &str, model: &str) -> bool {
    if name == "time" {
        return real.lines().count() == model.lines().count();
    }
    let now_us = now_us();
    let (real, model) = (without_layout(real), without_layout(model));
    let (one, other) = (pieces(&real), pieces(&model));
    let same = |one: &str, other: &str| {
        let (Ok(a), Ok(b)) = (one.parse::<u64>(), other.parse::<u64>()) else { return false };
        let near = |unit: u64| {
            let now = now_us / unit;
            let slack = 2_000_000 / unit + 1;
            a.abs_diff(b) <= slack && a.abs_diff(now) <= 60 * slack
        };
        a == b || near(1) || near(1_000) || near(1_000_000) || shows_life && a.abs_diff(b) < 2_000
    };
    one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| one == other || same(one, other))
}

/// The inner nodes of a tree are internal to Redis.
fn without_layout(text: &str) -> String {
    match text.split_once("radix-tree-nodes\r\n:") {
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => text.to_owned(),
    }
}

/// Runs of digits, and the text between them.
fn pieces(text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        all.push(piece);
        rest = after;
    }
    all
}
