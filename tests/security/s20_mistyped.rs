//! S20: misspelt security settings: the gateway must not start without them.

use std::process::{Command, Output};

use crate::{gateway::program, siege::repelled};

fn start(settings: &str, variable: Option<(&str, &str)>) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), settings).expect("the settings");
    let mut command = Command::new(program());
    command.arg("serve").env("TICKGATE_CONFIG", file.path()).envs(variable);
    // It must exit: the test does not stop it.
    command.output().expect("the gateway to run")
}

pub async fn s20_what_names_nothing_stops_the_start() {
    for (settings, variable, wanted) in [
        ("[[profiles]]\nname = \"tradng\"\nenabled = false\n", None, "profiles.tradng"),
        ("", Some(("TICKGATE_SERVER__LISTEN", "127.0.0.1:0")), "TICKGATE__SERVER__LISTEN"),
        ("", Some(("TICKGATE__AUTH__HS256_SECRETS", "")), "is set but empty"),
        ("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]\n", None, "the proxies' own addresses"),
    ] {
        let ended = start(settings, variable);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{settings:?} {variable:?}: {said}");
        assert!(said.contains(wanted), "{said}");
        println!("  refused    {}", said.lines().nth(1).unwrap_or_default().trim());
    }
    repelled("S20 settings that name nothing");
}
