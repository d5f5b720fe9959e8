//! The configuration in force after all layers, in a form that can be written out. Secrets are hidden: `raw` masks
//! them.

use std::collections::BTreeMap;

use super::raw::Raw;

/// The merged configuration, for `check-config`.
#[derive(Debug)]
pub struct Effective {
    raw: Raw,
    development: bool,
    /// Where each key was set: a file with the line, a variable, a flag. Keys that are absent have their default.
    origins: BTreeMap<String, String>,
}

impl Effective {
    pub(super) fn new(raw: Raw, development: bool, origins: BTreeMap<String, String>) -> Self {
        Self { raw, development, origins }
    }

    /// Where each key was set, except keys that have their default.
    #[must_use]
    pub fn origins(&self) -> &BTreeMap<String, String> {
        &self.origins
    }

    /// As TOML, with secrets as `***`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mode = if self.development { "development mode" } else { "not development mode" };
        let text = toml::to_string(&self.raw).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"));
        format!("# in force: {mode}, secrets hidden\n\n{text}")
    }

    /// As a JSON object, with secrets as `***`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let config = serde_json::to_value(&self.raw).unwrap_or_default();
        serde_json::json!({ "development": self.development, "config": config })
    }
}
