//! The protocol: replies encoded in both versions, and commands and replies decoded.

/// The reply to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum RespReply {
    /// A status, such as `OK`.
    Status(&'static str),
    /// Without the leading minus.
    Error(String),
    /// An integer.
    Int(i64),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// A null bulk string, or null in version 3.
    Nil,
    /// A null list.
    NilArray,
    /// An array of replies.
    Array(Vec<Self>),
    /// A map for clients with version 3, a flat array otherwise.
    Map(Vec<(Self, Self)>),
    /// A number for clients with version 3, text otherwise.
    Double(f64),
    /// A push message; an array in version 2.
    Push(Vec<Self>),
    /// Text for people; a bulk in version 2.
    Verbatim(String),
}

impl RespReply {
    /// `OK`.
    pub const OK: Self = Self::Status("OK");

    /// A bulk of this text.
    #[must_use]
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(text.into())
    }

    /// Whether it is an error.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Appends the bytes of this reply, for a client with or without version 3.
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        let header = |out: &mut Vec<u8>, mark: char, count: usize| {
            out.extend_from_slice(format!("{mark}{count}\r\n").as_bytes());
        };
        match self {
            Self::Status(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(bytes) => {
                header(out, '$', bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Nil => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
            Self::NilArray => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" }),
            Self::Array(items) => {
                header(out, '*', items.len());
                items.iter().for_each(|item| item.write(resp3, out));
            }
            Self::Map(pairs) => {
                let (mark, count) = if resp3 { ('%', pairs.len()) } else { ('*', pairs.len() * 2) };
                header(out, mark, count);
                for (key, value) in pairs {
                    key.write(resp3, out);
                    value.write(resp3, out);
                }
            }
            Self::Double(number) => {
                let text = crate::number::printed(*number);
                if resp3 {
                    out.extend_from_slice(format!(",{text}\r\n").as_bytes());
                } else {
                    Self::Bulk(text.into_bytes()).write(false, out);
                }
            }
            Self::Push(items) => {
                header(out, if resp3 { '>' } else { '*' }, items.len());
                items.iter().for_each(|item| item.write(resp3, out));
            }
            Self::Verbatim(text) => {
                if resp3 {
                    out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
                } else {
                    Self::Bulk(text.clone().into_bytes()).write(false, out);
                }
            }
        }
    }
}

/// The line that starts at `at`, and the start of the next one.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")? + at;
    Some((&bytes[at..end], end + 2))
}

fn count(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The first command in the buffer and its length in bytes; `None` while it is incomplete.
///
/// # Panics
/// On anything other than an array of bulks: only our own programs write here.
#[must_use]
pub fn read_command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (head, mut at) = line(bytes, 0)?;
    assert_eq!(head.first(), Some(&b'*'), "a command is an array");
    let mut words = Vec::new();
    for _ in 0..count(&head[1..]).expect("a count") {
        let (head, start) = line(bytes, at)?;
        assert_eq!(head.first(), Some(&b'$'), "a word is a bulk");
        let end = start + count(&head[1..]).expect("a length");
        words.push(bytes.get(start..end)?.to_vec());
        at = end + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

/// The end of the first reply in the buffer; `None` while it is incomplete.
#[must_use]
pub fn read_reply(bytes: &[u8]) -> Option<usize> {
    fn end(bytes: &[u8], at: usize) -> Option<usize> {
        let (head, mut next) = line(bytes, at)?;
        let (mark, rest) = head.split_first()?;
        let items = match mark {
            b'$' | b'=' if rest != b"-1" => return Some(next + count(rest)? + 2).filter(|end| *end <= bytes.len()),
            b'*' | b'>' | b'~' if rest != b"-1" => count(rest)?,
            b'%' => count(rest)? * 2,
            _ => 0,
        };
        for _ in 0..items {
            next = end(bytes, next)?;
        }
        Some(next)
    }
    end(bytes, 0)
}
