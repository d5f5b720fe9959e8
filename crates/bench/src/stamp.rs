//! The published messages: JSON objects of a chosen size with a stamp that can be found without parsing JSON.

/// The key before the stamp.
const LEAD: &[u8] = b"\"b\":\"";
/// Hex digits of a stamp: time, stream, sequence.
const DIGITS: usize = 32;

/// When a payload was written, for which stream of the workload, and with which sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadStamp {
    /// Nanoseconds since the start of the load.
    pub(crate) sent_ns: u64,
    pub(crate) stream: u32,
    /// Counts from 1 within the stream.
    pub(crate) seq: u32,
}

impl PayloadStamp {
    fn parse(digits: &[u8; DIGITS]) -> Self {
        let word = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&digits[at..at + 8]);
            unhex(eight)
        };
        Self { sent_ns: u64::from(word(0)) << 32 | u64::from(word(8)), stream: word(16), seq: word(24) }
    }

    /// Appends a JSON object of `len` bytes (or the minimum size) that contains the stamp.
    pub(crate) fn put_payload(&self, out: &mut Vec<u8>, len: usize) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        const START: &[u8] = b"{\"type\":\"bench\",";
        const PAD: &[u8] = b",\"pad\":\"";
        out.extend_from_slice(START);
        out.extend_from_slice(LEAD);
        for word in [self.sent_ns, u64::from(self.stream) << 32 | u64::from(self.seq)] {
            out.extend((0..16).rev().map(|nibble| HEX[(word >> (4 * nibble)) as usize & 15]));
        }
        out.push(b'"');
        let fixed = START.len() + LEAD.len() + DIGITS + 1 + PAD.len() + 2;
        if len >= fixed {
            out.extend_from_slice(PAD);
            out.resize(out.len() + len - fixed, b'x');
            out.push(b'"');
        }
        out.push(b'}');
    }
}

/// Eight lower-case hex digits at once.
fn unhex(digits: [u8; 8]) -> u32 {
    let word = u64::from_be_bytes(digits);
    // A letter has bit 6 set and counts from 1 in its low bits.
    let nibbles = (word & 0x0f0f_0f0f_0f0f_0f0f) + 9 * ((word >> 6) & 0x0101_0101_0101_0101);
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let pairs = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (pairs | pairs >> 16) as u32
}

/// Finds stamps. They are at the same offset in nearly every frame, so the last offset is tried first.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    at: usize,
}

impl Finder {
    /// The stamp of a payload, or `None` if it has none.
    pub(crate) fn find(&mut self, payload: &[u8]) -> Option<PayloadStamp> {
        let here = |at: usize| {
            let rest = payload.get(at..)?.strip_prefix(LEAD)?;
            rest.first_chunk::<DIGITS>().map(PayloadStamp::parse)
        };
        here(self.at).or_else(|| {
            self.at = find(payload, LEAD)?;
            here(self.at)
        })
    }
}

/// The offset of `needle` in `bytes`.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_the_requested_size_and_contains_its_stamp() {
        let stamp = PayloadStamp { sent_ns: 0x0123_4567_89ab_cdef, stream: 0xdead_beef, seq: 0xf00d_cafe };
        for len in [0, 80, 200, 2000] {
            let mut payload = Vec::new();
            stamp.put_payload(&mut payload, len);
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap();
            assert!(payload.len() == len || len == 0, "{len}");
            assert_eq!(Finder::default().find(&payload), Some(stamp));
        }
    }

    #[test]
    fn a_stamp_is_found_wherever_it_moves() {
        let stamp = PayloadStamp { sent_ns: 7, stream: 1, seq: 2 };
        let mut payload = b"{\"_meta\":{\"id\":\"1-1\"},".to_vec();
        stamp.put_payload(&mut payload, 100);
        let mut finder = Finder::default();
        for cut in [0, 5, 0, 9] {
            assert_eq!(finder.find(&payload[cut..]), Some(stamp), "{cut}");
        }
        assert_eq!(finder.find(b"{\"type\":\"heartbeat\"}"), None);
        assert_eq!(finder.find(b"{\"b\":\"short\"}"), None);
    }
}
