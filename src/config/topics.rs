//! The delivery classes of topics, and the rule for private channels.

use std::time::Duration;

use tickgate_wire::model::{Class, LogLevel, Pattern, TopicRule, TopicRules};

use super::{Problems, raw, value::Section};

const CLASSES: [(&str, Class); 3] = [("state", Class::State), ("event", Class::Event), ("reliable", Class::Reliable)];
const RETAIN_MAX: u64 = 10_000_000;
/// The default for rules that do not set it.
const DEDUPE_TTL: &str = "5m";

/// The whole table. The rule for `*` is the last one, which `lists::merge` ensures.
pub(super) fn check(raw: &[raw::RawTopic], user_stream: &raw::UserStream, problems: &mut Problems) -> TopicRules {
    let user_stream = check_user_stream(user_stream, problems);
    let mut rules: Vec<TopicRule> = raw.iter().filter_map(|rule| check_rule(rule, problems)).collect();
    let fallback = match rules.pop_if(|rule| rule.pattern.as_str() == "*") {
        Some(rule) => rule,
        // Absent only without the shipped defaults, or if it could not be parsed, which has already been reported.
        None => TopicRule { class: Class::Event, ..user_stream.clone() },
    };
    TopicRules::new(rules, user_stream, fallback)
}

fn check_user_stream(raw: &raw::UserStream, problems: &mut Problems) -> TopicRule {
    let mut section = Section::new("user_stream", problems);
    TopicRule {
        pattern: any(),
        class: Class::Reliable,
        retain_max: section.number("retain_max", raw.retain_max, 1..=RETAIN_MAX),
        retain_ttl: retain_ttl(&raw.retain_ttl, &mut section),
        wait_replicas: section.number("wait_replicas", raw.wait_replicas, 0..=16),
        wait_aof: raw.wait_aof,
        dedupe_ttl: dedupe_ttl(&raw.dedupe_ttl, &mut section),
        level_min: None,
    }
}

fn check_rule(raw: &raw::RawTopic, problems: &mut Problems) -> Option<TopicRule> {
    let mut section = Section::new(format!("topics.{}", raw.pattern), problems);
    let pattern = Pattern::new(&raw.pattern).map_err(|error| section.report("pattern", error.to_string())).ok();
    let class = section.choice("class", &raw.class, &CLASSES);
    let (max, ttl) = usual(class);
    let retain_max = raw.retain_max.unwrap_or(max);
    match class {
        Class::State if retain_max > 1 => {
            section.report("retain_max", "must be 0 or 1: a state topic keeps only the newest message");
        }
        Class::Reliable if retain_max == 0 => {
            section.report(
                "retain_max",
                "must be at least 1: subscribers of reliable topics catch up from the retained messages",
            );
        }
        _ => {}
    }
    Some(TopicRule {
        class,
        retain_max: section.number("retain_max", retain_max, 0..=RETAIN_MAX),
        retain_ttl: retain_ttl(raw.retain_ttl.as_deref().unwrap_or(ttl), &mut section),
        wait_replicas: section.number("wait_replicas", raw.wait_replicas.unwrap_or(0), 0..=16),
        wait_aof: raw.wait_aof.unwrap_or(false),
        dedupe_ttl: dedupe_ttl(raw.dedupe_ttl.as_deref().unwrap_or(DEDUPE_TTL), &mut section),
        level_min: raw.level_min.as_deref().map(|level| section.choice("level_min", level, &LogLevel::ALL)),
        pattern: pattern?,
    })
}

/// The default retention of rules that do not set it.
const fn usual(class: Class) -> (u64, &'static str) {
    match class {
        Class::State => (1, "24h"),
        Class::Event => (1000, "1h"),
        Class::Reliable => (10_000, "24h"),
    }
}

fn retain_ttl(text: &str, section: &mut Section<'_>) -> Duration {
    section.duration("retain_ttl", text, ["1s", "90d"])
}

fn dedupe_ttl(text: &str, section: &mut Section<'_>) -> Duration {
    section.duration("dedupe_ttl", text, ["1s", "24h"])
}

fn any() -> Pattern {
    Pattern::new("*").expect("`*` is a pattern")
}
