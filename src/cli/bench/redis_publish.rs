//! The publish script straight into Redis, as an engine would that skips the gateway. Speaks RESP by hand, since a
//! client library would be what is measured.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Failure,
    figures::Figures,
    stage::Stage,
    stamp::{Stamp, find},
};

const SCRIPT: &str = include_str!("../../backplane/redis/scripts/publish.lua");
/// Calls written at once.
const CALLS: u64 = 256;
/// Calls under way: so many that Redis never waits for the load.
const UNDER_WAY: u64 = 8 * CALLS;

/// Calls the script for one of so many topics after the other, without a gateway.
pub(super) fn run(stage: &Stage, topics: u64) -> Result<Figures, Failure> {
    let address = stage.redis_address.as_deref().ok_or_else(|| Failure::Said("there is no Redis".into()))?;
    let mut pipeline = Pipeline::connect(address, topics)?;
    let digest = pipeline.load_script()?;
    let mut payload = Vec::new();
    Stamp { sent_ns: 0, stream: 0, seq: 0 }.put_payload(&mut payload, stage.access.payload_bytes);
    let payload = String::from_utf8_lossy(&payload).into_owned();

    let (mut called, mut answered) = (0, 0);
    let mut measured: Option<(Instant, u64, u64)> = None;
    let start = Instant::now();
    let (warm_up, seconds) = (Duration::from_secs(1), Duration::from_secs_f64(stage.seconds));
    loop {
        while called + CALLS <= answered + UNDER_WAY {
            pipeline.call(&digest, called, &payload)?;
            called += CALLS;
        }
        answered += pipeline.answers()?;
        match measured {
            None if start.elapsed() >= warm_up => {
                measured = Some((Instant::now(), answered, stage.redis.cpu_ns()));
            }
            Some((since, before, cpu_ns)) if since.elapsed() >= seconds => {
                let (calls, span) = ((answered - before) as f64, since.elapsed().as_secs_f64());
                let mut figures = Figures::default();
                figures.set("publishes_per_s", calls / span);
                let redis_ns = (stage.redis.cpu_ns() - cpu_ns) as f64;
                figures.set("redis_us_per_publish", redis_ns / 1e3 / calls);
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
    /// Above the server's clock, so that every topic begins with the same one.
    epoch: u64,
    topics: u64,
}

impl Pipeline {
    fn connect(address: &str, topics: u64) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + Duration::from_secs(3600);
        Ok(Self { stream, out: String::new(), buffer: vec![0; 64 * 1024], epoch: since.as_millis() as u64, topics })
    }

    fn put(&mut self, words: &[&str]) {
        let _ = write!(self.out, "*{}\r\n", words.len());
        for word in words {
            let _ = write!(self.out, "${}\r\n{word}\r\n", word.len());
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.stream.write_all(self.out.as_bytes())?;
        self.out.clear();
        Ok(())
    }

    /// Gives Redis the script; returns its digest.
    fn load_script(&mut self) -> Result<String, Failure> {
        self.put(&["SCRIPT", "LOAD", SCRIPT]);
        self.flush()?;
        let len = self.stream.read(&mut self.buffer)?;
        let answer = String::from_utf8_lossy(&self.buffer[..len]);
        let digest = answer.lines().nth(1).filter(|digest| digest.len() == 40);
        digest.map(str::to_owned).ok_or_else(|| Failure::Said(format!("Redis refused the script: {answer}")))
    }

    /// Writes the next calls, one topic after the other.
    fn call(&mut self, digest: &str, from: u64, payload: &str) -> Result<(), Failure> {
        for number in from..from + CALLS {
            let topic = number % self.topics;
            let (stream, channel) = (format!("tg1:{{t:bench:{topic}}}:s"), format!("tg1:{{t:bench:{topic}}}:c"));
            // As an engine that remembers the epoch of the last id it got for a topic: the first call begins one.
            let epoch = (self.epoch + u64::from(number >= self.topics)).to_string();
            self.put(&["EVALSHA", digest, "2", &stream, &channel, payload, "1000", &epoch, "0", "-", "3600", "0"]);
        }
        self.flush()
    }

    /// Reads what has been answered; returns how many calls that were. An answer is an id, which holds no `$`.
    fn answers(&mut self) -> Result<u64, Failure> {
        let len = self.stream.read(&mut self.buffer)?;
        let bytes = &self.buffer[..len];
        if len == 0 || bytes[0] == b'-' || find(bytes, b"\r\n-").is_some() {
            return Err(Failure::Said(format!("Redis refused a call: {}", String::from_utf8_lossy(bytes))));
        }
        Ok(bytes.iter().filter(|byte| **byte == b'$').count() as u64)
    }
}
