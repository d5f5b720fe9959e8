//! Finds the newest publications of one channel in a topic that holds several, such as a user's stream. Reads backwards
//! in windows with the two reads that every back end has. Bounded in what is read and kept.

use std::{collections::VecDeque, sync::Arc};

use tickgate_wire::model::{Content, Message, StreamId, Topic};

use super::{Backplane, ReadLimits, StreamUnavailable};

/// Number of publications per window.
const WINDOW: u64 = 256;

/// A search for the newest publications of a channel.
#[derive(Debug)]
pub struct NewestOfChannel<'a> {
    topic: &'a Topic,
    channel: &'a str,
    wanted: ReadLimits,
    /// The remaining limits on what is read.
    left: ReadLimits,
    found: KeptMessages,
    /// The stream's position when the search started.
    head: StreamId,
    /// Everything from here on was examined.
    oldest: Option<StreamId>,
    window: Option<Window>,
    last_read_bytes: usize,
    whole: bool,
}

/// The part of the stream being read.
#[derive(Debug)]
struct Window {
    /// Whether it starts at the beginning of the stream.
    is_first: bool,
    /// The position to continue from.
    at: StreamId,
    first: Option<StreamId>,
    kept: KeptMessages,
}

/// Messages of the result, oldest first, and their total size.
#[derive(Debug, Default)]
struct KeptMessages {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// Whether older ones were removed.
    cut: bool,
}

/// The result of a search.
#[derive(Debug)]
pub struct ChannelMessages {
    /// The channel's messages, and markers of entries that no client can see; oldest first.
    pub messages: Vec<Arc<Message>>,
    /// The stream's position when the search started.
    pub head: StreamId,
    /// False if older ones may have been omitted because of the limits.
    pub whole: bool,
}

impl<'a> NewestOfChannel<'a> {
    /// Searches for as many publications as `wanted` allows, among as many of the topic as `looked_at` allows. One read
    /// has at most as many bytes as are wanted.
    #[must_use]
    pub fn new(topic: &'a Topic, channel: &'a str, wanted: ReadLimits, looked_at: ReadLimits) -> Self {
        let (found, head, left) = (KeptMessages::default(), StreamId::ZERO, looked_at);
        Self { topic, channel, wanted, left, found, head, oldest: None, window: None, last_read_bytes: 0, whole: false }
    }

    /// Performs one read. True when the search is complete.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the back end does not respond in time, or too many reads wait.
    pub async fn step(&mut self, backplane: &Backplane) -> Result<bool, StreamUnavailable> {
        let limits = ReadLimits::new(WINDOW as usize, self.wanted.bytes_max);
        let (mut window, messages, is_read) = match self.oldest {
            None => {
                let newest = backplane.newest(self.topic, limits).await?;
                self.head = newest.messages.last().and_then(|message| message.id).unwrap_or_default();
                let is_first = newest.whole && newest.messages.len() < limits.messages_max;
                (Window::new(is_first, StreamId::ZERO), newest.messages, true)
            }
            Some(oldest) => {
                let window = self.window.take().unwrap_or_else(|| Window::before(oldest));
                let mut page = backplane.read(self.topic, window.at, limits).await?;
                let read = page.messages.len();
                page.messages.retain(|message| message.id < Some(oldest));
                let is_read = page.messages.len() < read || !page.more;
                (window, page.messages, is_read)
            }
        };
        self.last_read_bytes = messages.iter().map(|message| message.payload_bytes()).sum();
        for message in &messages {
            let (count, bytes) = (self.left.messages_max, self.left.bytes_max);
            self.left = ReadLimits::new(count.saturating_sub(1), bytes.saturating_sub(message.payload_bytes()));
            window.first = window.first.or(message.id);
            window.at = message.id.unwrap_or(window.at);
            if is_shown(message, self.channel) {
                window.kept.push_back(message.clone(), self.wanted);
            }
        }
        let is_over = self.left.messages_max == 0 || self.left.bytes_max == 0;
        if is_read {
            return Ok(self.take(window) || is_over);
        }
        self.window = Some(window);
        Ok(is_over)
    }

    /// Bytes of the payloads that the last step read.
    #[must_use]
    pub const fn last_read_bytes(&self) -> usize {
        self.last_read_bytes
    }

    /// Puts a window before the previous results. True if nothing more is needed.
    fn take(&mut self, window: Window) -> bool {
        let is_first = window.is_first || window.first.is_none();
        self.oldest = window.first.or(self.oldest);
        let cut = window.kept.cut;
        let fit = window.kept.messages.into_iter().rev().all(|message| self.found.push_front(message, self.wanted));
        let is_full = self.found.messages.len() >= self.wanted.messages_max;
        self.whole = is_full || is_first && fit && !cut;
        self.whole || !fit || cut
    }

    /// The result.
    #[must_use]
    pub fn finish(self) -> ChannelMessages {
        ChannelMessages { messages: self.found.messages.into(), head: self.head, whole: self.whole }
    }
}

impl Window {
    fn new(is_first: bool, at: StreamId) -> Self {
        Self { is_first, at, first: None, kept: KeptMessages::default() }
    }

    /// The start of the window before a position. Within an epoch it follows from the sequence number; where the
    /// previous epoch ended is unknown, so that part is read from the stream's beginning.
    fn before(oldest: StreamId) -> Self {
        match oldest.seq.checked_sub(WINDOW + 1) {
            Some(seq) => Self::new(false, StreamId::new(oldest.epoch, seq)),
            None if oldest.seq > 0 => Self::new(false, StreamId::new(oldest.epoch, 0).previous()),
            None => Self::new(true, StreamId::ZERO),
        }
    }
}

impl KeptMessages {
    /// Adds a newer message, removing the oldest if necessary.
    fn push_back(&mut self, message: Arc<Message>, limits: ReadLimits) {
        self.bytes += message.payload_bytes();
        self.messages.push_back(message);
        while self.messages.len() > 1
            && (self.bytes > limits.bytes_max || self.messages.len() > limits.messages_max)
            && let Some(oldest) = self.messages.pop_front()
        {
            self.bytes -= oldest.payload_bytes();
            self.cut = true;
        }
    }

    /// Adds an older message, if it fits.
    fn push_front(&mut self, message: Arc<Message>, limits: ReadLimits) -> bool {
        let bytes = self.bytes + message.payload_bytes();
        let fits = self.messages.is_empty() || bytes <= limits.bytes_max && self.messages.len() < limits.messages_max;
        if fits {
            self.bytes = bytes;
            self.messages.push_front(message);
        }
        fits
    }
}

fn is_data(message: &Message) -> bool {
    matches!(message.content, Content::Data(_))
}

fn is_shown(message: &Message, channel: &str) -> bool {
    !is_data(message) || message.channel.as_deref() == Some(channel)
}
