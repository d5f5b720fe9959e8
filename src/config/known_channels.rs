//! The channels that clients can receive: those that endpoints offer, and those that rules of `[[topics]]` name. Finds
//! publications that no client could receive. Pure; called for each publication.

use std::sync::Arc;

use tickgate_wire::model::{Pattern, TopicRules};

use super::{
    profile::{ChannelScope, Profile},
    value::nearest,
};

/// All of them.
#[derive(Clone, Debug)]
pub struct KnownChannels {
    /// The topics of public channels, of paths, and of commands.
    topics: Vec<Pattern>,
    /// Private channels.
    private: Vec<Pattern>,
    /// What rules name, except the rule for everything: engines read such topics straight from Redis.
    rules: Vec<Pattern>,
}

impl KnownChannels {
    /// Collects the channels of the profiles, and the patterns of the rules that name a fixed part.
    #[must_use]
    pub fn new(profiles: &[Arc<Profile>], rules: &TopicRules) -> Self {
        let mut known = Self { topics: Vec::new(), private: Vec::new(), rules: Vec::new() };
        for profile in profiles {
            for channel in &profile.channels {
                match &channel.scope {
                    ChannelScope::Public => add(&mut known.topics, channel.pattern.clone()),
                    ChannelScope::Private => add(&mut known.private, channel.pattern.clone()),
                    ChannelScope::Path(template) => add_template(&mut known.topics, template),
                }
            }
            profile.commands_topic.iter().for_each(|template| add_template(&mut known.topics, template));
        }
        let named = rules.patterns().filter(|pattern| pattern.has_fixed_part());
        named.for_each(|pattern| add(&mut known.rules, pattern.clone()));
        known
    }

    /// Why no client could receive what is published to this topic, or to this private channel of a user, and what was
    /// probably meant.
    #[must_use]
    pub fn mistake(&self, channel: &str, private: bool) -> Option<String> {
        let (own, other) = if private { (&self.private, &self.topics) } else { (&self.topics, &self.private) };
        if matches(own, channel) {
            return None;
        }
        // A pattern for everything gives no hint of what was meant.
        if other.iter().any(|pattern| pattern.has_fixed_part() && pattern.matches(channel)) {
            return Some(match private {
                true => format!("`{channel}` is not a private channel: omit `user`"),
                false => format!("`{channel}` is a private channel: specify its `user`"),
            });
        }
        if matches(&self.rules, channel) {
            return None;
        }
        let kind = if private { "private channel" } else { "topic" };
        let text = format!("no endpoint offers a {kind} `{channel}`, and no rule of [[topics]] except `*` names it");
        let Some(meant) = meant(channel, own.iter().chain(&self.rules).chain(other)) else { return Some(text) };
        let kind = match (matches(own, &meant) || !matches(other, &meant), private) {
            (true, _) => "",
            (false, true) => " without `user`",
            (false, false) => " with a `user`",
        };
        Some(format!("{text}; did you mean `{meant}`{kind}?"))
    }
}

fn add(list: &mut Vec<Pattern>, pattern: Pattern) {
    if !list.contains(&pattern) {
        list.push(pattern);
    }
}

/// The topics that a template such as `run:{run_id}` produces.
fn add_template(list: &mut Vec<Pattern>, template: &str) {
    let parameter = template.find('{').zip(template.find('}'));
    let text = parameter.map_or_else(
        || template.to_owned(),
        |(open, close)| format!("{}*{}", &template[..open], &template[close + 1..]),
    );
    if let Ok(pattern) = Pattern::new(&text) {
        add(list, pattern);
    }
}

fn matches(list: &[Pattern], channel: &str) -> bool {
    list.iter().any(|pattern| pattern.matches(channel))
}

