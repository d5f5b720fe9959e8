//! The attacker: connections from a separate address, without credentials, with a count of the bytes sent.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, tcp::OwnedWriteHalf},
    runtime::{Builder, Handle, Runtime},
    task::JoinSet,
};

use crate::support::wire;

/// The source address: limits per address count it separately from other clients.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The lowest priority of a thread.
const NICEST: i32 = 19;

/// The runtime of attackers. They would run on another machine: here they get only the processor time that nothing else
/// needs, so that other clients measure the effect on the gateway, and not the work of the attacker.
pub fn elsewhere() -> &'static Handle {
    static ELSEWHERE: LazyLock<Runtime> = LazyLock::new(|| {
        let give_way = || rustix::process::setpriority_process(None, NICEST).expect("one may always be nicer");
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("attacker").on_thread_start(give_way).enable_all();
        builder.build().expect("a runtime")
    });
    ELSEWHERE.handle()
}

/// Runs an attack on that runtime to its end. Dropping the future ends it at once.
pub async fn launch<T: Send + 'static>(attack: impl Future<Output = T> + Send + 'static) -> T {
    let mut launched = JoinSet::new();
    launched.spawn_on(attack, elsewhere());
    launched.join_next().await.expect("one attack").expect("the attacker to go on")
}

pub struct Attacker {
    gateway: SocketAddr,
    address: Ipv4Addr,
    sent_bytes: AtomicU64,
    visits: AtomicU64,
    failed: AtomicU64,
}

impl Attacker {
    pub fn of(gateway: SocketAddr) -> Arc<Self> {
        Self::at(gateway, ADDRESS)
    }

    /// An attacker with this loopback address.
    pub fn at(gateway: SocketAddr, address: Ipv4Addr) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self { gateway, address, sent_bytes: zero(), visits: zero(), failed: zero() })
    }

    /// Number of bytes sent, including HTTP and WebSocket overhead.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Number of successful visits.
    pub fn visits(&self) -> u64 {
        self.visits.load(Ordering::Relaxed)
    }

    /// Number of visits that the gateway refused or cut short.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// An address for clients of any kind: connections to it reach the gateway from the attacker's address, and are
    /// counted.
    pub async fn door(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let door = listener.local_addr().expect("an address");
        let attacker = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let attacker = Arc::clone(&attacker);
                tokio::spawn(async move { attacker.pass_on(client).await });
            }
        });
        door
    }

    async fn pass_on(&self, client: TcpStream) -> std::io::Result<()> {
        let (mut says, mut hears) = client.into_split();
        let (mut answers, mut asks) = self.dial().await?.into_split();
        let there = async move {
            let mut bytes = vec![0; 1 << 16];
            loop {
                let len = says.read(&mut bytes).await?;
                if len == 0 {
                    return asks.shutdown().await;
                }
                asks.write_all(&bytes[..len]).await?;
                self.sent_bytes.fetch_add(len as u64, Ordering::Relaxed);
            }
        };
        let back = async move {
            tokio::io::copy(&mut answers, &mut hears).await?;
            hears.shutdown().await
        };
        tokio::try_join!(there, back).map(|_| ())
    }

    /// Connects to an endpoint, sends one message, waits for the reply, and disconnects without closing.
    pub async fn visit(&self, path: &str, text: &str) {
        drop(self.stay(path, text).await);
    }

    /// The same without disconnecting: the connection ends when it is dropped. `None` if it was refused or cut short.
    pub async fn stay(&self, path: &str, text: &str) -> Option<TcpStream> {
        let staying = self.connect(path, text).await.ok();
        if staying.is_some() { &self.visits } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
        staying
    }

    /// Connects, sends one message, and returns the whole reply. `None` if it was refused or cut short.
    pub async fn asks(&self, path: &str, text: &str) -> Option<String> {
        let mut stream = self.greeted(path).await.ok()?;
        self.send(&mut stream, &wire::frame(wire::TEXT, text.as_bytes())).await.ok()?;
        let heard = self.hear(&mut stream, b"\"errors\":[").await.ok()?;
        let mut rest = [0; 4096];
        let len = if heard.ends_with(b"[") { stream.read(&mut rest).await.ok()? } else { 0 };
        Some(String::from_utf8_lossy(&[heard, rest[..len].to_vec()].concat()).into_owned())
    }

    /// Sends another message, and reads part of what arrives. `None` if the connection has ended.
    pub async fn says(&self, stream: &mut TcpStream, text: &str) -> Option<()> {
        self.send(stream, &wire::frame(wire::TEXT, text.as_bytes())).await.ok()?;
        let mut heard = [0; 4096];
        (stream.read(&mut heard).await.ok()? > 0).then_some(())
    }

    /// Sends one more message while another task reads. `None` if the connection has ended.
    pub async fn write(&self, writes: &mut OwnedWriteHalf, text: &str) -> Option<()> {
        let frame = wire::frame(wire::TEXT, text.as_bytes());
        writes.write_all(&frame).await.ok()?;
        self.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Some(())
    }

    /// Connects, sends all of these messages, and never reads a reply. `None` if it was refused or cut short.
    pub async fn pester(&self, path: &str, texts: &[&str]) -> Option<TcpStream> {
        let mut stream = self.greeted(path).await.ok()?;
        for text in texts {
            self.send(&mut stream, &wire::frame(wire::TEXT, text.as_bytes())).await.ok()?;
        }
        Some(stream)
    }

    /// Sends a request on a separate connection. Returns the status of the response, `None` if there is none.
    pub async fn ask(&self, request: &str) -> Option<u16> {
        let mut stream = self.dial().await.ok()?;
        self.send(&mut stream, request.as_bytes()).await.ok()?;
        let mut heard = Vec::new();
        while heard.len() < 12 {
            if stream.read_buf(&mut heard).await.ok()? == 0 {
                return None;
            }
        }
        String::from_utf8_lossy(&heard[9..12]).parse().ok()
    }

    /// A connection on which nothing was sent.
    pub async fn dial(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.address, 0).into())?;
        socket.connect(self.gateway).await
    }

    /// An upgraded WebSocket.
    async fn greeted(&self, path: &str) -> std::io::Result<TcpStream> {
        let mut stream = self.dial().await?;
        self.send(&mut stream, wire::upgrade_request(path, "").as_bytes()).await?;
        // The response and the welcome.
        self.hear(&mut stream, b"connection_established").await?;
        Ok(stream)
    }

    async fn connect(&self, path: &str, text: &str) -> std::io::Result<TcpStream> {
        let mut stream = self.greeted(path).await?;
        self.send(&mut stream, &wire::frame(wire::TEXT, text.as_bytes())).await?;
        self.hear(&mut stream, b"\"type\":\"").await?;
        Ok(stream)
    }

    pub async fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        stream.write_all(bytes).await?;
        self.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads until these bytes arrive.
    async fn hear(&self, stream: &mut TcpStream, mark: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut heard = Vec::new();
        while !heard.windows(mark.len()).any(|bytes| bytes == mark) {
            if stream.read_buf(&mut heard).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(heard)
    }
}
