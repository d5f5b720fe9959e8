//! HTTP towards a server that may be dead, frozen or half gone. Never waits for longer than a publisher would.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::support::replica::API_KEY;

/// A publisher's patience with one request.
const TIMEOUT: Duration = Duration::from_secs(6);

pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub body: String,
}

impl<'a> Request<'a> {
    pub const fn get(path: &'a str) -> Self {
        Self { method: "GET", path, body: String::new() }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// Why there was no whole answer; the request may have been acted on.
pub async fn send(address: SocketAddr, request: &Request<'_>) -> Result<Answer, String> {
    timeout(TIMEOUT, exchange(address, request)).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

async fn exchange(address: SocketAddr, request: &Request<'_>) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|e| text(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let head = hyper::Request::builder()
        .method(request.method)
        .uri(request.path)
        .header(HOST, address.to_string())
        .header("x-api-key", API_KEY)
        .header("content-type", "application/json");
    let whole = head.body(Full::new(Bytes::from(request.body.clone()))).map_err(|e| text(&e))?;
    let answered = async {
        let response = sender.send_request(whole).await.map_err(|e| text(&e))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| text(&e))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // The end of the connection shows in the answer.
        _ = connection => answered.await,
    }
}
