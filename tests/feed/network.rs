//! The network between the gateway and the exchange: names that do not resolve, TLS that fails, proxies that respond
//! with HTML.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    audience::FeedClient,
    exchange::ExchangeProcess,
    nothing,
    stage::{FeedStage, StageChanges, settings, unless},
    support::{
        certificates::{Authority, Issued},
        redis::RedisServer,
        replica::TestReplica,
    },
};

/// The feed reports that it cannot connect, retries slowly, and stops in time.
async fn unreachable(exchange: &ExchangeProcess, lines: &str, reason_in_log: &str) {
    let redis = RedisServer::start();
    let mut replica = TestReplica::process_with(&redis, &settings(exchange, lines), None, &[]).await;
    let mut audience = FeedClient::of(&replica, &["BTCUSDT"]).await;
    let is_told = |seen: &FeedClient| matches!(seen.state(), "stale" | "down");
    let mut wrong = audience.until("the failure is reported", 15, is_told).await;
    audience.watch(4.0).await;
    let attempts = replica.metric("tickgate_feed_reconnects_total{reason=\"lost\"}").await;
    wrong.extend(unless((1.0..=10.0).contains(&attempts), format!("{attempts} attempts in five seconds")));
    wrong.extend(unless(replica.log().contains(reason_in_log), format!("the log does not say {reason_in_log:?}")));
    wrong.extend(unless(
        replica.get("/readyz").await.status == 200,
        "an unreachable exchange makes the replica not ready",
    ));
    replica.drain();
    replica.ended().await;
    nothing(wrong);
}

pub async fn a_host_name_that_does_not_resolve_is_reported() {
    let exchange = ExchangeProcess::start(&[]);
    let lines = "stream_url = \"ws://exchange.invalid:9443\"\nrest_url = \"http://exchange.invalid:9443\"";
    unreachable(&exchange, lines, "cannot resolve the host").await;
}

pub async fn a_failed_tls_handshake_is_reported() {
    let exchange = ExchangeProcess::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let speaker = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let lines = format!("stream_url = \"wss://{address}\"\nrest_url = \"https://{address}\"");
    unreachable(&exchange, &lines, "the connection to the exchange ended").await;
    speaker.abort();
}

/// Terminates TLS in front of the exchange.
async fn secured(exchange: &ExchangeProcess, issued: &Issued) -> (SocketAddr, JoinHandle<()>) {
    let chain = [CertificateDer::from_pem_file(&issued.certificate_file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&issued.key_file).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.into(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (listener.local_addr().unwrap(), exchange.address.clone());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, task)
}

/// The address behind TLS, for streams and REST.
fn secure_urls(address: SocketAddr) -> String {
    format!("stream_url = \"wss://{address}\"\nrest_url = \"https://{address}\"")
}

pub async fn an_untrusted_certificate_is_reported() {
    let (exchange, authority) = (ExchangeProcess::start(&[]), Authority::new());
    let (address, task) = secured(&exchange, &authority.issue("exchange", "IP:127.0.0.1", 2)).await;
    unreachable(&exchange, &secure_urls(address), "UnknownIssuer").await;
    assert_eq!(exchange.connects().await, 0, "the exchange was reached");
    task.abort();
}

pub async fn a_trusted_certificate_is_accepted() {
    let (exchange, redis, authority) = (ExchangeProcess::start(&[]), RedisServer::start(), Authority::new());
    let (address, task) = secured(&exchange, &authority.issue("exchange", "IP:127.0.0.1", 2)).await;
    let file = authority.file().display().to_string();
    let lines = settings(&exchange, &secure_urls(address));
    let replica = TestReplica::process_in(&redis, &lines, &[("SSL_CERT_FILE", &file)]).await;
    let mut audience = FeedClient::of(&replica, &["BTCUSDT", "ADAUSDT"]).await;
    let both = |seen: &FeedClient| seen.is_live("BTCUSDT") && seen.is_live("ADAUSDT");
    let mut wrong = audience.until("data flows", 25, both).await;
    wrong.extend(audience.judged(&exchange).await);
    wrong.extend(exchange.violations().await);
    task.abort();
    nothing(wrong);
}

pub async fn a_proxy_that_answers_html_is_reported() {
    let exchange = ExchangeProcess::start(&["--set", "upgrade-status=200", "--set", "rest-error=html"]);
    unreachable(&exchange, "", "refused with HTTP 200").await;
}

/// The list of symbols is HTML: streams are subscribed anyway, and nothing is reported as unknown.
pub async fn without_the_list_of_symbols_followed_ones_are_live() {
    let mut stage =
        FeedStage::set(StageChanges { exchange: &["--set", "rest-error=html"], ..StageChanges::default() }).await;
    let wrong = stage.live().await;
    assert!(stage.audience.named("symbols_unknown").is_empty());
    nothing(wrong);
}
