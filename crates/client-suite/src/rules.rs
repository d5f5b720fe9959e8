//! The rules of `docs/client.md` by number, with short titles. The document has their text.

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRule {
    /// Its number in the document.
    pub number: u8,
    /// The subject of the rule.
    pub title: &'static str,
}

const fn rule(number: u8, title: &'static str) -> ClientRule {
    ClientRule { number, title }
}

/// All rules, ascending.
pub const RULES: &[ClientRule] = &[
    rule(1, "the sub-protocols carry version and token"),
    rule(2, "the token as the first message"),
    rule(3, "opening takes at most 10 s"),
    rule(4, "subscribe after the welcome, within its limits"),
    rule(5, "the session of the last welcome"),
    rule(6, "push, reply and notice differ by structure"),
    rule(7, "a frame holds one object or an array"),
    rule(8, "messages of 1 MiB, in fragments"),
    rule(9, "unknown fields and types are ignored"),
    rule(10, "an invalid message ends the connection"),
    rule(11, "start with the cursor of `subscribed`"),
    rule(12, "a push moves the cursor"),
    rule(13, "a gap is reported once and moves the cursor"),
    rule(14, "until it has caught up, a channel moves alone"),
    rule(15, "channels of one stream move together"),
    rule(16, "`caught_up` and `heartbeat` move cursors"),
    rule(17, "the application's cursor moves when it has handled the message"),
    rule(18, "resume by `since`, with the options"),
    rule(19, "forget on unsubscribe and with another user"),
    rule(20, "a refused channel is no longer wanted"),
    rule(21, "`retry_after_ms`: subscribe again"),
    rule(22, "the server ends a subscription"),
    rule(23, "requests have ids and are answered in time"),
    rule(24, "a publication is repeated with its `msg_id`"),
    rule(25, "a publication has a deadline and three outcomes"),
    rule(26, "renew the token in place"),
    rule(27, "a refused `auth`"),
    rule(28, "a new token, then connect"),
    rule(29, "a token that cannot be obtained"),
    rule(30, "silence is a lost connection"),
    rule(31, "leave a lost connection at once"),
    rule(32, "reading does not wait for the application"),
    rule(33, "`closing` decides"),
    rule(34, "without `closing`, the code decides"),
    rule(35, "wait for the greater of `after_ms` and the back-off"),
    rule(36, "back-off with a bound that doubles"),
    rule(37, "the bound is reset after 5 s"),
    rule(38, "stopping closes with 1000"),
    rule(39, "the states are reported"),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::scenarios::SCENARIOS;

    /// The numbered rules of the document, each with the scenarios that it names at its end.
    fn documented() -> BTreeMap<u8, BTreeSet<String>> {
        let text = include_str!("../../../docs/client.md");
        let mut rules: BTreeMap<u8, String> = BTreeMap::new();
        for line in text.lines() {
            let number = line.split_once(". **").and_then(|(number, _)| number.parse().ok());
            if let Some(number) = number {
                assert!(rules.insert(number, line.to_owned()).is_none(), "rule {number} is listed twice");
            } else if line.starts_with("   ") {
                rules.values_mut().next_back().unwrap().push_str(line);
            }
        }
        rules.into_iter().map(|(number, text)| (number, names_at_the_end(&text))).collect()
    }

    /// The names in backticks after the last sentence.
    fn names_at_the_end(rule: &str) -> BTreeSet<String> {
        let end = rule.rsplit_once(['.', ':']).map_or(rule, |(_, end)| end);
        end.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_document_names_each_rule_and_its_scenarios() {
        let mut played: BTreeMap<u8, BTreeSet<String>> = BTreeMap::new();
        for scenario in SCENARIOS {
            let new = played.entry(scenario.rule).or_default().insert(scenario.name.to_owned());
            assert!(new, "{} is listed twice", scenario.name);
        }
        assert_eq!(documented(), played);
        assert_eq!(RULES.iter().map(|rule| rule.number).collect::<Vec<_>>(), played.into_keys().collect::<Vec<_>>());
    }

    #[test]
    fn the_document_has_the_protocol_of_the_suite() {
        let text = include_str!("../../../docs/client-suite.md");
        let sources = [include_str!("stage.rs"), include_str!("script.rs"), include_str!("scenarios/requests.rs")];
        let sources = sources.concat();
        for command in ["token", "subscribe", "unsubscribe", "publish", "command", "hold", "go", "cursors", "stop"] {
            assert!(text.contains(&format!("{{\"command\":\"{command}\"")), "{command} in docs/client-suite.md");
        }
        for event in ["token", "message", "gap", "refused", "outcome", "cursors", "state", "log"] {
            assert!(text.contains(&format!("{{\"event\":\"{event}\"")), "{event} in docs/client-suite.md");
            assert!(sources.contains(&format!("\"{event}\"")), "{event} in the suite");
        }
    }
}
