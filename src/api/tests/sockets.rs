//! Behaviour that only real sockets show: both directions at once, and `100 Continue`.

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::ApiReplica;
use crate::tasks::Tasks;

/// Serves one connection on a free port and connects to it.
async fn connect(replica: &ApiReplica, tasks: &Tasks) -> BufReader<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let routes = TowerToHyperService::new(replica.api.operations());
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(accepted), routes);
    tasks.spawn("test-connection", async move {
        let _ = serving.await;
    });
    BufReader::new(client)
}

/// Reads the head of a response: its status and the rest in lower case.
async fn head(client: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(client.read_line(&mut head).await.unwrap(), 0, "closed after {head:?}");
    }
    (head[9..12].parse().unwrap(), head.to_lowercase())
}

/// Reads one chunk of a chunked body; empty at its end.
async fn chunk(client: &mut BufReader<TcpStream>) -> String {
    let mut size = String::new();
    client.read_line(&mut size).await.unwrap();
    let size = usize::from_str_radix(size.trim(), 16).unwrap();
    let mut text = vec![0; size + 2];
    client.read_exact(&mut text).await.unwrap();
    text.truncate(size);
    String::from_utf8(text).unwrap()
}

fn as_chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn a_stream_of_publications_is_answered_while_it_is_sent() {
    let (replica, tasks) = (ApiReplica::new(), Tasks::new());
    let mut client = connect(&replica, &tasks).await;
    let request = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {}\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        replica.key()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await.0, 200);
    for n in 1..=3 {
        let line = format!("{{\"channel\":\"logs\",\"data\":{{\"n\":{n}}}}}\n");
        client.write_all(as_chunk(&line).as_bytes()).await.unwrap();
        let result = chunk(&mut client).await;
        assert!(result.starts_with(&format!("{{\"line\":{n},\"id\":\"")) && result.ends_with('\n'), "{result}");
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(chunk(&mut client).await, "");
}

#[tokio::test]
async fn a_sender_that_expects_100_continue_receives_it_or_a_refusal() {
    let (replica, tasks) = (ApiReplica::new(), Tasks::new());
    let line = "{\"channel\":\"logs\",\"data\":{}}";
    let request = |key: &str| {
        format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            line.len()
        )
    };
    let mut client = connect(&replica, &tasks).await;
    client.write_all(request(&replica.key()).as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await.0, 100);
    client.write_all(line.as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await.0, 200);
    assert!(chunk(&mut client).await.starts_with("{\"line\":1,\"id\":\""));

    let mut stranger = connect(&replica, &tasks).await;
    stranger.write_all(request("wrong").as_bytes()).await.unwrap();
    assert_eq!(head(&mut stranger).await.0, 401, "the body must not be requested");
}

#[tokio::test]
async fn many_lines_written_at_once_get_complete_results_in_order() {
    const LINES: usize = 20_000;
    let (replica, tasks) = (ApiReplica::new(), Tasks::new());
    let client = connect(&replica, &tasks).await;
    let (reader, mut writer) = tokio::io::split(client);
    let head = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {}\r\nContent-Type: application/x-ndjson\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        replica.key()
    );
    let sending = async {
        writer.write_all(head.as_bytes()).await.unwrap();
        for first in (0..LINES).step_by(100) {
            let lines: String =
                (first..first + 100).map(|n| format!("{{\"channel\":\"logs\",\"data\":{{\"n\":{n}}}}}\n")).collect();
            writer.write_all(as_chunk(&lines).as_bytes()).await.unwrap();
        }
        writer.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let reading = async {
        let mut lines = BufReader::new(reader).lines();
        let mut expected = 1;
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("{\"line\":") {
                assert!(line.starts_with(&format!("{{\"line\":{expected},\"id\":\"")), "{line}");
                expected += 1;
            }
        }
        expected - 1
    };
    let ((), results) = tokio::join!(sending, reading);
    assert_eq!(results, LINES);
}
