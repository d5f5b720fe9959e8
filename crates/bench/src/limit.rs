//! The bare-send limit: a server that only does one `send` of a ready frame per subscriber. A gateway that writes one
//! message per call cannot be faster on this machine under the same load.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tickgate_wire::websocket::{self, Opcode};

use crate::{BenchFailure, stamp::find};

const LISTENER: Token = Token(usize::MAX);
/// The response to every upgrade; the load always sends the same key.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Serves until it is killed.
pub(crate) fn serve(address: SocketAddr) -> Result<(), BenchFailure> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut limit = Limit { peers: Vec::new(), buffer: vec![0; 256 * 1024] };
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    socket.set_nodelay(true)?;
                    poll.registry().register(&mut socket, Token(limit.peers.len()), Interest::READABLE)?;
                    limit.peers.push(Some(LimitPeer { socket, head: Vec::new(), role: PeerRole::Unknown }));
                }
            } else {
                limit.read(event.token().0);
            }
        }
    }
}

struct LimitPeer {
    socket: TcpStream,
    /// Bytes of an incomplete request head or line.
    head: Vec<u8>,
    role: PeerRole,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PeerRole {
    Unknown,
    Subscriber,
    Publisher,
}

struct Limit {
    peers: Vec<Option<LimitPeer>>,
    buffer: Vec<u8>,
}

impl Limit {
    fn read(&mut self, number: usize) {
        let mut lines = Vec::new();
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        loop {
            match peer.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(len) if len > 0 => peer.take(&self.buffer[..len], &mut lines),
                _ => {
                    self.peers[number] = None;
                    break;
                }
            }
        }
        for frame in lines {
            self.send(&frame);
        }
    }

    /// The measured loop. If a socket is full, the message is lost, and the load generator reports it.
    fn send(&self, frame: &[u8]) {
        for peer in self.peers.iter().flatten().filter(|peer| peer.role == PeerRole::Subscriber) {
            let _ = (&peer.socket).write(frame);
        }
    }
}

impl LimitPeer {
    fn take(&mut self, bytes: &[u8], frames: &mut Vec<Vec<u8>>) {
        if self.role == PeerRole::Subscriber {
            // A Close frame; everything else is ignored.
            if bytes.first() == Some(&0x88) {
                let _ = self.socket.shutdown(std::net::Shutdown::Both);
            }
            return;
        }
        self.head.extend_from_slice(bytes);
        if self.role == PeerRole::Unknown {
            let Some(end) = find(&self.head, b"\r\n\r\n") else { return };
            let subscribes = find(&self.head[..end], b"Upgrade: websocket").is_some();
            self.head.drain(..end + 4);
            self.role = if subscribes { PeerRole::Subscriber } else { PeerRole::Publisher };
            if subscribes {
                let _ = self.socket.write(UPGRADED);
                return;
            }
        }
        // Chunk heads contain no brace, so every line with one is a publication.
        let Some(last) = self.head.iter().rposition(|byte| *byte == b'\n') else { return };
        let lines: Vec<u8> = self.head.drain(..=last).collect();
        for line in lines.split(|byte| *byte == b'\n') {
            const DATA: &[u8] = b"\"data\":";
            if let (Some(start), Some(end)) = (find(line, DATA), line.iter().rposition(|byte| *byte == b'}')) {
                let payload = &line[start + DATA.len()..end];
                let mut frame = Vec::new();
                websocket::put_head(&mut frame, Opcode::Text, payload.len());
                frame.extend_from_slice(payload);
                frames.push(frame);
            }
        }
        if find(&lines, b"0\r\n").is_some_and(|at| at == 0) {
            let _ = self.socket.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    }
}
