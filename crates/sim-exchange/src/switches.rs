//! The configurable behavior of the exchange: limits, timeouts and quirks. The defaults are documented or observed
//! behavior; each can be set at the start and at runtime.

/// All switches. Times are in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Switches {
    pub ping_interval: u64,
    pub pong_deadline: u64,
    /// `time`, `empty` or `125-bytes`.
    pub ping_payload: String,
    /// Messages that one connection may send in any second.
    pub rate: usize,
    pub rate_close_delay: u64,
    pub streams_max: usize,
    pub subscribe_bytes_max: usize,
    /// Maximum number of upgrades in five minutes.
    pub connect_limit: usize,
    pub ban: u64,
    /// Maximum weight per minute.
    pub rest_limit: u64,
    /// The value of `Retry-After`, in seconds.
    pub retry_after: u64,
    pub rest_delay: u64,
    /// A status, or `reset`, `hang`, `html`; `none` otherwise.
    pub rest_error: String,
    pub upgrade_status: u16,
    /// Age at which a connection is closed.
    pub day: u64,
    /// `eof`, `rst`, `close-1001`, `close-1008`, `close-none`, `half-frame`.
    pub cut_form: String,
    pub ignore_close: u64,
    /// `on`, `drop`, `late`, `flat-errors`, `wrong-id`.
    pub acks: String,
    pub ack_delay: u64,
    /// Streams that match this pattern are acknowledged and never delivered.
    pub ack_only: String,
    pub deflate_header: bool,
    pub answer_pings: bool,
    /// Added to all times that are sent.
    pub clock_skew: i64,
    /// Event times go backwards.
    pub backwards: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            ping_interval: 20_000,
            pong_deadline: 60_000,
            ping_payload: "time".into(),
            rate: 5,
            rate_close_delay: 0,
            streams_max: 1_024,
            subscribe_bytes_max: 4_096,
            connect_limit: 300,
            ban: 120_000,
            rest_limit: 6_000,
            retry_after: 60,
            rest_delay: 0,
            rest_error: "none".into(),
            upgrade_status: 101,
            day: 86_400_000,
            cut_form: "eof".into(),
            ignore_close: 10_000,
            acks: "on".into(),
            ack_delay: 3_000,
            ack_only: String::new(),
            deflate_header: false,
            answer_pings: true,
            clock_skew: 0,
            backwards: false,
        }
    }
}

const REST_ERRORS: &[&str] = &["none", "500", "503", "403", "451", "reset", "hang", "html"];
const CUT_FORMS: &[&str] = &["eof", "rst", "close-1001", "close-1008", "close-none", "half-frame"];
const ACKS: &[&str] = &["on", "drop", "late", "flat-errors", "wrong-id"];
const PING_PAYLOADS: &[&str] = &["time", "empty", "125-bytes"];

impl Switches {
    /// Sets one of them.
    ///
    /// # Errors
    /// A sentence that states what is expected.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "ping-interval" => self.ping_interval = time(value)?,
            "pong-deadline" => self.pong_deadline = time(value)?,
            "ping-payload" => self.ping_payload = one_of(value, PING_PAYLOADS)?,
            "rate" => self.rate = number(value)?,
            "rate-close-delay" => self.rate_close_delay = time(value)?,
            "streams-max" => self.streams_max = number(value)?,
            "subscribe-bytes-max" => self.subscribe_bytes_max = number(value)?,
            "connect-limit" => self.connect_limit = number(value)?,
            "ban" => self.ban = time(value)?,
            "rest-limit" => self.rest_limit = number(value)?,
            "retry-after" => self.retry_after = time(value)?.div_ceil(1_000),
            "rest-delay" => self.rest_delay = time(value)?,
            "rest-error" => self.rest_error = one_of(value, REST_ERRORS)?,
            "upgrade-status" => self.upgrade_status = number(value)?,
            "day" => self.day = time(value)?,
            "cut-form" => self.cut_form = one_of(value, CUT_FORMS)?,
            "ignore-close" => self.ignore_close = time(value)?,
            "acks" => self.acks = one_of(value, ACKS)?,
            "ack-delay" => self.ack_delay = time(value)?,
            "ack-only" => self.ack_only = value.to_owned(),
            "deflate-header" => self.deflate_header = switch(value)?,
            "answer-pings" => self.answer_pings = switch(value)?,
            "clock-skew" => self.clock_skew = skew(value)?,
            "event-time" => self.backwards = one_of(value, &["forwards", "backwards"])? == "backwards",
            _ => return Err(format!("unknown switch {name:?}")),
        }
        Ok(())
    }

    /// A time as sent to clients.
    pub(crate) fn shown(&self, ms: u64) -> u64 {
        ms.saturating_add_signed(self.clock_skew)
    }
}

/// Parses a time with a unit, such as `500ms`, `20s` or `2min`, in milliseconds.
///
/// # Errors
/// A sentence that names the units.
pub(crate) fn time(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("a time requires a unit (ms, s, min, h), such as \"20s\"; got {text:?}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too long"))
}

fn skew(text: &str) -> Result<i64, String> {
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    Ok(sign * i64::try_from(time(rest)?).map_err(|_| format!("{text:?} is too long"))?)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a whole number, got {text:?}"))
}

fn switch(text: &str) -> Result<bool, String> {
    Ok(one_of(text, &["on", "off"])? == "on")
}

fn one_of(text: &str, words: &[&str]) -> Result<String, String> {
    let known = words.contains(&text);
    if known { Ok(text.to_owned()) } else { Err(format!("expected one of {}, got {text:?}", words.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_accept_their_values_and_name_what_they_expect() {
        let mut switches = Switches::default();
        for (name, value) in [("day", "30s"), ("cut-form", "rst"), ("clock-skew", "-1h"), ("answer-pings", "off")] {
            switches.set(name, value).unwrap();
        }
        assert_eq!((switches.day, switches.clock_skew, switches.answer_pings), (30_000, -3_600_000, false));
        for (name, value) in [("day", "30"), ("cut-form", "x"), ("nothing", "1"), ("rate", "-1"), ("acks", "maybe")] {
            assert!(switches.set(name, value).is_err(), "{name}={value}");
        }
    }
}
