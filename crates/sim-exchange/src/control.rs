//! The control messages that clients send on a stream connection, and the exchange's responses. Pure.

use std::collections::HashSet;

use serde_json::{Value, json};

/// The effect of a message on the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ControlEffect {
    Answer(String),
    /// A response, then the end.
    AnswerAndClose(String),
    /// No effect, as if it had never arrived.
    Silence,
}

/// Violations: what no correct client requests.
pub(crate) type Misdeed = (&'static str, String);

/// The subscriptions of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionStreams {
    pub streams: HashSet<String>,
    pub combined: bool,
}

/// What the connection must know to respond.
pub(crate) struct ConnectionLimits<'a> {
    pub streams_max: usize,
    pub flat_errors: bool,
    /// Whether a lower-case symbol has data.
    pub has_data: &'a dyn Fn(&str) -> bool,
}

impl ConnectionStreams {
    /// Handles one message. New names are returned in the order in which they came.
    pub(crate) fn take(
        &mut self,
        text: &str,
        limits: &ConnectionLimits<'_>,
    ) -> (ControlEffect, Vec<String>, Vec<Misdeed>) {
        let (mut new, mut misdeeds) = (Vec::new(), Vec::new());
        let error = |code: i64, message: &str, id: &Value| {
            let response = if limits.flat_errors {
                json!({"code": code, "msg": message, "id": id})
            } else {
                json!({"error": {"code": code, "msg": message}, "id": id})
            };
            response.to_string()
        };
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            misdeeds.push(("protocol", "a message that is not JSON".into()));
            let outcome =
                ControlEffect::Answer(error(3, "Invalid JSON: expected value at line 1 column 1", &Value::Null));
            return (outcome, new, misdeeds);
        };
        let id = message["id"].clone();
        if !(id.is_u64() || id.is_null()) {
            return (
                ControlEffect::Answer(error(2, "Invalid request: request ID must be an unsigned integer", &id)),
                new,
                misdeeds,
            );
        }
        let names: Vec<_> = message["params"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let outcome = match message["method"].as_str() {
            Some("SUBSCRIBE") => {
                if names.iter().any(|name| !name.contains('@')) {
                    misdeeds.push(("name", names.join(",")));
                    return (
                        ControlEffect::AnswerAndClose(error(2, "Invalid request: invalid stream", &id)),
                        new,
                        misdeeds,
                    );
                }
                for name in names {
                    if !name.starts_with('!') && !is_good(name, limits) {
                        misdeeds.push(("name", name.to_owned()));
                    }
                    if self.streams.insert(name.to_owned()) {
                        new.push(name.to_owned());
                    }
                }
                if self.streams.len() > limits.streams_max {
                    misdeeds.push(("size", format!("{} streams", self.streams.len())));
                    return (ControlEffect::AnswerAndClose(error(4, "Too many subscriptions", &id)), new, misdeeds);
                }
                ControlEffect::Answer(json!({"result": null, "id": id}).to_string())
            }
            Some("UNSUBSCRIBE") => {
                for name in names {
                    self.streams.remove(name);
                }
                ControlEffect::Answer(json!({"result": null, "id": id}).to_string())
            }
            Some("LIST_SUBSCRIPTIONS") => {
                let mut all: Vec<_> = self.streams.iter().collect();
                all.sort();
                ControlEffect::Answer(json!({"result": all, "id": id}).to_string())
            }
            Some("SET_PROPERTY") => {
                self.combined = message["params"][1].as_bool().unwrap_or(self.combined);
                ControlEffect::Answer(json!({"result": null, "id": id}).to_string())
            }
            Some("GET_PROPERTY") => ControlEffect::Answer(json!({"result": self.combined, "id": id}).to_string()),
            _ => ControlEffect::Answer(error(2, "Invalid request: unknown variant", &id)),
        };
        (outcome, new, misdeeds)
    }
}

fn is_good(name: &str, limits: &ConnectionLimits<'_>) -> bool {
    let symbol = name.split('@').next().unwrap_or_default();
    symbol == symbol.to_ascii_lowercase() && (limits.has_data)(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ConnectionLimits<'static> {
        ConnectionLimits { streams_max: 2, flat_errors: false, has_data: &|symbol| symbol == "btcusdt" }
    }

    fn fresh() -> ConnectionStreams {
        ConnectionStreams { streams: HashSet::new(), combined: true }
    }

    #[test]
    fn all_names_are_acknowledged_and_wrong_ones_are_recorded() {
        let mut subscriptions = fresh();
        let asked = r#"{"method":"SUBSCRIBE","params":["btcusdt@ticker","BTCUSDT@ticker"],"id":1}"#;
        let (outcome, new, misdeeds) = subscriptions.take(asked, &limits());
        assert_eq!(outcome, ControlEffect::Answer(r#"{"id":1,"result":null}"#.into()));
        assert_eq!((new.len(), misdeeds), (2, vec![("name", "BTCUSDT@ticker".to_owned())]));
        let (outcome, ..) = subscriptions.take(r#"{"method":"LIST_SUBSCRIPTIONS","id":2}"#, &limits());
        assert_eq!(outcome, ControlEffect::Answer(r#"{"id":2,"result":["BTCUSDT@ticker","btcusdt@ticker"]}"#.into()));
    }

    #[test]
    fn too_many_streams_and_malformed_names_close_the_connection() {
        for asked in [
            r#"{"method":"SUBSCRIBE","params":["a@x","b@x","c@x"],"id":1}"#,
            r#"{"method":"SUBSCRIBE","params":["x"],"id":1}"#,
        ] {
            assert!(matches!(fresh().take(asked, &limits()).0, ControlEffect::AnswerAndClose(_)), "{asked}");
        }
        for asked in ["x", r#"{"method":"NO","id":1}"#, r#"{"method":"SUBSCRIBE","id":"a"}"#] {
            let (outcome, ..) = fresh().take(asked, &limits());
            assert!(matches!(&outcome, ControlEffect::Answer(text) if text.contains("error")), "{asked}");
        }
    }
}
