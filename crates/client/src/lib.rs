//! A client of Tickgate.
//!
//! - [`Client`] follows channels over as many connections as necessary, by the rules of `docs/client.md`: it reconnects
//!   after a lost connection with the cursors of its channels, renews its token, and reports missing messages as a
//!   [`Gap`].
//! - [`ClientSocket`] is one WebSocket connection, for programs that decide themselves what to send and when to reconnect.
//! - [`PublicationRequest`] publishes over the HTTP API; [`http`] sends any other request to it.
//!
//! A client comes with a [`Driver`], which does its work: it must be polled, in its own task or concurrently with the
//! application, so that pings are answered while the application is busy.
//!
//! ```no_run
//! # async fn example() {
//! use tickgate_client::{Builder, Channel, Event};
//!
//! let (mut client, driver) = Builder::new("wss://gateway.example.com/ws/trading")
//!     .token_source(|| async { Ok::<_, std::io::Error>(String::from("eyJ…")) })
//!     .channel("orders")
//!     .channel(Channel::new("ticker:BTCUSDT").max_rate(4))
//!     .build();
//! tokio::spawn(driver.run());
//! while let Some(event) = client.next().await {
//!     match event {
//!         Event::Message(message) => println!("{}: {}", message.meta.channel, message.payload()),
//!         Event::Gap(gap) => println!("{:?} missed messages: take a snapshot", gap.channels),
//!         Event::Refused { channel, error } => eprintln!("{channel}: {error}"),
//!         Event::State(state) => eprintln!("{}", state.name()),
//!         _ => {}
//!     }
//! }
//! # }
//! ```
//!
//! Cursors can outlive the application: [`Client::cursors`] returns the positions up to which events were handled, and
//! [`Channel::since`] continues after them.
//!
//! ```
//! use tickgate_client::{Builder, Channel};
//!
//! let stored = [("orders", "1763700000000-42")];
//! let channels = stored.map(|(channel, cursor)| Channel::new(channel).since(cursor));
//! let (client, _driver) = Builder::new("ws://127.0.0.1:8000/ws/trading").channels(channels).build();
//! assert!(client.cursors().is_empty(), "no event was handled yet");
//! ```
//!
//! A publication over the connection is repeated with the same `msg_id` until a reply arrives, up to its deadline; the
//! error states whether it may have been stored.
//!
//! ```no_run
//! # async fn example(client: tickgate_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use serde_json::value::to_raw_value;
//! use tickgate_client::{PublicationRequest, RequestError};
//!
//! let data = to_raw_value(&serde_json::json!({ "type": "signal", "side": "buy" }))?;
//! let publication = PublicationRequest { channel: "signals", user: None, data: &data, msg_id: None };
//! match client.handle().publish(&publication, Duration::from_secs(5)).await {
//!     Ok(accepted) => println!("stored as {:?}", accepted.id),
//!     Err(RequestError::Unknown) => println!("the outcome is unknown"),
//!     Err(error) => println!("not stored: {error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Runs on tokio; starts no task that outlives a request. TLS trusts the certificates that the operating system trusts
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them).
#![warn(missing_docs)]

mod backoff;
mod builder;
mod channel;
mod client;
mod command;
#[cfg(feature = "defects")]
pub mod defect;
#[cfg(not(feature = "defects"))]
mod defect;
mod driver;
mod error;
mod event;
mod headers;
pub mod http;
mod inbound;
mod lasting;
mod link;
mod outgoing;
mod pace;
mod positions;
mod publish;
mod queue;
mod read;
mod server_error;
mod settings;
mod socket;
mod token;
mod trust;

pub use builder::Builder;
pub use channel::Channel;
pub use client::{Accepted, Client, Handle};
pub use driver::Driver;
pub use error::{Closed, Error, HttpRefusal, RequestError};
pub use event::{ClientState, Event, Gap, MessageMeta, ReceivedMessage};
pub use publish::{PublicationReceipt, PublicationRequest};
pub use server_error::{ErrorDetails, ServerError};
pub use socket::{ClientSocket, Opening, SocketReceiver, SocketSender};
