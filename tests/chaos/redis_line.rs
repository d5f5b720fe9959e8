//! Sends commands to a Redis directly, one line at a time, on a separate connection. Never retries.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::support::redis::HARNESS_LOGIN;

/// Sends one line to Redis and waits for its response.
pub async fn say(port: u16, line: &str) {
    let said = answer(port, line).await;
    assert!(!said.starts_with('-'), "{line}: {said}");
}

/// Repeats a command until the response is as expected.
pub async fn told(port: u16, line: &str, is: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is(&answer(port, line).await) {
        assert!(Instant::now() < deadline, "redis does not come that far: {line}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The response to one line, as the harness's user: everything that arrives at once.
pub async fn answer(port: u16, line: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{HARNESS_LOGIN}\r\n").as_bytes()).await?;
        let mut logged_in = [0; 5];
        stream.read_exact(&mut logged_in).await?;
        assert_eq!(&logged_in, b"+OK\r\n", "redis knows the harness");
        stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        let mut answer = vec![0; 64 * 1024];
        let mut count = stream.read(&mut answer).await?;
        // A bulk response starts with its length.
        if answer.first() == Some(&b'$') {
            while !answer[..count].ends_with(b"\r\n") || count < 16 {
                count += stream.read(&mut answer[count..]).await?;
            }
        }
        std::io::Result::Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
    };
    exchange.await.unwrap_or_default()
}

/// Waits until a started server has loaded its files.
pub async fn loaded(port: u16) {
    told(port, "INFO persistence", |info| info.contains("\nloading:0")).await;
}

/// Waits until everything is in the append-only file.
pub async fn rewritten(port: u16) {
    let done = |info: &str| {
        ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_enabled:1"]
            .iter()
            .all(|field| info.contains(field))
    };
    told(port, "INFO persistence", done).await;
}
