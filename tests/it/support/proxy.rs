//! A TCP proxy between a replica and what it talks to, for faults of the network. Never alters a byte it passes on.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    /// Everything passes, as late as told.
    Pass { delay: Duration },
    /// Connections stay open, and nothing passes.
    BlackHole,
    /// New connections are closed at once, old ones as well.
    Refuse,
}

/// Passes connections on to one address.
pub struct Proxy {
    pub address: SocketAddr,
    /// Of connections made from now on.
    new: watch::Sender<Weather>,
    /// Of all connections that were there at the last change.
    old: watch::Sender<(u64, Weather)>,
    tasks: Tasks,
}

impl Proxy {
    /// Listens on a free port of the loopback.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let clear = Weather::Pass { delay: Duration::ZERO };
        let (new, old) = (watch::Sender::new(clear), watch::Sender::new((0, clear)));
        let tasks = Tasks::new();
        tasks.spawn("proxy", accept(listener, target, new.clone(), old.clone(), tasks.clone()));
        Self { address, new, old, tasks }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Changes the weather of all connections, old and new.
    pub fn set(&self, weather: Weather) {
        self.new.send_replace(weather);
        self.change_old(weather);
    }

    /// Changes the weather of the present connections only: new ones pass.
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
    target: u16,
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
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let sky = Sky { begun: weather, since: old.borrow().0, old: old.subscribe() };
        let sky = Arc::new(sky);
        tasks.spawn("proxy up", pass(client_read, server_write, Arc::clone(&sky), tasks.stop()));
        tasks.spawn("proxy down", pass(server_read, client_write, sky, tasks.stop()));
    }
}

/// The weather of one connection: as it was when it began, until the old ones are changed.
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

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: Arc<Sky>, mut stop: Stop) {
    let mut changes = sky.old.clone();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match sky.now() {
            Weather::Refuse => return,
            Weather::BlackHole => {
                tokio::select! {
                    _ = changes.changed() => continue,
                    () = stop.wait() => return,
                }
            }
            Weather::Pass { .. } => {}
        }
        let count = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = changes.changed() => continue,
            () = stop.wait() => return,
        };
        if count == 0 {
            return;
        }
        match sky.now() {
            Weather::Pass { delay } if !delay.is_zero() => sleep(delay).await,
            Weather::Pass { .. } => {}
            // Read, but lost on the way.
            Weather::BlackHole | Weather::Refuse => continue,
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
