//! The load: one thread that drives all connections and publishers with one poll loop. At most one clock call per read,
//! and no JSON.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use mio::{Events, Poll, Token};

use crate::{
    BenchFailure,
    client::{BenchClient, ConnectionSettings, ThreadShared},
    clock::RunClock,
    line::TlsTrust,
    plan::{ClientReading, PublishRate, StreamPacer, WorkloadPlan},
    publish::{PublishConnection, upgrade_request},
    stamp::{Finder, PayloadStamp},
    tally::ThreadCounts,
    target::{PublishCall, TargetServer, Words},
};

/// Bytes read from a socket at once. One buffer for all.
const READ_BYTES: usize = 256 * 1024;
/// Connections between their first packet and their subscription.
const OPENING_MAX: usize = 256;
/// Publishers' user numbers are above all clients'.
const PUBLISHERS: usize = 1 << 32;
/// Deliveries that do not arrive within this time are given up.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Connections that should end must have ended within this time.
const ENDING_MAX_NS: u64 = 30_000_000_000;
const TURN: Duration = Duration::from_millis(20);

/// Addresses and credentials.
#[derive(Clone, Debug)]
pub(crate) struct TargetAccess {
    /// `host:port` of the sockets.
    pub(crate) sockets: String,
    /// `host:port` of the publish endpoint.
    pub(crate) publish: String,
    pub(crate) key: String,
    pub(crate) payload_bytes: usize,
    /// Publishing connections.
    pub(crate) publishers: usize,
    /// TLS settings of the sockets; `None` without TLS.
    pub(crate) trust: Option<TlsTrust>,
}

/// Connections, publishers, and their counters.
pub(crate) struct Load<'a> {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    pub(crate) shared: ThreadShared<'a>,
    access: &'a TargetAccess,
    plan: &'a WorkloadPlan,
    calls: Vec<PublishCall>,
    sequences: Vec<u32>,
    pub(crate) clients: Vec<BenchClient>,
    publishers: Vec<PublishConnection>,
    pub(crate) published: u64,
    /// Deliveries that must arrive for the published messages.
    pub(crate) expected: u64,
    /// Deliveries that may be conflated.
    pub(crate) expected_conflated: u64,
    written_off: u64,
    progress_ns: u64,
    /// Some connections read at a limited rate.
    steady: bool,
}

