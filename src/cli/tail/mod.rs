//! `tickgate tail`: subscribes and prints, and after a broken connection gets what it missed. Also the shortest example
//! of a client that follows the contract: cursors, the reconnect rule, jittered back-off.

mod backoff;
mod cursors;
mod frame;
mod show;
#[cfg(test)]
mod tests;

use tickgate_wire::model::StreamId;

use self::{backoff::Backoff, cursors::Cursors, frame::Frame, show::Show};
use super::{
    Failure,
    socket::{End, Socket},
};

const EXAMPLES: &str = r#"Examples:
  tickgate tail ticker:BTCUSDT trades:BTCUSDT
  tickgate tail --url ws://127.0.0.1:8000/ws
  tickgate tail --url wss://gw.example.com/ws/trading --token "$TOKEN" orders
  tickgate tail trades:BTCUSDT --last 10 --count 10 --json

A line a message: channel, id, the JSON object. Notices go to standard error.
After a broken connection it comes back by itself and gets what it missed, from
the last id it has seen; close codes from 4500 on end it."#;

/// Subscribe to channels and print what arrives
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels of the endpoint; left out: those it subscribes by itself
    channels: Vec<String>,
    /// The endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8000/ws/market")]
    url: String,
    /// Token
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Begin after this id
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    since: Option<StreamId>,
    /// Begin with the last messages of event channels
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with the connection
    #[arg(long)]
    once: bool,
    /// Print every frame as it came, for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut tail = Tail::new(args);
    loop {
        let (why, hint) = match tail.follow().await {
            Ok(()) => return Ok(()),
            Err(End::Lost { why, hint }) if !tail.args.once => (why, hint),
            Err(end) => return Err(end.into()),
        };
        let wait = tail.backoff.next(hint, uuid::Uuid::new_v4().as_u128());
        eprintln!("{why}; again in {:.1} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

/// What outlives a connection.
struct Tail {
    args: Args,
    cursors: Cursors,
    show: Show,
    backoff: Backoff,
}

impl Tail {
    fn new(args: Args) -> Self {
        let cursors = Cursors::new(&args.channels, args.since);
        let show = Show::new(args.json, args.count);
        Self { args, cursors, show, backoff: Backoff::default() }
    }

    /// One connection: to its end, or to as many messages as were asked for.
    async fn follow(&mut self) -> Result<(), End> {
        let mut socket = Socket::open(&self.args.url, self.args.token.as_deref()).await?;
        let mut hinted = None;
        loop {
            let text = match socket.next().await {
                Ok(text) => text,
                Err(End::Lost { why, hint }) => return Err(End::Lost { why, hint: hint.or(hinted) }),
                Err(refused) => return Err(refused),
            };
            let frame = Frame::read(&text);
            hinted = frame.reconnect_after().or(hinted);
            self.heard(&mut socket, &frame).await?;
            if self.show.message(&text, &frame)? {
                return Ok(());
            }
        }
    }

    /// Acts on one message of the gateway.
    async fn heard(&mut self, socket: &mut Socket, frame: &Frame<'_>) -> Result<(), End> {
        match frame.kind() {
            "connection_established" => {
                self.backoff = Backoff::default();
                if let Some(subscribe) = self.cursors.subscribe(self.args.last) {
                    socket.send(subscribe).await?;
                }
            }
            "subscribed" if frame.nothing_subscribed() => {
                return Err(End::refused(format!("nothing subscribed: {}", frame.refusals())));
            }
            "subscribed" => self.cursors.subscribed(frame),
            _ => self.cursors.heard(frame),
        }
        Ok(())
    }
}
