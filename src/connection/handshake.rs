//! Checks a request head for a WebSocket handshake and extracts the credentials, without I/O. Never exposes a token:
//! credentials are [`Secret`]s, and refusals contain only fixed texts.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, Version,
    header::{self, HeaderName, HeaderValue},
    http::{request::Parts, uri::Authority},
};
use tickgate_wire::{command::SubscribeOptions, model::SessionSecret};

use super::{
    malformed::MalformedRequest,
    query::{self, Query},
};
use crate::config::{LOOPBACK_ORIGINS, Secret, is_loopback_origin};

/// The supported sub-protocol.
pub const PROTOCOL: &str = "tickgate.v1";
/// Prefix of a token among the sub-protocols: apart from the URL, the only place where browsers can send one.
const BEARER_PROTOCOL: &str = "bearer.";
/// RFC 6455, section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A valid handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// What the 101 response contains.
    pub upgrade: Upgrade,
    /// How the client learns that it is refused.
    pub told: RefusalDelivery,
    /// The first credential in the order of [`Credential`].
    pub credential: Credential,
    /// `?since=` and `?last=`: where channels that the endpoint subscribes automatically start.
    pub begin: SubscribeOptions,
    /// `?session=`: the session to take over.
    pub session: Option<SessionSecret>,
    /// Names of unknown parameters, bounded.
    pub ignored: Vec<String>,
}

/// How a client learns that it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalDelivery {
    /// By the HTTP status.
    Status,
    /// By a Close frame: the request has an `Origin`, and a browser cannot see the status of a failed upgrade.
    Close,
    /// By a notice and a Close frame: the client offered the sub-protocol of this server.
    Notice,
}

/// The headers of the 101 response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Accept`.
    pub accept: HeaderValue,
    /// `Sec-WebSocket-Protocol`, if the client offered a supported one.
    pub protocol: Option<&'static str>,
}

/// A client's credentials: the first of `Authorization`, the sub-protocol, `?token=`, `?ticket=`, `X-API-Key`, and the
/// announcement of a first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// Announced: an `auth` message follows (`?auth=message`, or the sub-protocol without a bearer).
    Deferred,
    /// A JWT or an API key, in `Authorization`.
    Bearer(Secret),
    /// A JWT in the sub-protocol or query, where API keys are refused because logs and browser histories keep them.
    Token(Secret),
    /// A single-use ticket for a token.
    Ticket(Secret),
    /// A backend's key.
    ApiKey(Secret),
}

/// Why a request is not a valid handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeRefusal {
    /// It cannot be upgraded: always answered over HTTP.
    Malformed(MalformedRequest),
    /// It can be upgraded.
    Refused {
        /// What the 101 response contains, if the refusal is sent as a close.
        upgrade: Upgrade,
        /// How the client learns that it is refused.
        told: RefusalDelivery,
        /// What is wrong.
        why: UpgradeRefusal,
    },
}

/// What is wrong with a request that can be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeRefusal {
    /// A browser sent it from a foreign page.
    ForeignOrigin,
    /// A malformed header or parameter.
    Malformed(MalformedRequest),
}

impl From<MalformedRequest> for HandshakeRefusal {
    fn from(malformed: MalformedRequest) -> Self {
        Self::Malformed(malformed)
    }
}

/// Checks a request for a WebSocket. `origins` are the allowed origins of browsers; `*` allows all.
///
/// # Errors
/// [`HandshakeRefusal`], which determines the response.
pub fn check(parts: &Parts, origins: &[String]) -> Result<Handshake, HandshakeRefusal> {
    check_request_line(parts)?;
    let headers = &parts.headers;
    check_upgrade(headers)?;
    let accept = accept_key(headers)?;
    let offer = OfferedProtocols::read(headers)?;
    let origin = single(headers, &header::ORIGIN, "origin")?;
    let upgrade = Upgrade { accept, protocol: offer.ours.then_some(PROTOCOL) };
    let told = match (offer.ours, origin) {
        (true, _) => RefusalDelivery::Notice,
        (false, Some(_)) => RefusalDelivery::Close,
        (false, None) => RefusalDelivery::Status,
    };
    if origin.is_some_and(|origin| !is_allowed(origin, headers, origins)) {
        return Err(HandshakeRefusal::Refused { upgrade, told, why: UpgradeRefusal::ForeignOrigin });
    }
    let said = query::read(parts.uri.query().unwrap_or_default())
        .and_then(|query| Ok((credential(headers, &offer, &query)?, query)));
    match said {
        Ok((credential, Query { since, last, session, ignored, .. })) => {
            let begin = SubscribeOptions { since, last, ..SubscribeOptions::default() };
            Ok(Handshake { upgrade, told, credential, begin, session, ignored })
        }
        Err(malformed) => Err(HandshakeRefusal::Refused { upgrade, told, why: UpgradeRefusal::Malformed(malformed) }),
    }
}

/// The credentials of a plain HTTP request, such as for Server-Sent Events.
///
/// # Errors
/// [`MalformedRequest`] if a header or parameter is repeated or malformed.
pub fn http_credential(parts: &Parts) -> Result<Credential, MalformedRequest> {
    let query = query::read(parts.uri.query().unwrap_or_default())?;
    credential(&parts.headers, &OfferedProtocols::default(), &query)
}

