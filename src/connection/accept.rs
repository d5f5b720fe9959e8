//! Accepts TCP connections and serves HTTP/1.1 on them, with timeouts for everything that a client has to do. Never
//! inspects a request: the router does.

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
    abort::AbortHandle,
    address::{AddressLimits, AddressRefusal, Permit},
    http_stream::{Backpressure, Carrier, HttpStream},
    spares::{SpareConnection, SpareConnections, SparePlace},
    turns::{ClientTimeouts, ConnectionTurns},
};
use crate::{
    config::Proxies,
    descriptors::Descriptors,
    log_limit::LogLimit,
    metrics::{Metrics, TlsHandshake},
    tasks::{Stop, Tasks},
    tls::Acceptor,
};

/// Pause after a failed accept (mostly: out of descriptors), so that other connections can close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Length of the kernel's accept queue: in a reconnect storm, all clients connect at once.
const BACKLOG: i32 = 4_096;

/// How much longer than announced an idle connection is kept, so that a request sent in time is not lost.
const KEEP_ALIVE_GRACE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Minimum time between two log lines about failed accepts.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How a listener's connections are served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Timeout for a request head.
    pub head_timeout: Duration,
    /// Timeout between two requests of a connection, announced to clients.
    pub idle_timeout: Duration,
    /// Maximum size of a request head, in bytes.
    pub head_bytes_max: usize,
    /// Limits the open connections of the process.
    pub descriptors: Descriptors,
    /// Maximum number of concurrent connections when no descriptor is left for clients.
    pub spares: usize,
    /// A connection whose peer accepts no pending data ends after this time, even if only the kernel still holds it.
    pub write_timeout: Duration,
    /// Limit on the plain connections of one address; connections that became WebSockets are counted separately.
    pub plain: Option<PlainLimit>,
    /// `None`: plain HTTP.
    pub tls: Option<ListenerTls>,
}

/// TLS on a listener, and the counter of handshake results.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// The certificates in force.
    pub acceptor: Acceptor,
    /// Counts the results of TLS handshakes.
    pub metrics: Arc<Metrics>,
}

/// A request extension: the client's verified certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate(pub CertificateDer<'static>);

impl ListenerTls {
    /// Performs the TLS handshake within `timeout`. `None` if it fails.
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

/// Limits the connections of one address before their first request. Proxies are exempt: they forward many clients,
/// whose addresses are known only from their requests.
#[derive(Clone, Debug)]
pub struct PlainLimit {
    /// The connections of each address.
    pub addresses: AddressLimits,
    /// The exempt addresses.
    pub proxies: Proxies,
}

impl PlainLimit {
    /// Takes a place, which is released when the permit is dropped.
    ///
    /// # Errors
    /// [`AddressRefusal`] if the address is at its limit.
    fn take(&self, peer: IpAddr) -> Result<Option<Permit>, AddressRefusal> {
        if self.proxies.hops > 0 || self.proxies.ranges.iter().any(|range| range.contains(&peer.to_canonical())) {
            return Ok(None);
        }
        self.addresses.admit(peer, Instant::now()).map(Some)
    }
}

/// Binds a listener with a long accept queue.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The other loopback address at the same port, if it exists and is free: some programs resolve `localhost` to `::1`
/// only.
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

/// Accepts until `stop`; each connection is a separate task. Idle connections end at `stop`, the others once their
/// response is written.
pub async fn serve(listener: TcpListener, router: Router, serving: Serving, tasks: Tasks, mut stop: Stop) {
    let (spares, failures) = (SpareConnections::new(serving.spares), LogLimit::new(FAILURE_LOG_INTERVAL));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = serving.plain.as_ref().map_or(Ok(None), |plain| plain.take(peer.ip())) else {
                    // Closed without a response, which would have to be awaited.
                    continue;
                };
                // Fails only if the client has already closed the connection.
                let _ = stream.set_nodelay(true);
                let hang_up = AbortHandle::default();
                let place = if serving.descriptors.is_reserved(stream.as_raw_fd()) {
                    tokio::select! {
                        place = spares.take(&hang_up) => Some(place),
                        () = stop.wait() => return,
                    }
                } else {
                    None
                };
                let peer = RemotePeer { address: peer, hang_up, place, permit, stop: stop.clone() };
                tasks.spawn("http", speak(stream, peer, router.clone(), serving.clone()));
            }
            Err(error) => {
                if let Some(left_out) = failures.admit(Instant::now()) {
                    let left_out = Some(left_out).filter(|count| *count > 0);
                    tracing::warn!(%error, left_out, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The other end of a TCP connection.
struct RemotePeer {
    address: SocketAddr,
    hang_up: AbortHandle,
    /// Set if it is served from the reserve.
    place: Option<SparePlace>,
    /// The slot in the count of its address.
    permit: Option<Permit>,
    /// Once stopped, no further request is read.
    stop: Stop,
}

/// Serves HTTP until the client leaves, violates a limit, or becomes a WebSocket.
async fn speak(stream: TcpStream, peer: RemotePeer, router: Router, serving: Serving) {
    let RemotePeer { address: peer, hang_up, place, permit, mut stop } = peer;
    let has_asked = place.as_ref().map(SparePlace::has_asked);
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
    let (asked, turns, backpressure) = (hang_up.clone(), ConnectionTurns::new(), Backpressure::default());
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
            request.extensions_mut().insert(SpareConnection);
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
            // A client that has shut down its sending side still waits for the response.
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
    // Not earlier: by now the descriptor is closed.
    drop((place, permit));
}

/// Resolves when this side ends the connection.
async fn given_up(hang_up: &AbortHandle, place: Option<&SparePlace>) {
    hang_up.asked().await;
    if let Some(place) = place {
        place.given_up().await;
    }
}

/// The header that announces the idle timeout, in whole seconds.
fn keep_alive_header(idle_timeout: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("timeout={}", idle_timeout.as_secs()))
        .unwrap_or(HeaderValue::from_static("timeout=0"))
}

/// Whether the client keeps the connection open after this request (RFC 9112, 9.3).
fn is_kept(request: &Request<Body>) -> bool {
    let mut options = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut says =
        |wanted: &str| options.any(|line| line.split(',').any(|option| option.trim().eq_ignore_ascii_case(wanted)));
    match request.version() {
        Version::HTTP_10 => says("keep-alive"),
        _ => !says("close"),
    }
}

/// Removes the error type of the router, which never fails.
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
