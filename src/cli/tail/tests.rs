//! The tail against a gateway of the test's own making: what it sends, and when it comes back.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{Message, protocol::CloseFrame},
};

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
