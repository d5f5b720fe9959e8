//! Servers, addresses, and the connections between gateways and servers. Each is a connection of the real `redis`
//! crate: what is written to it is executed at once by the model of its server, unless the connection is held.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tickgate::{
    redis_link::{ConnectCall, Network},
    tasks::Suspension,
};
use tickgate_redis_model::{
    ClientId, RedisModel, ReplicationRole, ScriptEngine, ServerIdentity, WriteHistory, read_reply,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::still;

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionKind {
    Commands,
    PubSub,
    Reads,
}

impl ConnectionKind {
    pub const ALL: [Self; 3] = [Self::Commands, Self::PubSub, Self::Reads];

    fn named(name: &str) -> Self {
        match name {
            "tickgate-pubsub" => Self::PubSub,
            "tickgate-reads" => Self::Reads,
            _ => Self::Commands,
        }
    }
}

/// One kind of connection of one gateway.
pub type SimLink = (usize, ConnectionKind);

/// A machine with a Redis server.
pub struct Machine {
    pub server: RedisModel,
    pub up: bool,
    /// The offset of its clock, in milliseconds.
    pub clock_ms: i64,
    /// A copy of its dataset: the last dump.
    pub saved: WriteHistory,
    /// It does not replicate now.
    pub lagging: bool,
    /// Its dataset when it stopped.
    pub stopped: WriteHistory,
}

struct NetConnection {
    link: SimLink,
    machine: usize,
    client: ClientId,
    /// Bytes in flight to the server, and to the gateway.
    to_server: Vec<u8>,
    to_gateway: Vec<u8>,
    closed: bool,
    reader: Option<Waker>,
}

/// Everything between the gateways' links and the datasets.
pub struct Net {
    pub machines: Vec<Machine>,
    /// What runs their scripts.
    engine: ScriptEngine,
    /// The machine at each link's address.
    routes: BTreeMap<SimLink, usize>,
    connections: BTreeMap<u64, NetConnection>,
    /// The connection of each client of a machine.
    of_client: BTreeMap<(usize, ClientId), u64>,
    /// Connections with possible new data.
    touched: Vec<u64>,
    held: BTreeSet<SimLink>,
    /// The machine that the followers replicate.
    pub leader: usize,
    /// Gateways that lose the next message of a stream.
    losing: BTreeSet<usize>,
    /// Handles that suspend the gateways, with the drivers of their connections.
    pub frosts: BTreeMap<usize, Suspension>,
    /// Gateways that have ended: nothing from them is delivered.
    gone: BTreeSet<usize>,
    last: u64,
    identities: u64,
    began: Instant,
    /// The number of writes at one moment, and whether the maximum was exceeded.
    writes: (Duration, u64),
    pub spins: bool,
}

/// Maximum number of writes at one moment. More is a loop without progress of time, which would overload a real server.
const WRITES_MAX: u64 = 20_000;

thread_local! {
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

/// The network of this thread, for the links.
pub struct Dialler;

impl Network for Dialler {
    fn dial(&self, address: &str, name: &str) -> ConnectCall {
        let gateway = address.split(':').next().and_then(|host| host.strip_prefix("gateway-")).expect("our address");
        let link = (gateway.parse().expect("a number"), ConnectionKind::named(name));
        let (opened, frost) = with(|net| (net.open(link), net.frosts.get(&link.0).cloned().unwrap_or_default()));
        let dialled = async move {
            match opened {
                Some(id) => Ok(Box::new(SimWire(id)) as Box<_>),
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        };
        let drive = move |driver| drop(tokio::spawn(frost.over(driver)));
        ConnectCall { dialled: Box::pin(dialled), drive: Box::new(drive) }
    }
}

/// Runs `act` on the network, then wakes everything that has something to read.
pub fn with<T>(act: impl FnOnce(&mut Net) -> T) -> T {
    let (result, wakers) = NET.with_borrow_mut(|net| {
        let net = net.as_mut().expect("a run has a network");
        net.set_time();
        let result = act(net);
        (result, net.distribute())
    });
    wakers.into_iter().for_each(Waker::wake);
    result
}

/// Starts with this many servers, of which all but the first follow it.
pub fn begin(machines: usize, Parcel(engine): Parcel) {
    let machine = |number: usize| {
        let mut server = RedisModel::new(identity(number as u64), engine.clone());
        server.set_node_entries(1);
        if number > 0 {
            server.set_role(ReplicationRole::Replica { host: "primary".into(), port: 6379 });
        }
        let (saved, stopped) = (WriteHistory::new(), WriteHistory::new());
        Machine { server, up: true, clock_ms: 0, saved, lagging: false, stopped }
    };
    let net = Net {
        machines: (0..machines).map(machine).collect(),
        engine: engine.clone(),
        routes: BTreeMap::new(),
        connections: BTreeMap::new(),
        of_client: BTreeMap::new(),
        touched: Vec::new(),
        held: BTreeSet::new(),
        leader: 0,
        losing: BTreeSet::new(),
        frosts: BTreeMap::new(),
        gone: BTreeSet::new(),
        last: 0,
        identities: 100,
        began: Instant::now(),
        writes: (Duration::ZERO, 0),
        spins: false,
    };
    NET.set(Some(net));
}

/// Ends the network of this thread.
pub fn end() {
    let Some(Net { engine, machines, .. }) = NET.take() else { return };
    drop(machines);
    if engine.is_sole() {
        ENGINES.lock().push(Parcel(engine));
    }
}

/// Engines of runs that are over, with their compiled scripts: to compile those costs more than to play a step.
static ENGINES: Mutex<Vec<Parcel>> = Mutex::new(Vec::new());

/// An engine on its way to another thread.
pub struct Parcel(ScriptEngine);

impl Parcel {
    /// One of an earlier run, or a new one. Not called in a run, whose randomness it would change.
    pub fn take() -> Self {
        ENGINES.lock().pop().unwrap_or_else(|| Self(ScriptEngine::new()))
    }
}

// SAFETY: nothing else refers to the engine, and a Lua does not depend on its thread.
#[allow(unsafe_code, reason = "a Lua is reused by the runs, each of which has its own thread")]
unsafe impl Send for Parcel {}

fn identity(number: u64) -> ServerIdentity {
    ServerIdentity { run_id: format!("{number:040x}"), replid: format!("{:040x}", number + (1 << 40)), former: None }
}

impl Net {
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn set_time(&mut self) {
        let now = self.now();
        self.writes = if self.writes.0 == now { (now, self.writes.1 + 1) } else { (now, 0) };
        if self.writes.1 > WRITES_MAX && !self.spins {
            self.spins = true;
            self.cut(|_, _| true);
        }
        still::set(u64::try_from(now.as_nanos()).expect("short runs"));
        let now_us = still::BEGINNING_S * 1_000_000 + u64::try_from(now.as_micros()).expect("short runs");
        for machine in &mut self.machines {
            machine.server.set_time(now_us.saturating_add_signed(machine.clock_ms * 1_000));
        }
    }

    pub fn new_identity(&mut self) -> ServerIdentity {
        self.identities += 1;
        identity(self.identities)
    }

    /// The machine at a link's address.
    pub fn route(&self, link: SimLink) -> usize {
        self.routes.get(&link).copied().unwrap_or(0)
    }

    /// Points the address of a link to another machine; existing connections stay.
    pub fn lead(&mut self, link: SimLink, machine: usize) {
        self.routes.insert(link, machine);
    }

    fn open(&mut self, link: SimLink) -> Option<u64> {
        let machine = self.route(link);
        if !self.machines[machine].up || self.gone.contains(&link.0) || self.spins {
            return None;
        }
        let client = self.machines[machine].server.connect();
        self.last += 1;
        let (to_server, to_gateway) = (Vec::new(), Vec::new());
        let connection = NetConnection { link, machine, client, to_server, to_gateway, closed: false, reader: None };
        self.connections.insert(self.last, connection);
        self.of_client.insert((machine, client), self.last);
        Some(self.last)
    }

    /// Cuts existing connections of matching links.
    pub fn cut(&mut self, test: impl Fn(SimLink, usize) -> bool) {
        let Self { connections, machines, of_client, touched, .. } = self;
        for (id, own) in connections.iter_mut().filter(|(_, own)| !own.closed && test(own.link, own.machine)) {
            own.closed = true;
            own.to_server.clear();
            machines[own.machine].server.disconnect(own.client);
            of_client.remove(&(own.machine, own.client));
            touched.push(*id);
        }
    }

    /// Ends a gateway permanently.
    pub fn lose(&mut self, gateway: usize) {
        self.gone.insert(gateway);
        self.cut(|link, _| link.0 == gateway);
    }

    /// Holds a link: nothing passes in either direction, and nothing is lost.
    pub fn hold(&mut self, link: SimLink) {
        self.held.insert(link);
    }

    /// Loses the next message of a stream to a gateway, without breaking the link.
    pub fn lose_next(&mut self, gateway: usize) {
        self.losing.insert(gateway);
    }

    pub fn release(&mut self) {
        self.held.clear();
        self.losing.clear();
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.execute(id);
            self.touched.push(id);
        }
    }

    fn execute(&mut self, id: u64) {
        let Some(own) = self.connections.get_mut(&id) else { return };
        if own.closed || self.held.contains(&own.link) {
            return;
        }
        let (at, client) = (own.machine, own.client);
        let mut bytes = std::mem::take(&mut own.to_server);
        let followers = self.followers(at);
        let server = &mut self.machines[at].server;
        server.set_replicas(followers.len());
        server.receive(client, &mut bytes);
        if let Some(own) = self.connections.get_mut(&id) {
            own.to_server = bytes;
        }
        self.replicate_to(followers);
    }

    /// The servers that immediately replicate what a machine writes.
    fn followers(&self, of: usize) -> Vec<usize> {
        let follows = |(at, own): (usize, &Machine)| {
            let takes = at != of && own.up && !own.lagging && !own.server.is_primary();
            (of == self.leader && takes).then_some(at)
        };
        self.machines.iter().enumerate().filter_map(follows).collect()
    }

    fn replicate_to(&mut self, followers: Vec<usize>) {
        for at in followers {
            if let Ok([own, from]) = self.machines.get_disjoint_mut([at, self.leader]) {
                own.server.follow(&from.server);
            }
        }
    }

    /// Sends the servers' output to their clients. Returns what to wake.
    fn distribute(&mut self) -> Vec<Waker> {
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let told = machine.server.take_told();
            self.touched.extend(told.into_iter().filter_map(|client| self.of_client.get(&(at, client))));
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().filter_map(|id| self.hand_over(id)).collect()
    }

    /// Passes a server's output to one connection. Returns what to wake.
    fn hand_over(&mut self, id: u64) -> Option<Waker> {
        let own = self.connections.get_mut(&id)?;
        if !own.closed {
            let (mut bytes, ends) = self.machines[own.machine].server.take_output(own.client);
            if own.link.1 == ConnectionKind::PubSub && self.losing.contains(&own.link.0) && lose_message(&mut bytes) {
                self.losing.remove(&own.link.0);
            }
            own.to_gateway.append(&mut bytes);
            own.closed |= ends;
        }
        let readable = !own.to_gateway.is_empty() && !self.held.contains(&own.link);
        if readable || own.closed { own.reader.take() } else { None }
    }

    /// Followers replicate, unless they lag.
    pub fn replicate(&mut self, primary: usize) {
        self.leader = primary;
        self.replicate_to(self.followers(primary));
    }
}

/// Removes the first message of a stream from a server's output.
fn lose_message(bytes: &mut Vec<u8>) -> bool {
    let mut at = 0;
    while let Some(len) = read_reply(&bytes[at..]) {
        let reply = &bytes[at..at + len];
        let has = |text: &[u8]| reply.windows(text.len()).any(|part| part == text);
        if has(b"\nmessage\r") && has(b"{t:") {
            bytes.drain(at..at + len);
            return true;
        }
        at += len;
    }
    false
}

/// One connection, as held by the real links.
struct SimWire(u64);

impl fmt::Debug for SimWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wire").field(&self.0).finish()
    }
}

