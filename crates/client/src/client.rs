//! Following channels over as many connections as it takes.

use std::{fmt, pin::Pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    backoff::Backoff,
    cursors::Cursors,
    error::Error,
    message::Message,
    socket::{Opening, Socket},
};

/// What a [`Client`] has to tell.
#[derive(Debug)]
pub enum Event {
    /// The gateway sent a message.
    Message {
        /// As it came.
        text: String,
        /// What it says.
        message: Message,
    },
    /// The connection was lost, or not made. The client comes back by itself.
    Lost {
        /// Why.
        error: Error,
        /// When: [`Client::next`] waits for so long before the next attempt.
        wait: Duration,
    },
}

/// A connection in the making.
type Connecting = Pin<Box<dyn Future<Output = Result<Socket, Error>> + Send>>;

/// Follows channels. After a lost connection it comes back, to the next of its endpoints, and continues from the last
/// position it saw of each channel.
pub struct Client {
    endpoints: Vec<Opening>,
    /// The endpoint of the present or next connection.
    at: usize,
    cursors: Cursors,
    last: Option<u32>,
    backoff: Backoff,
    not_before: Option<Instant>,
    connecting: Option<Connecting>,
    socket: Option<Socket>,
    /// The subscription that is to be sent next.
    command: Option<String>,
    /// How long the gateway asked to wait before it closed the connection.
    hint: Option<Duration>,
}

