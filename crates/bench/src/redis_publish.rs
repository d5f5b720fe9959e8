//! The publish script executed directly in Redis, as by an engine that bypasses the gateway. Encodes RESP without a
//! client library, which would become part of the measurement.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    BenchFailure,
    figures::RunFigures,
    stage::BenchStage,
    stamp::{PayloadStamp, find},
};

const SCRIPT: &str = include_str!("../../../src/backplane/redis/scripts/publish.lua");
const GENERATION: &str = "tg2:{gen}";
/// Publications per write.
const WRITTEN: u64 = 256;
/// Publications in flight: enough that Redis never waits for the load.
const UNDER_WAY: u64 = 8 * WRITTEN;

/// Publishes to this many topics in turn, without a gateway, with this many publications per call of the script.
pub(crate) fn run(stage: &BenchStage, topics: u64, per_call: u64) -> Result<RunFigures, BenchFailure> {
    let address = stage.redis_address.as_deref().ok_or_else(|| BenchFailure::Said("Redis is not available".into()))?;
    let mut pipeline = Pipeline::connect(address, topics)?;
    pipeline.begin_generation()?;
    let digest = pipeline.load_script()?;
    let mut payload = Vec::new();
    PayloadStamp { sent_ns: 0, stream: 0, seq: 0 }.put_payload(&mut payload, stage.access.payload_bytes);
    let payload = String::from_utf8_lossy(&payload).into_owned();

    let (mut written, mut answered) = (0, 0);
    let mut measured: Option<(Instant, u64, u64)> = None;
    let start = Instant::now();
    let (warm_up, seconds) = (Duration::from_secs(1), Duration::from_secs_f64(stage.seconds));
    loop {
        while written + WRITTEN <= answered + UNDER_WAY {
            pipeline.publish(&digest, written, per_call, &payload)?;
            written += WRITTEN;
        }
        answered += pipeline.answers()?;
        match measured {
            None if start.elapsed() >= warm_up => {
                measured = Some((Instant::now(), answered, stage.redis.cpu_ns()));
            }
            Some((since, before, cpu_ns)) if since.elapsed() >= seconds => {
                let (published, span) = ((answered - before) as f64, since.elapsed().as_secs_f64());
                let mut figures = RunFigures::default();
                figures.set("publishes_per_s", published / span);
                let redis_ns = (stage.redis.cpu_ns() - cpu_ns) as f64;
                figures.set("redis_us_per_publish", redis_ns / 1e3 / published);
                figures.set("redis_cores", redis_ns / 1e9 / span);
                return Ok(figures);
            }
            _ => {}
        }
    }
}

struct Pipeline {
    stream: TcpStream,
    out: String,
    buffer: Vec<u8>,
    generation: u64,
    topics: u64,
}

impl Pipeline {
    fn connect(address: &str, topics: u64) -> Result<Self, BenchFailure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { stream, out: String::new(), buffer: vec![0; 64 * 1024], generation: since.as_secs() << 21, topics })
    }

    fn put(&mut self, words: &[&str]) {
        let _ = write!(self.out, "*{}\r\n", words.len());
        self.words(words);
    }

    fn words(&mut self, words: &[&str]) {
        for word in words {
            let _ = write!(self.out, "${}\r\n{word}\r\n", word.len());
        }
    }

    fn flush(&mut self) -> Result<(), BenchFailure> {
        self.stream.write_all(self.out.as_bytes())?;
        self.out.clear();
        Ok(())
    }

    /// Sends the buffered commands, and reads one response.
    fn ask(&mut self) -> Result<String, BenchFailure> {
        self.flush()?;
        let len = self.stream.read(&mut self.buffer)?;
        Ok(String::from_utf8_lossy(&self.buffer[..len]).into_owned())
    }

    /// Creates a generation for this server, as the first gateway does.
    fn begin_generation(&mut self) -> Result<(), BenchFailure> {
        self.put(&["INFO", "replication"]);
        let info = self.ask()?;
        let identity = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap_or_default().trim();
        let generation = self.generation.to_string();
        let fields = ["format", "2", "g", &generation, "identity", identity, "alloc", &generation];
        self.put(&[&["HSET", GENERATION][..], &fields].concat());
        match self.ask()? {
            answer if answer.starts_with(':') => Ok(()),
            answer => Err(BenchFailure::Said(format!("Redis refused the generation: {answer}"))),
        }
    }

    /// Loads the script into Redis; returns its digest.
    fn load_script(&mut self) -> Result<String, BenchFailure> {
        self.put(&["SCRIPT", "LOAD", SCRIPT]);
        let answer = self.ask()?;
        let digest = answer.lines().nth(1).filter(|digest| digest.len() == 40);
        digest.map(str::to_owned).ok_or_else(|| BenchFailure::Said(format!("Redis refused the script: {answer}")))
    }

    /// Writes the next publications, one topic after another.
    fn publish(&mut self, digest: &str, from: u64, per_call: u64, payload: &str) -> Result<(), BenchFailure> {
        for first in (from..from + WRITTEN).step_by(per_call as usize) {
            let numbers = first..first + per_call;
            let _ = write!(self.out, "*{}\r\n", 5 + per_call + 6 * per_call);
            self.words(&["EVALSHA", digest, &(1 + per_call).to_string(), GENERATION]);
            for number in numbers.clone() {
                self.words(&[&format!("tg2:{{t:bench:{}}}:s", number % self.topics)]);
            }
            let generation = self.generation.to_string();
            self.words(&[&generation]);
            for number in numbers {
                // Like an engine that remembers the epoch of the last id of a topic: the first call starts one. Each
                // new stream takes the next epoch.
                let is_new = number < self.topics;
                let epoch = if is_new { 0 } else { self.generation + 1 + number % self.topics };
                let keep = if is_new { "1" } else { "0" };
                self.words(&[payload, "1000", &epoch.to_string(), "0", "-", keep]);
            }
        }
        self.flush()
    }

    /// Reads the available responses; returns the number of publications they confirm. An id contains no `$`.
    fn answers(&mut self) -> Result<u64, BenchFailure> {
        let len = self.stream.read(&mut self.buffer)?;
        let bytes = &self.buffer[..len];
        if len == 0 || bytes[0] == b'-' || find(bytes, b"\r\n-").is_some() {
            return Err(BenchFailure::Said(format!("Redis refused a call: {}", String::from_utf8_lossy(bytes))));
        }
        Ok(bytes.iter().filter(|byte| **byte == b'$').count() as u64)
    }
}
