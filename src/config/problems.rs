//! All problems of a configuration, reported at once. Never holds the value of a secret.

use std::{collections::BTreeMap, fmt};

/// One problem to fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key it concerns, such as `server.listen`, or the name of a variable or file.
    pub key: String,
    /// Where the value was written: a file, a variable, a flag. `None`: nowhere, or in several places.
    pub origin: Option<String>,
    /// What is wrong and what is expected.
    pub text: String,
}

/// All problems of a configuration, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<ConfigProblem>);

impl Problems {
    /// Adds a problem.
    pub fn report(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push(ConfigProblem { key: key.into(), origin: None, text: text.into() });
    }

    /// Adds the problems found elsewhere.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether no problem was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, one by one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigProblem> {
        self.0.iter()
    }

    /// Adds where each value was written; a key without an origin has that of the enclosing table.
    pub(super) fn locate(&mut self, origins: &BTreeMap<String, String>) {
        for problem in self.0.iter_mut().filter(|problem| problem.origin.is_none()) {
            let mut key = Some(problem.key.as_str());
            while let Some(at) = key {
                if let Some(origin) = origins.get(at) {
                    problem.origin = Some(origin.clone());
                    break;
                }
                key = at.rsplit_once('.').map(|(parent, _)| parent);
            }
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "{count} {noun} in the configuration")?;
        for ConfigProblem { key, origin, text } in &self.0 {
            match origin {
                Some(origin) if origin != key => write!(f, "\n  {key} ({origin}): {text}")?,
                _ => write!(f, "\n  {key}: {text}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_its_value_was_written() {
        let mut problems = Problems::default();
        problems.report("profiles.own.path", "is missing");
        problems.report("server.listen", "is odd");
        problems.report("WS_X", "is unknown");
        let origins = [("profiles.own", "my.toml"), ("server.listen", "--listen"), ("WS_X", "WS_X")];
        problems.locate(&origins.into_iter().map(|(key, origin)| (key.into(), origin.into())).collect());
        assert_eq!(
            problems.to_string(),
            "3 problems in the configuration\n  profiles.own.path (my.toml): is missing\n  \
             server.listen (--listen): is odd\n  WS_X: is unknown"
        );
    }
}
