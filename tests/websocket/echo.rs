//! The gateway's own serving path, from accept to the last frame, saying back whatever it hears: the peer that the
//! public cases of WebSocket conformance ask for. Prints its address, and serves until it is ended.
//!
//!     cargo run --example echo -- 127.0.0.1:9001

use std::{env, error::Error, future::poll_fn, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{BufMut, BytesMut};
use hyper::{StatusCode, upgrade::OnUpgrade};
use tickgate::{
    connection::{
        accept::{self, Serving},
        handshake,
        socket_io::{ReadOutcome, SocketIo, WakeReason},
        upgrade,
    },
    descriptors::Descriptors,
    hub::{Close, EndpointOutboxes, Outbox, OutboxSocket, QueueLimits},
    metrics::Metrics,
    tasks::Tasks,
};
use tickgate_wire::websocket::{FrameReader, Opcode, Peer, WebSocketEvent, put_head};

/// The largest message of the public cases.
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

#[derive(Clone)]
struct EchoServer {
    tasks: Tasks,
    shared: Arc<EndpointOutboxes>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = accept::bind(address.parse()?)?;
    println!("ws://{}", listener.local_addr()?);
    let limits = QueueLimits { messages_max: 100, bytes_max: 1 << 20 };
    let tasks = Tasks::new();
    let echo = EchoServer { tasks: tasks.clone(), shared: EndpointOutboxes::new(limits, Metrics::new(), "trading") };
    let router = Router::new().fallback(get(open)).with_state(echo);
    let serving = Serving {
        head_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(75),
        head_bytes_max: 16_384,
        descriptors: Descriptors::of_process(0),
        spares: 1,
        write_timeout: Duration::from_secs(30),
        plain: None,
        tls: None,
    };
    accept::serve(listener, router, serving, tasks.clone(), tasks.stop()).await;
    Ok(())
}

/// Becomes a WebSocket, as every endpoint does.
async fn open(State(echo): State<EchoServer>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let Ok(handshake) = handshake::check(&parts, &["*".into()]) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    let shared = echo.shared.clone();
    echo.tasks.spawn("echo", async move {
        if let Some((stream, early)) = upgrade::taken_over(on_upgrade).await {
            serve(stream, early, shared).await;
        }
    });
    upgrade::switching(&handshake.upgrade)
}

async fn serve(stream: OutboxSocket, mut early: Vec<u8>, shared: Arc<EndpointOutboxes>) {
    let outbox = Outbox::new(stream, shared);
    let mut wire = SocketIo::new(outbox.clone(), FrameReader::new(Peer::Client, true, MESSAGE_BYTES_MAX));
    let mut ended = wire.take_in(&mut early, |event| say_back(&outbox, &event));
    loop {
        if let Some(close) = ended {
            return wire.close(&close, &[]).await;
        }
        ended = match poll_fn(|cx| wire.poll_wake(cx)).await {
            WakeReason::Readable => match wire.read(|event| say_back(&outbox, &event)) {
                ReadOutcome::More => None,
                ReadOutcome::Close(close) => Some(close),
                ReadOutcome::Gone => return,
            },
            WakeReason::Asked(close) => Some(close),
            WakeReason::Lagging | WakeReason::Gone => return,
        };
    }
}

fn say_back(outbox: &Outbox, event: &WebSocketEvent<'_>) -> Option<Close> {
    let (opcode, payload) = match event {
        WebSocketEvent::Text(text) => (Opcode::Text, text.as_bytes()),
        WebSocketEvent::Binary(bytes) => (Opcode::Binary, *bytes),
        WebSocketEvent::Ping(_) | WebSocketEvent::Pong(_) | WebSocketEvent::Close(..) => return None,
    };
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    put_head(&mut out, opcode, payload.len());
    out.put_slice(payload);
    outbox.send(out.freeze());
    None
}
