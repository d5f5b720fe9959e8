//! Commands from the application to the driver. Plain values.

use crate::{channel::Channel, outgoing::Outgoing};

/// A command for the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(Vec<Channel>),
    Unsubscribe(Vec<String>),
    Request(Outgoing),
    Stop,
}
