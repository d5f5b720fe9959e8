//! The bytes of one connection, plain or TLS. Does not interpret them.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use mio::{Interest, Registry, Token, event::Source, net::TcpStream};
use rustix::io::ioctl_fionread;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::BenchFailure;

/// The trust settings of a client of a TLS server. Cheap to clone.
pub(crate) type TlsTrust = Arc<ClientConfig>;

/// A certificate for loopback that is valid for one day, generated for one run.
#[derive(Debug)]
pub(crate) struct LoopbackCertificate {
    pub(crate) file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl LoopbackCertificate {
    /// Generates one with `openssl`, which must be installed.
    pub(crate) fn make(dir: &Path) -> Result<Self, BenchFailure> {
        let own = Self { file: dir.join("server.pem"), key_file: dir.join("server.key") };
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=bench \
                     -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let made = Command::new("openssl")
            .args(words.split_whitespace())
            .arg("-out")
            .arg(&own.file)
            .arg("-keyout")
            .arg(&own.key_file)
            .output()?;
        if made.status.success() {
            Ok(own)
        } else {
            Err(BenchFailure::Said(format!("openssl: {}", String::from_utf8_lossy(&made.stderr))))
        }
    }

    /// The trust settings for it.
    pub(crate) fn trust(&self) -> Result<TlsTrust, BenchFailure> {
        let said =
            |error: &dyn std::fmt::Display| BenchFailure::Said(format!("the certificate cannot be used: {error}"));
        let certificate = CertificateDer::from_pem_file(&self.file).map_err(|error| said(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|error| said(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| said(&error))?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        // Every connection does a full handshake.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The bytes of one connection.
#[derive(Debug)]
pub(crate) enum ByteStream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl ByteStream {
    /// Over a socket that is connecting.
    pub(crate) fn new(socket: TcpStream, trust: Option<&TlsTrust>) -> Result<Self, BenchFailure> {
        let Some(trust) = trust else { return Ok(Self::Plain(socket)) };
        Ok(Self::Tls(Box::new(StreamOwned::new(conversation(trust)?, socket))))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref(),
        }
    }

    /// Bytes that arrived and are unread. `None` with TLS, where the number of encrypted bytes reveals little about the
    /// payload.
    pub(crate) fn waiting(&self) -> Option<u64> {
        match self {
            Self::Plain(socket) => ioctl_fionread(socket).ok(),
            Self::Tls(_) => None,
        }
    }

    /// Whether a read that fills less than its buffer has emptied the socket.
    pub(crate) fn is_emptied_by_a_short_read(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_mut(),
        };
        socket.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(crate) fn shutdown(&self) {
        // It may already be closed.
        let _ = self.socket().shutdown(Shutdown::Both);
    }
}

impl Read for ByteStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

fn conversation(trust: &TlsTrust) -> Result<ClientConnection, BenchFailure> {
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    ClientConnection::new(trust.clone(), name).map_err(|error| BenchFailure::Said(format!("TLS: {error}")))
}

/// The response to a GET that closes its connection.
pub(crate) fn get(address: SocketAddr, path: &str, trust: Option<&TlsTrust>) -> Result<String, BenchFailure> {
    let socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    match trust {
        None => {
            let mut socket = socket;
            socket.write_all(request.as_bytes())?;
            socket.read_to_string(&mut text)?;
        }
        Some(trust) => {
            let mut tls = StreamOwned::new(conversation(trust)?, socket);
            tls.write_all(request.as_bytes())?;
            match tls.read_to_string(&mut text) {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(text)
}
