//! The subset of HTTP that the handshake requires: the head of an upgrade request, and the response.

use std::{collections::BTreeMap, fmt::Write, io, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestHead {
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Names in lower case; values of the same name are joined by commas.
    headers: BTreeMap<String, String>,
}

impl RequestHead {
    /// Reads a head.
    pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut head = Vec::new();
        let reading = async {
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() == HEAD_BYTES_MAX {
                    return Err(io::Error::other("its head is too long"));
                }
                // Reads byte by byte, so as not to consume anything after the head.
                head.push(stream.read_u8().await?);
            }
            Ok(())
        };
        timeout(HEAD_TIMEOUT, reading).await.unwrap_or_else(|_| Err(io::Error::other("no request came")))?;
        let text = std::str::from_utf8(&head).map_err(|_| io::Error::other("its head is not UTF-8"))?;
        Self::parse(text).ok_or_else(|| io::Error::other(format!("not an HTTP request: {text:?}")))
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let target = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self { path: path.to_owned(), ..Self::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            request.query.insert(name.to_owned(), value.to_owned());
        }
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let joined = request.headers.entry(name.to_lowercase()).or_default();
            let mark = if joined.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(joined, "{mark}{}", value.trim());
        }
        Some(request)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The offered sub-protocols, in order.
    pub(crate) fn protocols(&self) -> Vec<&str> {
        let offered = self.header("sec-websocket-protocol").unwrap_or_default();
        offered.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }

    /// The token of the sub-protocol `bearer.<token>`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        self.protocols().into_iter().find_map(|name| name.strip_prefix("bearer."))
    }

    /// The response that upgrades; `None` if the request is not for a WebSocket.
    pub(crate) fn upgrade(&self, protocol: Option<&str>) -> Option<String> {
        let key = self.header("sec-websocket-key")?;
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
        Some(format!("{head}Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"))
    }

    /// A one-line summary for the trace.
    pub(crate) fn shown(&self) -> String {
        let query: Vec<_> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("GET {}{mark}{} Sec-WebSocket-Protocol: {}", self.path, query.join("&"), self.protocols().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_with_its_protocols() {
        let head = "GET /ws/trading?session=a HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: tickgate.v1\r\n\
            sec-websocket-protocol: bearer.t-1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let request = RequestHead::parse(head).unwrap();
        assert_eq!((request.path.as_str(), request.query["session"].as_str()), ("/ws/trading", "a"));
        assert_eq!(request.protocols(), ["tickgate.v1", "bearer.t-1"]);
        assert_eq!(request.bearer(), Some("t-1"));
        let answer = request.upgrade(Some("tickgate.v1")).unwrap();
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the example of RFC 6455: {answer}");
    }

    #[test]
    fn other_texts_are_not_requests() {
        for head in ["", "POST / HTTP/1.1\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\nno header\r\n\r\n"] {
            assert!(RequestHead::parse(head).is_none(), "{head:?}");
        }
    }
}
