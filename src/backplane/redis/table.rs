//! The topic rules that engines find in Redis. Never read by a replica: each uses its own configuration.

use serde::Serialize;
use tickgate_wire::model::{TopicRule, TopicRules};

#[derive(Serialize)]
struct TopicRuleTable<'a> {
    /// In the order in which they are matched.
    topics: Vec<TopicRuleRow<'a>>,
    user_stream: &'a TopicRule,
}

#[derive(Serialize)]
struct TopicRuleRow<'a> {
    pattern: &'a str,
    #[serde(flatten)]
    rule: &'a TopicRule,
}

/// The table as JSON.
pub(super) fn of(rules: &TopicRules) -> String {
    let topics = rules.by_name().map(|rule| TopicRuleRow { pattern: rule.pattern.as_str(), rule }).collect();
    let table = TopicRuleTable { topics, user_stream: rules.user_stream() };
    serde_json::to_string(&table).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tickgate_wire::model::{Class, Pattern};

    use super::*;
    use crate::backplane::redis::for_tests::rule;

    #[test]
    fn engines_find_each_rule_in_order_and_the_users_own_stream() {
        let (hour, five) = (Duration::from_secs(3_600), Duration::from_secs(5));
        let kept = |retain_max| (*rule(retain_max, hour)).clone();
        let pattern = |text| Pattern::new(text).unwrap();
        let ticker = TopicRule { pattern: pattern("ticker:*"), class: Class::State, dedupe_ttl: five, ..kept(1) };
        let table = of(&TopicRules::new(vec![ticker], kept(1_000), TopicRule { wait_replicas: 1, ..kept(7) }));
        assert_eq!(
            table,
            concat!(
                r#"{"topics":[{"pattern":"ticker:*","class":"state","retain_max":1,"retain_ttl":3600,"wait_replicas":0,"#,
                r#""wait_aof":false,"dedupe_ttl":5},{"pattern":"*","class":"reliable","retain_max":7,"retain_ttl":3600,"#,
                r#""wait_replicas":1,"wait_aof":false,"dedupe_ttl":300}],"user_stream":{"class":"reliable","#,
                r#""retain_max":1000,"retain_ttl":3600,"wait_replicas":0,"wait_aof":false,"dedupe_ttl":300}}"#
            )
        );
    }
}
