//! A client of Tickgate.
//!
//! - [`Client`] follows channels over as many connections as it takes: it comes back after a lost connection, by the
//!   rule of the close codes and with jittered back-off, and asks for what it missed.
//! - [`Socket`] is one WebSocket connection, for those who decide themselves what to send and when to come back.
//! - [`Publication`] publishes over the HTTP API; [`http`] asks it anything else.
//!
//! ```no_run
//! # async fn example() -> Result<(), tickgate_client::Error> {
//! use tickgate_client::{Client, Cursors, Event, Opening};
//!
//! let endpoint = Opening::to("wss://gateway.example.com/ws/trading").token("eyJ…");
//! let mut client = Client::new([endpoint], Cursors::new(["orders"], None));
//! loop {
//!     match client.next().await? {
//!         Event::Message { text, .. } => println!("{text}"),
//!         Event::Lost { error, wait } => eprintln!("{error}; again in {wait:?}"),
//!     }
//! }
//! # }
//! ```
//!
//! Runs on tokio; starts no task that outlives a request. TLS trusts the certificates that the operating system trusts
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).
#![warn(missing_docs)]

mod backoff;
mod client;
mod cursors;
mod error;
mod headers;
pub mod http;
mod message;
mod publish;
mod socket;

pub use backoff::Backoff;
pub use client::{Client, Event};
pub use cursors::Cursors;
pub use error::{Closed, Error, Refusal};
pub use message::{Gap, Message, Meta, RefusedChannel, Subscribed, SubscribedChannel};
pub use publish::{Publication, Published};
pub use socket::{Opening, Socket, SocketReceiver, SocketSender};