impl<'a> Load<'a> {
    pub(crate) fn new(
        target: &'a TargetServer,
        plan: &'a WorkloadPlan,
        access: &'a TargetAccess,
    ) -> Result<Self, BenchFailure> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            shared: ThreadShared {
                target,
                clock: RunClock::start(),
                tally: ThreadCounts::new(),
                finder: Finder::default(),
                conflated: plan.streams.iter().map(|stream| stream.conflated).collect(),
                keep_cursor: false,
            },
            access,
            plan,
            calls: plan.streams.iter().map(|stream| target.publication(stream, &access.key)).collect(),
            sequences: vec![0; plan.streams.len()],
            clients: Vec::new(),
            publishers: Vec::new(),
            published: 0,
            expected: 0,
            expected_conflated: 0,
            written_off: 0,
            progress_ns: 0,
            steady: plan.subscribers.iter().any(|subscriber| matches!(subscriber.reading, ClientReading::Steady(_))),
        })
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// Opens connections for subscribers `numbers` of the plan and waits until all are subscribed. `tokens` and `since`
    /// are indexed by subscriber. Returns the time taken.
    pub(crate) fn connect(
        &mut self,
        numbers: std::ops::Range<usize>,
        tokens: &[String],
        since: &[Vec<String>],
    ) -> Result<Duration, BenchFailure> {
        let address = resolve(&self.access.sockets)?;
        let (start_ns, ready_before) = (self.now_ns(), self.shared.tally.ready);
        let (mut opened, wanted) = (0, numbers.len());
        let mut progress = (0, start_ns);
        while self.shared.tally.ready - ready_before < wanted {
            while opened < wanted && opened < self.shared.tally.ready - ready_before + OPENING_MAX {
                self.open(address, numbers.start + opened, tokens, since)?;
                opened += 1;
            }
            self.turn(TURN)?;
            self.check_closed()?;
            let ready = self.shared.tally.ready;
            if ready != progress.0 {
                progress = (ready, self.now_ns());
            } else if self.now_ns() - progress.1 > 10_000_000_000 {
                let refusal = self.shared.tally.refusal.as_deref().unwrap_or("nothing");
                return Err(BenchFailure::Said(format!(
                    "{ready} of {wanted} connections subscribed; the server responded {refusal}"
                )));
            }
        }
        Ok(Duration::from_nanos(self.now_ns() - start_ns))
    }

    fn open(
        &mut self,
        address: SocketAddr,
        number: usize,
        tokens: &[String],
        since: &[Vec<String>],
    ) -> Result<(), BenchFailure> {
        let subscriber = &self.plan.subscribers[number];
        let channels: Vec<&str> =
            subscriber.streams.iter().map(|stream| self.plan.streams[*stream as usize].channel.as_str()).collect();
        let words = Words {
            channels: &channels,
            user: subscriber.user.as_deref().unwrap_or_default(),
            token: tokens.get(number).map_or("", String::as_str),
            since: since.get(number).map_or(&[], Vec::as_slice),
        };
        let target = self.shared.target;
        let token_headers = if words.token.is_empty() { &[][..] } else { &target.token_headers };
        let headers: String =
            target.headers.iter().chain(token_headers).map(|line| format!("{}\r\n", words.fill(line))).collect();
        let (opening, answers) = target.opening(&words);
        let start = ConnectionSettings {
            upgrade: upgrade_request(&self.access.sockets, &words.fill(&target.path), &headers),
            opening,
            answers,
            streams: subscriber.streams.clone(),
            reading: subscriber.reading,
            trust: self.access.trust.clone(),
        };
        let mut client = BenchClient::connect(address, number, start)?;
        client.register(self.poll.registry(), Token(self.clients.len()))?;
        self.clients.push(client);
        Ok(())
    }

    fn check_closed(&self) -> Result<(), BenchFailure> {
        let tally = &self.shared.tally;
        match &tally.trouble {
            Some(trouble) if tally.closed > 0 => {
                Err(BenchFailure::Said(format!("{} connections were lost, the first because: {trouble}", tally.closed)))
            }
            _ => Ok(()),
        }
    }

    /// Opens the publishing connections.
    pub(crate) fn open_publishers(&mut self) -> Result<(), BenchFailure> {
        for number in 0..self.access.publishers {
            let (target, access) = (self.shared.target, self.access);
            let mut publisher = PublishConnection::open(&access.publish, target, &access.key, access.payload_bytes)?;
            publisher.register(self.poll.registry(), Token(PUBLISHERS + number))?;
            self.publishers.push(publisher);
        }
        Ok(())
    }

    /// Ends publishing; when it returns, the server has accepted everything published.
    pub(crate) fn close_publishers(&mut self) -> Result<(), BenchFailure> {
        // A server that answers each line stops reading if its answers are not read.
        self.drain_publishers(PublishConnection::is_behind)?;
        self.publishers.drain(..).try_for_each(PublishConnection::finish)
    }

    /// Publishes one message to a stream. Each stream always uses the same connection, which keeps its order.
    pub(crate) fn publish(&mut self, stream: u32) {
        let at = stream as usize;
        self.sequences[at] += 1;
        let stamp = PayloadStamp { sent_ns: self.shared.clock.now_ns(), stream, seq: self.sequences[at] };
        let publisher = at % self.publishers.len();
        self.publishers[publisher].publish(&self.calls[at], &stamp);
        let stream = &self.plan.streams[at];
        let subscribers = u64::from(stream.subscribers);
        self.published += 1;
        *(if stream.conflated { &mut self.expected_conflated } else { &mut self.expected }) += subscribers;
    }

    pub(crate) fn flush(&mut self) -> Result<(), BenchFailure> {
        self.publishers.iter_mut().try_for_each(PublishConnection::flush)
    }

    /// Expected deliveries that have not arrived.
    pub(crate) fn under_way(&self) -> u64 {
        let caused = self.expected + self.expected_conflated;
        caused.saturating_sub(self.shared.tally.deliveries() + self.written_off)
    }

    /// Publishes at the pacer's times for this duration.
    pub(crate) fn run(&mut self, pacer: &mut StreamPacer, duration: Duration) -> Result<(), BenchFailure> {
        let end_ns = self.now_ns() + duration.as_nanos() as u64;
        self.progress_ns = self.now_ns();
        loop {
            let now_ns = self.now_ns();
            if now_ns >= end_ns {
                return Ok(());
            }
            while !self.publishers.iter().any(PublishConnection::is_full) {
                let Some(stream) = pacer.due(now_ns, self.under_way()) else { break };
                self.publish(stream);
            }
            self.flush()?;
            let wait_ns = pacer.next_ns().map_or(u64::MAX, |due_ns| due_ns.saturating_sub(now_ns)).min(end_ns - now_ns);
            let before = self.shared.tally.deliveries();
            self.turn(Duration::from_nanos(wait_ns).min(TURN))?;
            self.write_off(before);
        }
    }

    /// Publishes at the pace until this many connections have ended, and keeps latencies from the first of them on.
    /// Returns the time they took to end.
    pub(crate) fn run_until_closed(&mut self, pace: &PublishRate, count: usize) -> Result<Duration, BenchFailure> {
        const SLICE: Duration = Duration::from_millis(20);
        let mut pacer = self.pacer(pace);
        let begun_ns = self.now_ns();
        let mut first_ns = None;
        while self.shared.tally.closed < count {
            if self.shared.tally.closed == 0 {
                self.shared.tally.latency.clear();
                first_ns = Some(self.now_ns());
            }
            self.run(&mut pacer, SLICE)?;
            if self.now_ns() - begun_ns > ENDING_MAX_NS {
                return Err(BenchFailure::Said(format!("{} of {count} connections ended", self.shared.tally.closed)));
            }
        }
        self.forget_closed();
        Ok(Duration::from_nanos(self.now_ns() - first_ns.unwrap_or(begun_ns)))
    }

    /// Sends what waits while, for example, a publisher is full.
    pub(crate) fn drain_publishers(&mut self, too_much: fn(&PublishConnection) -> bool) -> Result<(), BenchFailure> {
        self.flush()?;
        while self.publishers.iter().any(too_much) {
            self.turn(TURN)?;
        }
        Ok(())
    }

    /// Waits until everything in flight has arrived, or nothing arrives any more.
    pub(crate) fn settle(&mut self) -> Result<(), BenchFailure> {
        self.progress_ns = self.now_ns();
        while self.under_way() > 0 {
            self.flush()?;
            let before = self.shared.tally.deliveries();
            self.turn(TURN)?;
            self.write_off(before);
        }
        Ok(())
    }

    /// Gives up what is in flight if nothing has arrived for long, so that a window does not stay closed.
    fn write_off(&mut self, deliveries_before: u64) {
        if self.shared.tally.deliveries() != deliveries_before {
            self.progress_ns = self.now_ns();
        } else if self.now_ns() - self.progress_ns > PATIENCE_NS {
            self.written_off += self.under_way();
        }
    }

    /// Waits for events, at most `timeout`, and handles them.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<(), BenchFailure> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            let token = event.token().0;
            if let Some(number) = token.checked_sub(PUBLISHERS) {
                let Some(publisher) = self.publishers.get_mut(number) else { continue };
                if event.is_readable() {
                    publisher.read(&mut self.buffer)?;
                }
                if event.is_writable() {
                    publisher.flush()?;
                }
            } else if let Some(client) = self.clients.get_mut(token) {
                client.wake(event, &mut self.buffer, &mut self.shared);
            }
        }
        if self.steady {
            self.clients.iter_mut().for_each(|client| client.read_steadily(&mut self.buffer, &mut self.shared));
        }
        Ok(())
    }

    /// Handles events for this duration without publishing.
    pub(crate) fn idle(&mut self, duration: Duration) -> Result<(), BenchFailure> {
        let end_ns = self.now_ns() + duration.as_nanos() as u64;
        while self.now_ns() < end_ns {
            self.turn(TURN)?;
        }
        Ok(())
    }

    /// Connections send a Close frame; the server's is not awaited.
    pub(crate) fn begin_to_leave(&mut self, numbers: std::ops::Range<usize>) {
        self.clients[numbers].iter_mut().for_each(BenchClient::leave);
    }

    fn forget_closed(&mut self) {
        self.shared.tally.closed = 0;
        self.shared.tally.trouble = None;
    }

    /// The first `count` connections send a Close frame; waits some seconds at most for the server's.
    pub(crate) fn leave(&mut self, count: usize) -> Result<(), BenchFailure> {
        self.begin_to_leave(0..count);
        let end_ns = self.now_ns() + 5_000_000_000;
        while self.clients[..count].iter().any(|client| !client.is_closed()) && self.now_ns() < end_ns {
            self.turn(TURN)?;
        }
        self.forget_closed();
        Ok(())
    }

    /// Closes all connections.
    pub(crate) fn close_clients(&mut self) -> Result<(), BenchFailure> {
        self.leave(self.clients.len())?;
        self.clients.clear();
        Ok(())
    }

    pub(crate) fn pacer(&self, pace: &PublishRate) -> StreamPacer {
        StreamPacer::new(pace, self.plan.streams.len(), self.now_ns())
    }
}

