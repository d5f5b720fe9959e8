//! The tail against a gateway of the test's own making: what it sends, and when it comes back.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;

fn args(address: std::net::SocketAddr) -> Args {
    Args {
        channels: vec!["orders".into()],
        url: format!("ws://{address}/ws/trading"),
        token: None,
        since: None,
        last: None,
        count: Some(3),
        once: false,
        json: true,
    }
}

struct Gateway(WebSocketStream<TcpStream>);

impl Gateway {
    async fn accept(listener: &TcpListener) -> Self {
        let (socket, _) = listener.accept().await.unwrap();
        let mut gateway = Self(accept_async(socket).await.unwrap());
        gateway.say(json!({"type":"connection_established"})).await;
        gateway
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(self.0.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
    }

    async fn push(&mut self, id: &str) {
        self.say(json!({"type":"order_update","_meta":{"channel":"orders","id":id}})).await;
    }

    async fn close(mut self, code: u16) {
        self.0.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap();
        while self.0.next().await.is_some() {}
    }
}

#[tokio::test]
async fn it_comes_back_to_where_it_was_after_a_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tail = run(args(listener.local_addr().unwrap()));
    let gateway = async {
        let mut first = Gateway::accept(&listener).await;
        assert_eq!(first.hear().await, json!({"type":"subscribe","channels":["orders"]}));
        first.push("5-1").await;
        first.push("5-2").await;
        first.say(json!({"type":"reconnect","after_ms":20,"reason":"draining"})).await;
        first.close(1012).await;
        let mut second = Gateway::accept(&listener).await;
        assert_eq!(second.hear().await, json!({"type":"subscribe","channels":["orders"],"since":{"orders":"5-2"}}));
        second.push("5-3").await;
    };
    let (tail, ()) = tokio::join!(tail, gateway);
    assert_eq!(tail, Ok(()), "three messages, over two connections");
}

#[tokio::test]
async fn it_does_not_come_back_when_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tail = run(args(listener.local_addr().unwrap()));
    let gateway = async { Gateway::accept(&listener).await.close(4501).await };
    let (tail, ()) = tokio::join!(tail, gateway);
    assert_eq!(tail, Err(Failure::new("closed 4501 superseded")));
}

#[tokio::test]
async fn it_ends_when_everything_was_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tail = run(args(listener.local_addr().unwrap()));
    let gateway = async {
        let mut gateway = Gateway::accept(&listener).await;
        gateway.hear().await;
        let refused = json!({"channel":"orders","code":4502,"error":"forbidden","message":"not allowed"});
        gateway.say(json!({"type":"subscribed","channels":[],"errors":[refused]})).await;
    };
    let (tail, ()) = tokio::join!(tail, gateway);
    assert_eq!(tail, Err(Failure::new("nothing subscribed: orders: not allowed")));
}

#[tokio::test]
async fn a_token_goes_in_a_header_and_never_in_the_address() {
    let args = Args { token: Some("a.b.c".into()), ..args("127.0.0.1:9".parse().unwrap()) };
    let tail = Tail::new(args);
    let request = tail.request().unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer a.b.c");
    assert!(!request.uri().to_string().contains("a.b.c") && !format!("{request:?}").contains("a.b.c"));
}

fn after(number: u16) -> End {
    closed(Some(&CloseFrame { code: number.into(), reason: "so".into() }), Some(Duration::from_secs(2)))
}

#[test]
fn the_rule_of_the_codes_decides_whether_to_come_back() {
    for number in [1001, 1011, 1012, 1013, 4003, 4100, 4101, 4102, 4103, 4104] {
        assert!(matches!(after(number), End::Lost { hint: Some(_), .. }), "{number}");
    }
    for number in [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4002, 4004, 4500, 4501, 4999] {
        assert!(matches!(after(number), End::Refused(_)), "{number}");
    }
    let End::Refused(why) = after(4501) else { panic!("refused") };
    assert_eq!(why, "closed 4501 superseded: so");
}

#[test]
fn a_refused_handshake_is_tried_again_when_the_gateway_says_so() {
    let response = |status: u16| {
        let body = br#"{"detail":"full"}"#.to_vec();
        tokio_tungstenite::tungstenite::http::Response::builder()
            .status(status)
            .header("retry-after", "7")
            .body(Some(body))
            .unwrap()
    };
    assert!(matches!(refusal(&response(503)), End::Lost { hint: Some(hint), .. } if hint.as_secs() == 7));
    assert!(matches!(refusal(&response(429)), End::Lost { .. }));
    for status in [400, 401, 403, 404] {
        assert!(matches!(refusal(&response(status)), End::Refused(why) if why.ends_with(": full")), "{status}");
    }
}