/// Whether a page from `origin` may connect; `origins` as in `server.allowed_origins`. Scheme and host are compared
/// case-insensitively, because browsers normalize them. An origin that equals the host of the request is not foreign:
/// some non-browser clients send it.
#[must_use]
pub fn is_allowed(origin: &str, headers: &HeaderMap, origins: &[String]) -> bool {
    let is_this = |allowed: &String| match allowed.as_str() {
        "*" => true,
        LOOPBACK_ORIGINS => is_loopback_origin(origin),
        allowed => allowed.eq_ignore_ascii_case(origin),
    };
    origins.iter().any(is_this) || is_host(origin, headers).unwrap_or(false)
}

/// Whether the origin has the host and port that the request is for. A proxy that terminates TLS changes the scheme but
/// not the host.
fn is_host(origin: &str, headers: &HeaderMap) -> Option<bool> {
    let (scheme, page) = origin.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return None,
    };
    let read = |text: &str| {
        let authority: Authority = text.parse().ok().filter(|_| !text.contains('@'))?;
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok()?,
            None if authority.as_str().len() == authority.host().len() => default_port,
            None => return None,
        };
        Some((authority.host().to_ascii_lowercase(), port))
    };
    Some(read(page)? == read(single(headers, &header::HOST, "host").ok()??)?)
}

fn check_request_line(parts: &Parts) -> Result<(), MalformedRequest> {
    if parts.method != Method::GET {
        return Err(MalformedRequest::Method);
    }
    if parts.version != Version::HTTP_11 {
        return Err(MalformedRequest::HttpVersion);
    }
    // Frames must follow the head: a body would be read as one.
    let sized = parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if sized || parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(MalformedRequest::Body);
    }
    Ok(())
}

/// Whether a request asks for a WebSocket. It may still be malformed.
pub(super) fn asks_upgrade(headers: &HeaderMap) -> bool {
    says(headers, &header::UPGRADE, "websocket")
}

/// Whether the client sees a Close frame but not the status of a refusal: a browser, or a client with the sub-protocol.
pub(super) fn hears_closes(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || says(headers, &header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
}

fn says(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    list(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), MalformedRequest> {
    if !asks_upgrade(headers) || !says(headers, &header::CONNECTION, "upgrade") {
        return Err(MalformedRequest::NotAnUpgrade);
    }
    match single(headers, &header::SEC_WEBSOCKET_VERSION, "sec-websocket-version")? {
        Some("13") => Ok(()),
        _ => Err(MalformedRequest::Version),
    }
}

/// The accept key, which proves that the handshake was understood (RFC 6455, 4.2.2).
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, MalformedRequest> {
    let key = single(headers, &header::SEC_WEBSOCKET_KEY, "sec-websocket-key")?.ok_or(MalformedRequest::Key)?;
    let mut bytes = [0; 18];
    if key.len() != 24 || STANDARD.decode_slice(key, &mut bytes) != Ok(16) {
        return Err(MalformedRequest::Key);
    }
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), ACCEPT_GUID].concat());
    HeaderValue::try_from(STANDARD.encode(proof)).map_err(|_| MalformedRequest::Key)
}

/// The sub-protocols that a client offers.
#[derive(Default)]
struct OfferedProtocols<'a> {
    ours: bool,
    bearer: Option<&'a str>,
}

impl<'a> OfferedProtocols<'a> {
    /// Reads the offer. A client that offers sub-protocols fails unless the response selects one, so the supported one
    /// must be among them; the bearer cannot be selected, because the response would repeat the token.
    fn read(headers: &'a HeaderMap) -> Result<Self, MalformedRequest> {
        let mut offer = Self::default();
        let mut any = false;
        for protocol in list(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
            any = true;
            let repeated = match protocol.strip_prefix(BEARER_PROTOCOL) {
                Some(token) => offer.bearer.replace(token).is_some(),
                None => protocol == PROTOCOL && std::mem::replace(&mut offer.ours, true),
            };
            if repeated {
                return Err(MalformedRequest::Protocols);
            }
        }
        // A header that is not text is not listed; no known client sends one.
        let unread = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|value| value.to_str().is_err());
        if unread || (any && !offer.ours) { Err(MalformedRequest::Protocols) } else { Ok(offer) }
    }
}

fn credential(headers: &HeaderMap, offer: &OfferedProtocols, query: &Query) -> Result<Credential, MalformedRequest> {
    let authorization = single(headers, &header::AUTHORIZATION, "authorization")?.and_then(bearer);
    let api_key = single(headers, &API_KEY, "x-api-key")?;
    let secret = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(Secret::new);
    let tokens = [offer.bearer, query.token.as_deref()];
    Ok(if let Some(bearer) = secret(authorization) {
        Credential::Bearer(bearer)
    } else if let Some(token) = tokens.into_iter().find_map(secret) {
        Credential::Token(token)
    } else if let Some(ticket) = secret(query.ticket.as_deref()) {
        Credential::Ticket(ticket)
    } else if let Some(key) = secret(api_key) {
        Credential::ApiKey(key)
    } else if query.auth_by_message || offer.ours {
        Credential::Deferred
    } else {
        Credential::None
    })
}

/// The token of `Bearer <token>`. Other schemes, such as a proxy's password, are ignored.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The only value of a header.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<&'a str>, MalformedRequest> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MalformedRequest::Header(shown));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| MalformedRequest::Header(shown))
}

/// The items of a comma-separated header over all its lines, ignoring lines that are not ASCII.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
