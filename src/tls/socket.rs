//! A TLS connection that any task can write to without waiting, and that its own task reads. Data is encrypted
//! immediately; what the kernel does not accept waits here, at most one write.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The server side of one TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsSocket {
    tcp: TcpStream,
    // Held during encryption or decryption; nothing waits under it.
    state: Mutex<TlsState>,
}

#[derive(Debug)]
struct TlsState {
    tls: ServerConnection,
    /// Decrypted data may be unread, about which the kernel would not notify.
    unread: bool,
}

/// The kernel's side, as rustls reads and writes it.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsSocket {
    /// Takes over a connection after its handshake.
    #[must_use]
    pub fn new(tcp: TcpStream, tls: ServerConnection) -> Self {
        Self { tcp, state: Mutex::new(TlsState { tls, unread: true }) }
    }

    /// The underlying connection, for its options and its readiness. Must not be read or written.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Accepts as much as is encrypted in one operation, once earlier data is written.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel has not accepted earlier data; any other error ends the connection.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let tls = &mut self.state.lock().tls;
        flush(tls, &self.tcp)?;
        let count = tls.writer().write_vectored(slices)?;
        match flush(tls, &self.tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    /// Writes data that the kernel has not accepted yet.
    ///
    /// # Errors
    /// `WouldBlock` if some of it still waits; any other error ends the connection.
    pub fn try_flush(&self) -> io::Result<()> {
        flush(&mut self.state.lock().tls, &self.tcp)
    }

    /// Whether data waits for the kernel.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.state.lock().tls.wants_write()
    }

    /// Whether a read may return data; wakes the task when it does.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.lock().unread {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    /// Reads decrypted data; 0 at the end of the connection.
    ///
    /// # Errors
    /// `WouldBlock` if no data is available now; any other error ends the connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.state.lock();
        loop {
            match state.tls.reader().read(buffer) {
                Ok(count) => {
                    state.unread = count == buffer.len();
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Closed without a `close_notify` alert.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            state.unread = false;
            if state.tls.read_tls(&mut Kernel(&self.tcp))? == 0 {
                return Ok(0);
            }
            let processed = state.tls.process_new_packets();
            // A confirmation of a key update, or the alert that explains the failure. What cannot be sent now is sent
            // with the next write.
            let _ = flush(&mut state.tls, &self.tcp);
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Sends `close_notify`, and closes this side.
    pub fn finish(&self) {
        let tls = &mut self.state.lock().tls;
        tls.send_close_notify();
        // The client may have closed first, and one that reads nothing cannot receive the alert.
        let _ = flush(tls, &self.tcp);
        let _ = SockRef::from(&self.tcp).shutdown(Shutdown::Write);
    }

    /// Whether a write would make progress; wakes the task when it would.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }
}

fn flush(tls: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(&mut Kernel(tcp))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{future::poll_fn, sync::Arc};

    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    };
    use tickgate_kit::certificates::Authority;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;
    use crate::{
        config::{Identity, Secret, Tls},
        tls::{Acceptor, provider},
    };

    /// Both ends of a loopback connection.
    pub(crate) async fn pair() -> (TlsSocket, TlsStream<TcpStream>) {
        let authority = Authority::new();
        let issued = authority.issue("server", "DNS:gateway", 2);
        let identity = Identity { certificate: issued.certificate().into(), key: Secret::new(&issued.key()) };
        let acceptor = Acceptor::new(&Tls { identity, client_authority: None }).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("gateway").unwrap();
        let (near, far) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
        let (tcp, session) = near.unwrap().into_inner();
        (TlsSocket::new(tcp, session), far.unwrap())
    }

    #[tokio::test]
    async fn data_that_the_kernel_does_not_accept_waits_and_is_not_lost() {
        let (near, mut far) = pair().await;
        let sent: Vec<u8> = (0..24_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut at = 0;
        let full = loop {
            let end = at + 70_000;
            match near.try_write(&[IoSlice::new(&sent[at..at + 1]), IoSlice::new(&sent[at + 1..end])]) {
                Ok(count) => at += count,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(full, io::ErrorKind::WouldBlock);
        assert!(near.has_pending() && near.try_flush().is_err());
        let expected = sent.clone();
        let read = async {
            let mut received = vec![0; expected.len()];
            far.read_exact(&mut received).await.unwrap();
            assert!(received == expected);
            assert_eq!(far.read(&mut [0; 9]).await.unwrap(), 0, "a proper end");
        };
        let write = async {
            while at < sent.len() {
                poll_fn(|cx| near.poll_write_ready(cx)).await.unwrap();
                at += near.try_write(&[IoSlice::new(&sent[at..])]).unwrap_or(0);
            }
            while near.try_flush().is_err() {
                poll_fn(|cx| near.poll_write_ready(cx)).await.unwrap();
            }
            near.finish();
        };
        tokio::join!(read, write);
    }

    #[tokio::test]
    async fn all_received_data_is_read_including_data_decrypted_earlier() {
        let (near, mut far) = pair().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 249) as u8).collect();
        let write = async {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let read = async {
            let (mut received, mut buffer) = (Vec::new(), [0; 1_000]);
            loop {
                poll_fn(|cx| near.poll_read_ready(cx)).await.unwrap();
                match near.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => received.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert!(received == sent);
        };
        tokio::join!(write, read);
    }

    #[tokio::test]
    async fn bytes_that_are_not_tls_end_the_connection() {
        let (near, far) = pair().await;
        let (mut tcp, _) = far.into_inner();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = loop {
            poll_fn(|cx| near.poll_read_ready(cx)).await.unwrap();
            match near.try_read(&mut [0; 100]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
