//! Configuration files.

use std::{env, fs, path::PathBuf, process, sync::LazyLock};

use tickgate::config::{Config, ConfigSources, Effective, Problems};

/// Valid, or all problems reported; a valid configuration can be shown, shows no secret, and means the same when parsed
/// again.
pub(super) fn files(data: &[u8]) {
    // Files that a configuration makes it read are not part of this target.
    if data.windows(5).any(|part| part == b"_file" || part == b"/dev/") {
        return;
    }
    match load(data) {
        Ok((config, effective)) => {
            let shown = effective.to_toml();
            for secret in config.auth.hs256_secrets.iter().chain(&config.auth.api_keys) {
                assert!(secret.expose().len() < 16 || !shown.contains(secret.expose()), "a secret is shown");
            }
            assert!(effective.to_json().is_object());
            if !shown.contains("***") {
                let (_, again) = load(shown.as_bytes()).unwrap_or_else(|problems| panic!("{problems}\n{shown}"));
                assert_eq!(again.to_toml(), shown);
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems.iter() {
                assert!(!problem.key.is_empty() && !problem.text.is_empty(), "{problem:?}");
            }
        }
    }
}

fn load(data: &[u8]) -> Result<(Config, Effective), Problems> {
    static FILE: LazyLock<PathBuf> =
        LazyLock::new(|| env::temp_dir().join(format!("tickgate-fuzz-{}.toml", process::id())));
    fs::write(&*FILE, data).expect("a temporary file");
    Config::load(&ConfigSources { file: Some(FILE.clone()), ..ConfigSources::default() })
}
