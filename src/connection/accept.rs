//! Accepts TCP connections and speaks HTTP/1.1 on them, with a time limit on whatever the client has to do. Never
//! looks into a request: that is the router's.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{
    Request, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};

use super::{
    address::{AddressLimits, Permit, Refused},
    hang_up::HangUp,
    http_stream::{Backpressure, Carrier, HttpStream},
    spares::{Place, Spare, Spares},
    turns::{ClientTimeouts, Turns},
};
use crate::{
    config::Proxies,
    descriptors::Descriptors,
    log_limit::LogLimit,
    metrics::{Metrics, TlsHandshake},
    tasks::{Stop, Tasks},
    tls::Acceptor,
};

/// After a failed accept (descriptors used up, mostly) others must get a chance to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait for us in the kernel while we are busy: a reconnect storm comes all at once.
const BACKLOG: i32 = 4_096;

/// How much longer than announced an idle connection is kept: a request that was sent in time must not meet its end.
const KEEP_ALIVE_GRACE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A failed accept is logged once in this time.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How a listener's connections are served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// For a request head.
    pub head_timeout: Duration,
    /// Between two requests of a connection; its clients are told.
    pub idle_timeout: Duration,
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
    pub tls: Option<Tls>,
}

/// TLS on a listener, and what counts how its handshakes end.
#[derive(Clone, Debug)]
pub struct Tls {
    pub acceptor: Acceptor,
    pub metrics: Arc<Metrics>,
}

/// In the extensions of a request: the certificate that its client has shown, which was verified.
#[derive(Clone, Debug)]
pub struct ClientCertificate(pub CertificateDer<'static>);

impl Tls {
    /// Shakes hands within `timeout`. `None` when that failed.
    async fn accept(&self, stream: TcpStream, peer: SocketAddr, timeout: Duration) -> Option<Carrier> {
        let shaken = tokio::time::timeout(timeout, self.acceptor.accept(stream)).await;
        let (result, carrier) = match shaken {
            Ok(Ok(tls)) => (TlsHandshake::Accepted, Some(Carrier::Tls(Box::new(tls)))),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "tls handshake failed");
                (TlsHandshake::Failed, None)
            }
            Err(_) => (TlsHandshake::Timeout, None),
        };
        self.metrics.tls_handshakes_total.of(result).inc();
        carrier
    }
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
    let keeps_alive = place.is_none().then(|| (keep_alive_header(serving.idle_timeout), stop.clone()));
    let carrier = match &serving.tls {
        None => Some(Carrier::Plain(stream)),
        Some(tls) => tokio::select! {
            carrier = tls.accept(stream, peer, serving.head_timeout) => carrier,
            () = hang_up.asked() => None,
        },
    };
    let Some(carrier) = carrier else { return };
    let certificate = carrier.client_certificate().map(ClientCertificate);
    let (asked, turns, backpressure) = (hang_up.clone(), Turns::new(), Backpressure::default());
    let stream = HttpStream::new(carrier, turns.clone(), backpressure.clone(), serving.write_timeout);
    let answering = turns.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(asked.clone());
        request.extensions_mut().insert(backpressure.clone());
        certificate.clone().map(|certificate| request.extensions_mut().insert(certificate));
        if let Some(has_asked) = &has_asked {
            has_asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Spare);
        }
        answering.asked();
        let keep_alive = keeps_alive.as_ref().filter(|(_, stop)| !stop.stopping()).map(|(header, _)| header.clone());
        let keep_alive = keep_alive.filter(|_| is_kept(&request));
        let (mut router, turns) = (router.clone(), answering.clone());
        async move {
            let mut response = tower_service::Service::call(&mut router, request).await.into_response_infallible();
            if let Some(header) = keep_alive
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
                && !response.headers().contains_key(header::CONNECTION)
            {
                response.headers_mut().insert(KEEP_ALIVE, header);
            }
            Ok::<_, Infallible>(turns.answer(response))
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            // One that has sent its request and shut its side still waits for the response.
            .half_close(true)
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
    let timeouts = ClientTimeouts { head: serving.head_timeout, idle: serving.idle_timeout + KEEP_ALIVE_GRACE };
    tokio::select! {
        biased;
        ended = ended => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "http connection ended");
            }
        }
        () = given_up(&hang_up, place.as_ref()) => tracing::debug!(%peer, "http connection ended by this side"),
        () = turns.over(timeouts) => tracing::debug!(%peer, "http connection ended: no request came in time"),
    }
    // Only now, when the descriptor is closed.
    drop((place, permit));
}

/// Resolves when this side ends the connection.
async fn given_up(hang_up: &HangUp, place: Option<&Place>) {
    hang_up.asked().await;
    if let Some(place) = place {
        place.given_up().await;
    }
}

/// Says how long the connection is kept for another request, in whole seconds.
fn keep_alive_header(idle_timeout: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("timeout={}", idle_timeout.as_secs()))
        .unwrap_or(HeaderValue::from_static("timeout=0"))
}

/// Whether the client keeps the connection after this request (RFC 9112, 9.3).
fn is_kept(request: &Request<Body>) -> bool {
    let mut options = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut says =
        |wanted: &str| options.any(|line| line.split(',').any(|option| option.trim().eq_ignore_ascii_case(wanted)));
    match request.version() {
        Version::HTTP_10 => says("keep-alive"),
        _ => !says("close"),
    }
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