impl Client {
    /// A client of replicas that serve the same endpoint; the first is tried first. There has to be one.
    ///
    /// # Panics
    /// Without an endpoint.
    pub fn new(endpoints: impl IntoIterator<Item = Opening>, cursors: Cursors) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        assert!(!endpoints.is_empty(), "a client needs an endpoint");
        Self {
            endpoints,
            at: 0,
            cursors,
            last: None,
            backoff: Backoff::default(),
            not_before: None,
            connecting: None,
            socket: None,
            command: None,
            hint: None,
        }
    }

    /// Begins channels of which no position is known with so many messages of the past.
    #[must_use]
    pub fn last(mut self, last: u32) -> Self {
        self.last = Some(last);
        self
    }

    /// Which of the endpoints it is connected to, or tries next.
    #[must_use]
    pub fn endpoint(&self) -> usize {
        self.at
    }

    /// What happens next. Connects, waits and subscribes as needed.
    ///
    /// Cancel safe: no message is lost when the future is dropped. A subscription may then be sent again.
    ///
    /// # Errors
    /// An error after which no attempt succeeds ([`Error::is_final`]).
    pub async fn next(&mut self) -> Result<Event, Error> {
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
            self.not_before = None;
        }
        match self.receive().await {
            Ok(text) => {
                let message = Message::read(&text);
                self.take(&message)?;
                Ok(Event::Message { text, message })
            }
            Err(error) => self.lost(error),
        }
    }

    async fn receive(&mut self) -> Result<String, Error> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None => {
                let opening = &self.endpoints[self.at];
                let connecting = self.connecting.get_or_insert_with(|| {
                    let opening = opening.clone();
                    Box::pin(async move { opening.open().await })
                });
                let opened = connecting.await;
                self.connecting = None;
                self.socket.insert(opened?)
            }
        };
        if let Some(command) = &self.command {
            socket.send(command).await?;
            self.command = None;
        }
        socket.next().await
    }

    fn take(&mut self, message: &Message) -> Result<(), Error> {
        match message {
            Message::Welcome => {
                self.backoff = Backoff::default();
                self.command = self.cursors.subscribe(self.last);
            }
            Message::Subscribed(subscribed) if subscribed.channels.is_empty() && !subscribed.errors.is_empty() => {
                return Err(Error::NothingSubscribed(subscribed.refusals()));
            }
            Message::Closing(after) => self.hint = *after,
            message => self.cursors.take(message),
        }
        Ok(())
    }

    /// Ends the connection; the next attempt goes to the next endpoint.
    fn lost(&mut self, error: Error) -> Result<Event, Error> {
        (self.socket, self.command) = (None, None);
        if error.is_final() {
            return Err(error);
        }
        self.at = (self.at + 1) % self.endpoints.len();
        let hint = error.retry_after().or(self.hint.take());
        let wait = self.backoff.next(hint, uuid::Uuid::new_v4().as_u128());
        self.not_before = Some(Instant::now() + wait);
        Ok(Event::Lost { error, wait })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connected = self.socket.is_some();
        f.debug_struct("Client")
            .field("endpoint", &self.endpoints[self.at])
            .field("connected", &connected)
            .field("cursors", &self.cursors)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{
        WebSocketStream, accept_async,
        tungstenite::{Message as Frame, protocol::CloseFrame},
    };

    use super::*;

    /// A gateway of the test's own making.
    struct Gateway(WebSocketStream<TcpStream>);

    impl Gateway {
        async fn accept(listener: &TcpListener) -> Self {
            let (socket, _) = listener.accept().await.unwrap();
            let mut gateway = Self(accept_async(socket).await.unwrap());
            gateway.send(json!({"type":"connection_established"})).await;
            gateway
        }

        async fn send(&mut self, message: Value) {
            self.0.send(Frame::text(message.to_string())).await.unwrap();
        }

        async fn received(&mut self) -> Value {
            serde_json::from_str(self.0.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
        }

        async fn push(&mut self, id: &str) {
            self.send(json!({"type":"order_update","_meta":{"channel":"orders","id":id}})).await;
        }

        async fn close(mut self, code: u16) {
            self.0.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap();
            while self.0.next().await.is_some() {}
        }
    }

    async fn listen() -> (TcpListener, Opening) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let opening = Opening::to(format!("ws://{}/ws/trading", listener.local_addr().unwrap()));
        (listener, opening)
    }

    /// Follows `orders` until so many publications have come; how often the connection was lost.
    async fn follow(endpoints: Vec<Opening>, count: usize) -> Result<usize, Error> {
        let mut client = Client::new(endpoints, Cursors::new(["orders"], None));
        let (mut publications, mut losses) = (0, 0);
        while publications < count {
            match client.next().await? {
                Event::Message { message: Message::Publication(_), .. } => publications += 1,
                Event::Message { .. } => {}
                Event::Lost { .. } => losses += 1,
            }
        }
        Ok(losses)
    }

    #[tokio::test]
    async fn it_comes_back_to_where_it_was_after_a_restart() {
        let ((listener, first), (other_listener, other)) = (listen().await, listen().await);
        let gateway = async {
            let mut before = Gateway::accept(&listener).await;
            assert_eq!(before.received().await, json!({"type":"subscribe","channels":["orders"]}));
            before.push("5-1").await;
            before.push("5-2").await;
            before.send(json!({"type":"closing","code":1012,"reconnect":"yes","after_ms":20})).await;
            before.close(1012).await;
            let mut after = Gateway::accept(&other_listener).await;
            let command = json!({"type":"subscribe","channels":[{"channel":"orders","since":"5-2"}]});
            assert_eq!(after.received().await, command);
            after.push("5-3").await;
        };
        let (losses, ()) = tokio::join!(follow(vec![first, other], 3), gateway);
        assert_eq!(losses.unwrap(), 1, "three messages, over two connections");
    }

    #[tokio::test]
    async fn it_does_not_come_back_when_told_so() {
        let (listener, opening) = listen().await;
        let gateway = async { Gateway::accept(&listener).await.close(4501).await };
        let (followed, ()) = tokio::join!(follow(vec![opening], 1), gateway);
        assert_eq!(followed.unwrap_err().to_string(), "closed 4501 superseded");
    }

    #[tokio::test]
    async fn it_ends_when_everything_was_refused() {
        let (listener, opening) = listen().await;
        let gateway = async {
            let mut gateway = Gateway::accept(&listener).await;
            gateway.received().await;
            let refused = json!({"channel":"orders","code":4502,"error":"forbidden","message":"not allowed"});
            gateway.send(json!({"type":"subscribed","channels":[],"errors":[refused]})).await;
        };
        let (followed, ()) = tokio::join!(follow(vec![opening], 1), gateway);
        assert_eq!(followed.unwrap_err().to_string(), "nothing subscribed: orders: not allowed");
    }

    #[tokio::test]
    async fn nothing_is_lost_when_waiting_is_cut_short() {
        let (listener, opening) = listen().await;
        let gateway = async {
            let mut gateway = Gateway::accept(&listener).await;
            gateway.received().await;
            for number in 1..=50 {
                gateway.push(&format!("5-{number}")).await;
                tokio::task::yield_now().await;
            }
            gateway
        };
        let client = async {
            let mut client = Client::new([opening], Cursors::new(["orders"], None));
            let mut seen = Vec::new();
            while seen.len() < 50 {
                let event = tokio::select! {
                    biased;
                    event = client.next() => event.unwrap(),
                    () = tokio::task::yield_now() => continue,
                };
                if let Event::Message { message: Message::Publication(meta), .. } = event {
                    seen.push(meta.id.unwrap().seq);
                }
            }
            seen
        };
        let (seen, _gateway) = tokio::join!(client, gateway);
        assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    }
}
