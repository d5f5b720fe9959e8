//! The cost of the wire forms per message: read, decode, validate, encode.

use std::{hint::black_box, io::Cursor};

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tickgate_wire::{
    command::MessageLimits,
    dialect::Dialect,
    model::StreamId,
    payload::check_payload,
    protocol::Protocol,
    push::PushMeta,
    reply::{Configured, Reply},
    time::Timestamp,
    transport::Transport,
    websocket::{FrameReader, Opcode, WebSocketEvent, put_masked},
};
use tungstenite::{WebSocket, protocol::Role};

const LIMITS: MessageLimits = MessageLimits { depth_max: 32, channels_max: 200 };
const NOW: u64 = 1_763_700_000_000;
const ID: Option<StreamId> = Some(StreamId::new(NOW, 42));
const PING: &str = r#"{"type":"ping"}"#;
const SUBSCRIBE: &str = r#"{"type":"subscribe","id":7,"channels":["orders","risk_alerts","bot_status","portfolio"]}"#;
const TICKER: &[u8] = br#"{"type":"ticker","symbol":"BTCUSDT","price":"50000.00","price_change":"1250.00","price_change_percent":"2.56","high_price":"51000.00","low_price":"48500.00","volume":"1250.75","timestamp":"2023-12-01T12:00:00Z"}"#;
const ENVELOPE: &str = r#"{"msg_id":"0b0e2b35-24a5-4d46-9c08-5ccf2d6f2a11","msg_type":"ingest_event","source":"connector","timestamp":"2024-01-15T10:30:00.123456","payload":{"run_id":"run-123","event_type":"order","event_utc":"2024-01-15T10:30:00","payload_json":{"order_id":"ord-test-1","quantity":0.10}}}"#;

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.bench_function("ping", |b| b.iter(|| Dialect::Json.decode(black_box(PING), &LIMITS)));
    group.bench_function("subscribe to 4", |b| b.iter(|| Dialect::Json.decode(black_box(SUBSCRIBE), &LIMITS)));
    group.bench_function("envelope", |b| b.iter(|| Dialect::Envelope.decode(black_box(ENVELOPE), &LIMITS)));
    group.finish();
}

/// A client's frame as read from the socket, compared with the reader of a general-purpose library.
fn reading(criterion: &mut Criterion) {
    let mut frames = Vec::new();
    put_masked(&mut frames, Opcode::Text, SUBSCRIBE.as_bytes(), [1, 2, 3, 4]);
    let mut group = criterion.benchmark_group("read a frame");
    group.throughput(Throughput::Bytes(frames.len() as u64));
    let mut reader = FrameReader::text(64 * 1024);
    group.bench_function("own", |b| {
        b.iter_batched_ref(
            || frames.clone(),
            |input| assert!(matches!(reader.feed(input).next(), Some(Ok(WebSocketEvent::Text(_))))),
            BatchSize::SmallInput,
        );
    });
    let socket = Cursor::new(Vec::new());
    let mut general = WebSocket::from_raw_socket(socket, Role::Server, None);
    group.bench_function("tungstenite", |b| {
        b.iter(|| {
            let socket = general.get_mut();
            socket.set_position(0);
            socket.get_mut().clone_from(&frames);
            assert!(general.read().is_ok_and(|message| message.is_text()));
        });
    });
    group.finish();
}

fn checking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    group.throughput(Throughput::Bytes(TICKER.len() as u64));
    group.bench_function("payload", |b| b.iter(|| check_payload(black_box(TICKER), 32)));
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut out = BytesMut::with_capacity(64 * 1024);
    group.bench_function("push", |b| {
        b.iter(|| {
            out.clear();
            let meta = PushMeta::live(black_box("ticker:BTCUSDT"), ID);
            Protocol::default().push(&mut out, &meta, black_box(TICKER));
        });
    });
    let events = Protocol { transport: Transport::EventStream, ..Protocol::default() };
    group.bench_function("push as event", |b| {
        b.iter(|| {
            out.clear();
            let meta = PushMeta::live(black_box("ticker:BTCUSDT"), ID);
            events.push(&mut out, &meta, black_box(TICKER));
        });
    });
    let configured = Reply::Configured(Configured { id: None, heartbeat_interval: 30 });
    group.bench_function("reply", |b| {
        b.iter(|| {
            out.clear();
            Protocol::default().reply(&mut out, black_box(&configured), &[], || unreachable!("JSON has no stamp"));
        });
    });
    group.bench_function("time", |b| b.iter(|| Timestamp::from_ms(black_box(NOW)).to_string()));
    group.finish();
}

criterion_group!(benches, decoding, reading, checking, encoding);
criterion_main!(benches);