/// The name that was probably meant: for `tickr:BTC` and the pattern `ticker:*` it is `ticker:BTC`.
fn meant<'a>(channel: &str, patterns: impl Iterator<Item = &'a Pattern>) -> Option<String> {
    let rest = channel.split_once(':').map(|(_, rest)| rest);
    let name = |pattern: &Pattern| match (pattern.as_str().split_once('*'), rest) {
        (None, _) => Some(pattern.as_str().to_owned()),
        (Some((start, "")), Some(rest)) if start.ends_with(':') => Some(format!("{start}{rest}")),
        _ => None,
    };
    let names: Vec<_> = patterns.filter_map(name).collect();
    nearest(channel, names.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigSources};

    use super::*;

    fn known(settings: &str) -> KnownChannels {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{settings}").unwrap();
        let (config, _) =
            Config::load(&ConfigSources { file: Some(file.path().into()), ..ConfigSources::default() }).unwrap();
        KnownChannels::new(&config.profiles, &config.topics)
    }

    #[test]
    fn a_receivable_channel_is_not_a_mistake() {
        let known = known("");
        for topic in ["ticker:BTC", "trades:BRK B", "system_log", "run:r-1", "commands", "ingest_events", "logs"] {
            assert_eq!(known.mistake(topic, false), None, "{topic}");
        }
        for channel in ["orders", "risk_alerts", "bot_status", "portfolio"] {
            assert_eq!(known.mistake(channel, true), None, "{channel}");
        }
    }

    #[test]
    fn a_mistake_suggests_the_intended_name() {
        let known = known("");
        let nobody = |kind: &str, channel: &str| {
            format!("no endpoint offers a {kind} `{channel}`, and no rule of [[topics]] except `*` names it")
        };
        let cases = [
            ("order", true, format!("{}; did you mean `orders`?", nobody("private channel", "order"))),
            ("tickr:BTC", false, format!("{}; did you mean `ticker:BTC`?", nobody("topic", "tickr:BTC"))),
            ("Ticker:BRK B", false, format!("{}; did you mean `ticker:BRK B`?", nobody("topic", "Ticker:BRK B"))),
            ("riskalerts", true, format!("{}; did you mean `risk_alerts`?", nobody("private channel", "riskalerts"))),
            (
                "portfolios",
                false,
                format!("{}; did you mean `portfolio` with a `user`?", nobody("topic", "portfolios")),
            ),
            (
                "tickr:BTC",
                true,
                format!("{}; did you mean `ticker:BTC` without `user`?", nobody("private channel", "tickr:BTC")),
            ),
            ("weather", false, nobody("topic", "weather")),
            ("orders", false, "`orders` is a private channel: specify its `user`".to_owned()),
            ("ticker:BTC", true, "`ticker:BTC` is not a private channel: omit `user`".to_owned()),
        ];
        for (channel, private, says) in cases {
            assert_eq!(known.mistake(channel, private), Some(says), "{channel}");
        }
    }

    #[test]
    fn own_endpoints_and_rules_are_known() {
        let known = known(
            "[[profiles]]\nname = \"desk\"\npath = \"/ws/desk/{desk}\"\ntoken = \"required\"\ncommands_topic = \"to-{desk}\"\n\
             channels = [{ name = \"blotter\", topic = \"desk:{desk}:all\" }, { name = \"notes *\", scope = \"private\" }]\n\
             [[topics]]\npattern = \"engine.*\"\nclass = \"reliable\"\n[[topics]]\npattern = \"*\"\nclass = \"event\"",
        );
        for topic in ["desk:fx:all", "to-fx", "engine.in"] {
            assert_eq!(known.mistake(topic, false), None, "{topic}");
        }
        assert_eq!(known.mistake("notes of today", true), None);
        for topic in ["blotter", "desk:fx", "engine"] {
            assert!(known.mistake(topic, false).is_some(), "{topic}");
        }
        let open = self::known(
            "[[profiles]]\nname = \"all\"\npath = \"/all\"\ntoken = \"ignored\"\nchannels = [{ name = \"*\" }]",
        );
        assert_eq!(open.mistake("anything", false), None, "an endpoint offers it");
        assert!(open.mistake("order", true).unwrap().ends_with("did you mean `orders`?"));
    }
}
