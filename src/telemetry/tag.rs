//! The replica's name in each line of its log, so that lines of many replicas can be distinguished. Does not parse
//! lines.

/// What is added to each line.
pub(super) enum Tag {
    /// A first field of the object.
    Json(String),
    /// A last field of the line.
    Text(String),
}

impl Tag {
    /// For a replica with this name, which needs no quoting: `server.name` contains only letters, digits, `-`, `_` and
    /// `.`.
    pub(super) fn new(name: &str, json: bool) -> Self {
        if json {
            Self::Json(format!("{{\"server_name\":\"{name}\","))
        } else {
            Self::Text(format!(" server_name=\"{name}\"\n"))
        }
    }

    /// Maximum number of bytes that are added to a line.
    pub(super) fn bytes(&self) -> usize {
        let (Self::Json(text) | Self::Text(text)) = self;
        text.len()
    }

    /// Appends a complete line, with the name.
    pub(super) fn append(&self, line: &[u8], out: &mut Vec<u8>) {
        match (self, line) {
            (Self::Json(tag), [b'{', rest @ ..]) => {
                out.extend_from_slice(tag.as_bytes());
                out.extend_from_slice(rest);
            }
            (Self::Text(tag), [rest @ .., b'\n']) => {
                out.extend_from_slice(rest);
                out.extend_from_slice(tag.as_bytes());
            }
            _ => out.extend_from_slice(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_name() {
        let tagged = |json, line: &str| {
            let (tag, mut out) = (Tag::new("gateway-0", json), Vec::new());
            tag.append(line.as_bytes(), &mut out);
            assert!(out.len() <= line.len() + tag.bytes());
            String::from_utf8(out).unwrap()
        };
        let line: serde_json::Value = serde_json::from_str(&tagged(true, "{\"message\":\"serving\"}\n")).unwrap();
        assert_eq!(line, serde_json::json!({"server_name": "gateway-0", "message": "serving"}));
        assert_eq!(tagged(false, "INFO serving port=1\n"), "INFO serving port=1 server_name=\"gateway-0\"\n");
    }
}
