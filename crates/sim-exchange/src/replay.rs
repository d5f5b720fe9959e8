//! Replay of a recording: its frames to the subscribers of the streams, its REST responses to requests. Each line is a
//! receive time in milliseconds, a tab, `ws` or a REST path, a tab, and the body.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use crate::{event::StreamEvent, market::STEP_MS};

/// A recording and the playback position.
#[derive(Debug)]
pub(crate) struct Replay {
    frames: VecDeque<(u64, StreamEvent)>,
    rest: HashMap<String, String>,
    now_ms: u64,
    /// Milliseconds of the recording per step.
    step_ms: u64,
}

impl Replay {
    /// Reads a recording. `speed` is the playback speed, 1 as recorded; 0: all at once.
    ///
    /// # Errors
    /// The first invalid line.
    pub(crate) fn read(text: &str, speed: u64) -> Result<Self, String> {
        let (mut frames, mut rest) = (VecDeque::new(), HashMap::new());
        for (number, line) in (1..).zip(text.lines()) {
            let mut parts = line.splitn(3, '\t');
            let (Some(time), Some(kind), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(format!("line {number}: expected a time, a tab, `ws` or a path, a tab, a body"));
            };
            let at: u64 = time.parse().map_err(|_| format!("line {number}: {time:?} is not a time"))?;
            if kind == "ws" {
                frames.extend(event(body).map(|event| (at, event)));
            } else {
                rest.insert(kind.to_owned(), body.to_owned());
            }
        }
        let now_ms = frames.front().map_or(0, |(at, _)| *at);
        let step_ms = if speed == 0 { u64::MAX / 4 } else { STEP_MS * speed };
        Ok(Self { frames, rest, now_ms, step_ms })
    }

    /// The frames of the next step.
    pub(crate) fn step(&mut self) -> Vec<StreamEvent> {
        self.now_ms = self.now_ms.saturating_add(self.step_ms);
        let due = self.frames.iter().take_while(|(at, _)| *at <= self.now_ms).count();
        self.frames.drain(..due).map(|(_, event)| event).collect()
    }

    /// The recorded response to a request, by its path with the query, or else by its path alone.
    pub(crate) fn rest(&self, target: &str) -> Option<&str> {
        let path = target.split('?').next().unwrap_or_default();
        self.rest.get(target).or_else(|| self.rest.get(path)).map(String::as_str)
    }
}

/// The event of a frame; responses to control messages have none.
fn event(body: &str) -> Option<StreamEvent> {
    let frame: Value = serde_json::from_str(body).ok()?;
    let stream = frame["stream"].as_str()?;
    // As recorded: same number formats, same order of keys.
    let from = body.find("\"data\":")? + "\"data\":".len();
    let payload = body[from..].trim_end().strip_suffix('}')?;
    Some(StreamEvent { stream: stream.into(), payload: payload.into(), repeated: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "1000\tws\t{\"stream\":\"a@ticker\",\"data\":{\"c\":\"1.0\"}}\n1000\tws\t{\"result\":null,\"id\":1}\n\
        1900\tws\t{\"stream\":\"a@ticker\",\"data\":{\"c\":\"2.0\"}}\n1950\t/api/v3/exchangeInfo\t{\"symbols\":[]}\n";

    #[test]
    fn frames_are_replayed_at_their_times_and_unchanged() {
        let mut replay = Replay::read(FILE, 1).unwrap();
        let played: Vec<usize> = (0..9).map(|_| replay.step().len()).collect();
        assert_eq!(played, [1, 0, 0, 0, 0, 0, 0, 0, 1]);
        let mut replay = Replay::read(FILE, 0).unwrap();
        let events = replay.step();
        assert_eq!((&*events[0].payload, &*events[1].payload), (r#"{"c":"1.0"}"#, r#"{"c":"2.0"}"#));
        assert_eq!(replay.rest("/api/v3/exchangeInfo?x=1"), Some("{\"symbols\":[]}"));
    }

    #[test]
    fn an_invalid_line_is_named() {
        assert!(Replay::read("1\tws", 1).unwrap_err().starts_with("line 1"));
        assert!(Replay::read("x\tws\t{}", 1).unwrap_err().contains("not a time"));
    }
}