fn resolve(address: &str) -> Result<SocketAddr, BenchFailure> {
    let none = || BenchFailure::Said(format!("{address} has no address"));
    address.to_socket_addrs()?.find(SocketAddr::is_ipv4).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use tickgate_process::free_port;

    use super::*;
    use crate::{limit, plan::TotalRate, target::ChannelKind};

    const LIMIT: &str = include_str!("../../../benches/targets/limit.toml");

    /// A server of the bare-send limit; it lives as long as the test process.
    fn limit_server() -> TargetAccess {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let listen = address.parse().unwrap();
        std::thread::spawn(move || limit::serve(listen));
        while std::net::TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        TargetAccess {
            sockets: address.clone(),
            publish: address,
            key: String::new(),
            payload_bytes: 120,
            publishers: 1,
            trust: None,
        }
    }

    #[test]
    fn every_publication_is_counted_once_by_every_subscriber() {
        let (target, access) = (TargetServer::parse(LIMIT).unwrap(), limit_server());
        let plan = WorkloadPlan::fan_out(&target.channels, ChannelKind::Event, 20);
        let mut load = Load::new(&target, &plan, &access).unwrap();
        load.connect(0..20, &[], &[]).unwrap();
        load.open_publishers().unwrap();
        for pace in [PublishRate::Window(100), PublishRate::Rates(vec![TotalRate { streams: 0..1, per_second: 500.0 }])]
        {
            let mut pacer = load.pacer(&pace);
            load.run(&mut pacer, Duration::from_millis(100)).unwrap();
        }
        load.settle().unwrap();
        let tally = &load.shared.tally;
        assert!(load.published > 50, "{}", load.published);
        assert_eq!((tally.received, tally.skipped, tally.disordered), (load.published * 20, 0, 0));
        assert!(load.clients.iter().all(|client| u64::from(client.received) == load.published));
        load.close_publishers().unwrap();
        load.close_clients().unwrap();
        assert_eq!(load.shared.tally.closed, 0);
    }

    #[test]
    fn a_refused_upgrade_is_reported_with_its_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        });
        let target = TargetServer::parse(LIMIT).unwrap();
        let access = TargetAccess {
            sockets,
            publish: String::new(),
            key: String::new(),
            payload_bytes: 120,
            publishers: 1,
            trust: None,
        };
        let plan = WorkloadPlan::fan_out(&target.channels, ChannelKind::Event, 1);
        let mut load = Load::new(&target, &plan, &access).unwrap();
        let failure = load.connect(0..1, &[], &[]).unwrap_err().to_string();
        assert!(failure.contains("403 Forbidden"), "{failure}");
    }
}