impl AsyncRead for SimWire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        NET.with_borrow_mut(|net| {
            let Some(net) = net.as_mut() else { return Poll::Ready(Ok(())) };
            let Some(own) = net.connections.get_mut(&self.0) else { return Poll::Ready(Ok(())) };
            let held = net.held.contains(&own.link);
            if !own.to_gateway.is_empty() && !held {
                let count = own.to_gateway.len().min(buffer.remaining());
                buffer.put_slice(&own.to_gateway[..count]);
                own.to_gateway.drain(..count);
                return Poll::Ready(Ok(()));
            }
            if own.closed {
                return Poll::Ready(Ok(()));
            }
            own.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl AsyncWrite for SimWire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if NET.with_borrow(Option::is_none) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = with(|net| {
            let own = net.connections.get_mut(&self.0).filter(|own| !own.closed)?;
            own.to_server.extend_from_slice(bytes);
            net.execute(self.0);
            Some(bytes.len())
        });
        Poll::Ready(written.ok_or_else(|| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimWire {
    fn drop(&mut self) {
        NET.with(|net| {
            let Ok(mut net) = net.try_borrow_mut() else { return };
            let Some(net) = net.as_mut() else { return };
            if let Some(own) = net.connections.remove(&self.0)
                && !own.closed
            {
                net.of_client.remove(&(own.machine, own.client));
                net.machines[own.machine].server.disconnect(own.client);
            }
        });
    }
}

/// The network for this thread's links.
pub fn dialler() -> Rc<dyn Network> {
    Rc::new(Dialler)
}
