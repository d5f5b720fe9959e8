//! Publications as lines of one endless request: results during the request, order, and one invalid line among valid
//! ones.

use std::convert::Infallible;

use axum::{body::Body, http::Method};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ApiReplica;

const LINES: Option<&str> = Some("application/x-ndjson");

/// A request whose body is sent in pieces and whose results are read one by one.
struct StreamedRequest {
    input: Option<mpsc::Sender<String>>,
    output: axum::body::BodyDataStream,
    waiting: String,
}

impl StreamedRequest {
    async fn open(replica: &ApiReplica) -> Self {
        let (input, pieces) = mpsc::channel::<String>(1_000);
        let body = stream::unfold(pieces, async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((Ok::<_, Infallible>(piece), pieces))
        });
        let response = replica.ops_response(Method::POST, "/api/v1/publish", LINES, Body::from_stream(body)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { input: Some(input), output: response.into_body().into_data_stream(), waiting: String::new() }
    }

    async fn send(&self, piece: &str) {
        self.input.as_ref().unwrap().send(piece.to_owned()).await.unwrap();
    }

    fn end(&mut self) {
        self.input = None;
    }

    /// The next result, or `None` at the end of the response.
    async fn result(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.waiting.split_once('\n') {
                let result = serde_json::from_str(line).unwrap();
                self.waiting = rest.to_owned();
                return Some(result);
            }
            let chunk = self.output.next().await?.unwrap();
            self.waiting.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

fn line(n: usize) -> String {
    format!("{{\"channel\":\"logs\",\"data\":{{\"n\":{n}}}}}\n")
}

#[tokio::test]
async fn results_arrive_while_the_input_is_still_being_sent() {
    let replica = ApiReplica::new();
    let mut stream = StreamedRequest::open(&replica).await;
    for n in 1..=3 {
        let text = line(n);
        let (head, tail) = text.split_at(10);
        stream.send(head).await;
        stream.send(tail).await;
        let result = stream.result().await.unwrap();
        assert_eq!((&result["line"], &result["duplicate"]), (&json!(n), &json!(false)));
    }
    stream.end();
    assert_eq!(stream.result().await, None);
}

#[tokio::test]
async fn thousands_of_lines_keep_their_order_and_each_has_a_result() {
    let replica = ApiReplica::new();
    let body: String = (1..=5_000).map(line).collect();
    let answer = replica.ops(Method::POST, "/api/v1/publish", LINES, body).await;
    let results: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 5_000);
    let seq = |result: &Value| result["id"].as_str().unwrap().split_once('-').unwrap().1.parse::<usize>().unwrap();
    let first = seq(&results[0]);
    for (at, result) in results.iter().enumerate() {
        assert_eq!((&result["line"], seq(result)), (&json!(at + 1), first + at));
    }
    let history = replica.ops_get("/api/v1/topics/logs/history?last=3").await.json();
    let newest: Vec<_> = history["messages"].as_array().unwrap().iter().map(|m| m["data"]["n"].clone()).collect();
    assert_eq!(newest, [json!(4_998), json!(4_999), json!(5_000)]);
}

#[tokio::test]
async fn an_invalid_line_gets_an_error_and_the_stream_continues() {
    let replica = ApiReplica::with(|config| config.limits.payload_bytes_max = 100);
    let long = format!("{{\"channel\":\"logs\",\"data\":{{\"t\":\"{}\"}}}}", "x".repeat(101));
    let endless = "y".repeat(20_000);
    let body = format!("{}nonsense\n\n{long}\n{endless}\n{}", line(1), line(6).trim_end());
    let answer = replica.ops(Method::POST, "/api/v1/publish", LINES, body).await;
    let results: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = results.iter().map(|r| (r["line"].as_u64().unwrap(), r["error"].as_str())).collect();
    let (bad, big) = (Some("invalid_message"), Some("message_too_big"));
    assert_eq!(seen, [(1, None), (2, bad), (4, big), (5, big), (6, None)], "an empty line has no result");
    assert_eq!((&results[1]["status"], &results[2]["status"]), (&json!(400), &json!(413)));
}

#[tokio::test]
async fn the_drain_ends_a_stream_after_the_results_of_accepted_lines() {
    let replica = ApiReplica::new();
    let mut stream = StreamedRequest::open(&replica).await;
    stream.send(&line(1)).await;
    assert_eq!(stream.result().await.unwrap()["line"], 1);
    replica.state.lifecycle.drain();
    assert_eq!(stream.result().await, None);
    let answer = replica.ops(Method::POST, "/api/v1/publish", LINES, line(2)).await;
    answer.problem(503, "try_again_later");
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn the_incomplete_last_line_of_a_broken_request_is_not_published() {
    let replica = ApiReplica::new();
    let pieces = [Ok(line(1)), Ok("{\"channel\":\"logs\",\"data\":{}}".to_owned()), Err("the connection broke")];
    let body = Body::from_stream(stream::iter(pieces));
    let answer = replica.ops(Method::POST, "/api/v1/publish", LINES, body).await;
    assert_eq!(answer.text.lines().count(), 1);
}

#[tokio::test]
async fn open_streams_are_limited_and_release_their_place() {
    let replica = ApiReplica::new();
    let mut open = Vec::new();
    for _ in 0..crate::api::STREAMS_MAX {
        open.push(StreamedRequest::open(&replica).await);
    }
    let refused = replica.ops(Method::POST, "/api/v1/publish", LINES, line(1)).await;
    refused.problem(503, "try_again_later");
    open.pop();
    assert_eq!(replica.ops(Method::POST, "/api/v1/publish", LINES, line(1)).await.status, 200);
}

#[tokio::test]
async fn a_silent_stream_is_ended() {
    let replica = ApiReplica::new().impatient();
    let mut stream = StreamedRequest::open(&replica).await;
    assert_eq!(stream.result().await, None);
}
