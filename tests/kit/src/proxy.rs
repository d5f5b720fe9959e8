//! A TCP proxy between a replica and a server, for network faults. Never changes a byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tickgate::tasks::{Stop, Tasks};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes, with this delay.
    Pass {
        /// Added to each direction.
        delay: Duration,
    },
    /// Everything passes, at this many bytes per second in each direction.
    Throttle {
        /// Per direction.
        bytes_per_second: u32,
    },
    /// Connections stay open, and nothing passes.
    BlackHole,
    /// Nothing from the server reaches the client.
    Deaf,
    /// Nothing from the client reaches the server.
    Mute,
    /// New and existing connections are closed at once.
    Refuse,
}

impl Weather {
    /// As if there were no proxy.
    pub const CLEAR: Self = Self::Pass { delay: Duration::ZERO };
}

/// The direction of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Way {
    /// What happens to bytes in this direction.
    const fn under(self, weather: Weather) -> Weather {
        match (weather, self) {
            (Weather::Deaf, Self::ToClient) | (Weather::Mute, Self::ToServer) => Weather::BlackHole,
            (Weather::Deaf, Self::ToServer) | (Weather::Mute, Self::ToClient) => Weather::CLEAR,
            (weather, _) => weather,
        }
    }
}

/// Forwards connections to one loopback port.
pub struct Proxy {
    /// The address on which it listens.
    pub address: SocketAddr,
    target: Arc<AtomicU16>,
    /// For connections made from now on.
    new: watch::Sender<Weather>,
    /// For all connections that existed at the last change.
    old: watch::Sender<(u64, Weather)>,
    tasks: Tasks,
}

impl Proxy {
    /// Listens on a free loopback port.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (new, old) = (watch::Sender::new(Weather::CLEAR), watch::Sender::new((0, Weather::CLEAR)));
        let target = Arc::new(AtomicU16::new(target));
        let tasks = Tasks::new();
        tasks.spawn("proxy", accept(listener, Arc::clone(&target), new.clone(), old.clone(), tasks.clone()));
        Self { address, target, new, old, tasks }
    }

    /// Forwards connections made from now on to another port.
    pub fn retarget(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// The proxy as a Redis address.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Changes the weather of all connections, old and new.
    pub fn set(&self, weather: Weather) {
        self.new.send_replace(weather);
        self.change_old(weather);
    }

    /// Changes the weather of the existing connections only: new ones pass.
    pub fn change_old(&self, weather: Weather) {
        self.old.send_modify(|(number, old)| (*number, *old) = (*number + 1, weather));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Weather::Refuse);
        let tasks = self.tasks.clone();
        self.tasks.spawn("proxy end", async move {
            tasks.end(Duration::ZERO).await;
        });
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<AtomicU16>,
    new: watch::Sender<Weather>,
    old: watch::Sender<(u64, Weather)>,
    tasks: Tasks,
) {
    let mut stop = tasks.stop();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        let Ok((client, _)) = client else { continue };
        let weather = *new.borrow();
        if weather == Weather::Refuse {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await else { continue };
        // A proxy adds no delay of its own.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let sky = Sky { begun: weather, since: old.borrow().0, old: old.subscribe() };
        let sky = Arc::new(sky);
        let up = pass(client_read, server_write, Arc::clone(&sky), Way::ToServer, tasks.stop());
        tasks.spawn("proxy up", up);
        tasks.spawn("proxy down", pass(server_read, client_write, sky, Way::ToClient, tasks.stop()));
    }
}

/// The weather of one connection: as at its start, until the weather of old connections is changed.
struct Sky {
    begun: Weather,
    since: u64,
    old: watch::Receiver<(u64, Weather)>,
}

impl Sky {
    fn now(&self) -> Weather {
        let (number, weather) = *self.old.borrow();
        if number > self.since { weather } else { self.begun }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: Arc<Sky>, way: Way, mut stop: Stop) {
    tokio::select! {
        () = carry(&mut from, &mut to, &sky, way) => {}
        () = until(&sky, |weather| weather == Weather::Refuse) => {}
        () = stop.wait() => {}
    }
}

async fn carry(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, sky: &Sky, way: Way) {
    let mut buffer = vec![0; 16 * 1024];
    let open = |weather| way.under(weather) != Weather::BlackHole;
    loop {
        until(sky, open).await;
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        match way.under(sky.now()) {
            Weather::Pass { delay } if !delay.is_zero() => sleep(delay).await,
            Weather::Throttle { bytes_per_second } => {
                let bytes = u32::try_from(count).unwrap_or(u32::MAX);
                sleep(Duration::from_secs(1) * bytes / bytes_per_second.max(1)).await;
            }
            // What was read into a black hole is delivered when it closes, like TCP retransmissions.
            _ => until(sky, open).await,
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits for weather of a kind.
async fn until(sky: &Sky, is: impl Fn(Weather) -> bool) {
    let mut changes = sky.old.clone();
    while !is(sky.now()) {
        // The proxy outlives its connections' tasks.
        let _ = changes.changed().await;
    }
}
