//! What an application gives its client to do. Plain values.

use crate::{channel::Channel, outgoing::Outgoing};

/// Something for the driver to do.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(Vec<Channel>),
    Unsubscribe(Vec<String>),
    Request(Outgoing),
    Stop,
}
