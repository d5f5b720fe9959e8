//! Accepts TCP connections and speaks HTTP/1.1 on them, with a time limit on every request head. Never looks into a
//! request: that is the router's.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::{
    address::{AddressLimits, Permit, Refused},
    hang_up::HangUp,
    spares::{Place, Spare, Spares},
};
use crate::{
    config::Proxies,
    descriptors::Descriptors,
    log_limit::LogLimit,
    tasks::{Stop, Tasks},
};

/// After a failed accept (descriptors used up, mostly) others must get a chance to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait for us in the kernel while we are busy: a reconnect storm comes all at once.
const BACKLOG: i32 = 4_096;

/// A failed accept is logged once in this time.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How a listener's connections are served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// For a request head.
    pub head_timeout: Duration,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    pub descriptors: Descriptors,
    /// Connections served at once when no descriptor is left for clients.
    pub spares: usize,
    /// A connection whose peer takes nothing of what waits for it ends after this time, also when nobody waits for it any
    /// more but the kernel.
    pub write_timeout: Duration,
    /// How many plain connections of one address there may be; those that became WebSockets are counted apart.
    pub plain: Option<PlainLimit>,
}

/// Bounds the connections of one address before they have asked for anything. Proxies are not bounded: they speak for
/// many, whose addresses are known only from their requests.
#[derive(Clone, Debug)]
pub struct PlainLimit {
    pub addresses: AddressLimits,
    pub proxies: Proxies,
}

impl PlainLimit {
    /// Takes a place, given back when what is returned is dropped. `Err` when the address has as many as it may.
    fn take(&self, peer: IpAddr) -> Result<Option<Permit>, Refused> {
        if self.proxies.hops > 0 || self.proxies.ranges.iter().any(|range| range.contains(&peer.to_canonical())) {
            return Ok(None);
        }
        self.addresses.admit(peer, Instant::now()).map(Some)
    }
}

/// Binds a listener with room for a storm.
///
/// # Errors
/// When the address can't be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The other loopback address at the same port, where there is one and it is free: some programs mean `::1` by
/// `localhost`, and try nothing else.
#[must_use]
pub fn bind_beside(listener: &TcpListener) -> Option<TcpListener> {
    let address = listener.local_addr().ok()?;
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    let other = SocketAddr::new(other, address.port());
    bind(other).inspect_err(|error| tracing::debug!(%other, %error, "localhost is one address only")).ok()
}

/// Accepts until `stop`; each connection is a task of its own. Those that wait for another request end at `stop`, the
/// others when their response is written.
pub async fn serve(listener: TcpListener, router: Router, serving: Serving, tasks: Tasks, mut stop: Stop) {
    let (spares, failures) = (Spares::new(serving.spares), LogLimit::new(FAILURE_LOG_INTERVAL));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = serving.plain.as_ref().map_or(Ok(None), |plain| plain.take(peer.ip())) else {
                    // Closed at once, without an answer: that would have to be waited for.
                    continue;
                };
                // A socket that refuses is closed by its client already.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(serving.write_timeout));
                let hang_up = HangUp::default();
                let place = if serving.descriptors.is_reserved(stream.as_raw_fd()) {
                    tokio::select! {
                        place = spares.take(&hang_up) => Some(place),
                        () = stop.wait() => return,
                    }
                } else {
                    None
                };
                let peer = Peer { address: peer, hang_up, place, permit, stop: stop.clone() };
                tasks.spawn("http", speak(stream, peer, router.clone(), serving.clone()));
            }
            Err(error) => {
                if let Some(left_out) = failures.admit(Instant::now()) {
                    let left_out = Some(left_out).filter(|count| *count > 0);
                    tracing::warn!(%error, left_out, "can't accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The other end of a TCP connection.
struct Peer {
    address: SocketAddr,
    hang_up: HangUp,
    /// When it is served from the reserve.
    place: Option<Place>,
    /// Its place among those of its address.
    permit: Option<Permit>,
    /// From then on it is kept for no further request.
    stop: Stop,
}

/// Speaks HTTP until the client leaves, breaks the rules, or becomes a WebSocket.
async fn speak(stream: TcpStream, peer: Peer, router: Router, serving: Serving) {
    let Peer { address: peer, hang_up, place, permit, mut stop } = peer;
    let has_asked = place.as_ref().map(Place::has_asked);
    let asked = hang_up.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(asked.clone());
        if let Some(has_asked) = &has_asked {
            has_asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Spare);
        }
        let mut router = router.clone();
        async move {
            Ok::<_, Infallible>(tower_service::Service::call(&mut router, request).await.into_response_infallible())
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(serving.head_timeout)
            .max_buf_size(serving.head_bytes_max)
            .keep_alive(place.is_none())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let ended = async {
        tokio::select! {
            served = served.as_mut() => return served,
            () = stop.wait() => served.as_mut().graceful_shutdown(),
        }
        served.await
    };
    tokio::select! {
        ended = ended => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "http connection ended");
            }
        }
        () = hang_up.asked() => tracing::debug!(%peer, "http connection ended by this side"),
    }
    // Only now, when the descriptor is closed.
    drop((place, permit));
}

/// A router never fails.
trait Infallibly<T> {
    fn into_response_infallible(self) -> T;
}

impl<T> Infallibly<T> for Result<T, Infallible> {
    fn into_response_infallible(self) -> T {
        match self {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }
}
