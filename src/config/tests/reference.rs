//! The shipped files and the reference agree with the code.

use std::fmt::Write as _;

use super::{super::profile::RESERVED, *};

#[test]
fn the_shipped_production_file_only_lacks_its_secrets() {
    let sources = ConfigSources {
        file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml").into()),
        ..ConfigSources::default()
    };
    let (mounted, _) = file(&format!("{SECRET}\n"));
    let (keys, _) = file("fedcba9876543210fedcba9876543210-api-key\n");
    let (url, _) = file("rediss://redis:6379/0");
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let sources = sources
        .flag("", "auth.hs256_secrets_file", path(&mounted))
        .flag("", "auth.api_keys_file", path(&keys))
        .flag("", "redis.url_file", path(&url));
    let config = load(&sources);
    assert!(!config.development && config.redis.is_some() && config.log.json);
    assert_eq!(config.warnings, Vec::<String>::new());
}

/// `docs/configuration.md` has a row for every key, with its default, and no row for an unknown key.
#[test]
fn the_reference_lists_every_key_with_its_default() {
    let docs = include_str!("../../../docs/configuration.md");
    let defaults: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let mut missing = String::new();
    for key in keys().iter().filter(|key| !lists::is_list_of_tables(key)) {
        let default = key.split('.').fold(None, |at: Option<&toml::Value>, part| {
            at.map_or_else(|| defaults.get(part), |table| table.get(part))
        });
        let row = format!("| `{key}` | `{}` |", default.unwrap());
        if !docs.contains(&row) {
            writeln!(missing, "{row}").unwrap();
        }
    }
    assert_eq!(missing, "", "rows that docs/configuration.md lacks");
    let known = keys();
    for row in docs.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = row.split('`').next().unwrap();
        let short = SHORT_NAMES.iter().any(|(short, _)| *short == name);
        assert!(
            !name.contains('.') || short || known.iter().any(|key| key == name),
            "unknown key in the reference: {name}"
        );
    }
    for (short, key) in SHORT_NAMES {
        assert!(docs.contains(&format!("| `{short}` | `{key}` |")), "{short}");
    }
    let entries = [
        lists::fields_of::<raw::RawProfile>(),
        lists::fields_of::<raw::RawChannel>(),
        lists::fields_of::<raw::RawTopic>(),
    ];
    for field in entries.concat().iter().chain(lists::fields_of::<raw::RawPublicKey>()) {
        assert!(docs.contains(&format!("| `{field}` |")), "{field}");
    }
}

/// The example of a custom endpoint in the reference works as written.
#[test]
fn the_example_of_the_reference_works() {
    let docs = include_str!("../../../docs/configuration.md");
    let example =
        docs.split("```toml\n").find(|block| block.starts_with("[[profiles]]")).unwrap().split("```").next().unwrap();
    let config = load(&file(example).1);
    let profile = config.profiles.iter().find(|profile| profile.name == "strategies").unwrap();
    assert_eq!(profile.channels[0].scope, ChannelScope::Path("signals:{strategy}".into()));
    assert_eq!(config.profiles.len(), Config::development().profiles.len() + 1);
    assert_eq!(config.topics.of_name("signals:momentum").retain_max, 5000);
}

/// The reference and the comments of the shipped file name exactly the keys that entries may have.
#[test]
fn the_shipped_file_explains_every_key() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        let is_key = line
            .split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
        if line.starts_with("[[topics]]") {
            break;
        }
        assert!(!is_key || explained, "no comment above: {line}");
        explained = line.starts_with('#');
    }
    for field in [
        lists::fields_of::<raw::RawProfile>(),
        lists::fields_of::<raw::RawChannel>(),
        lists::fields_of::<raw::RawTopic>(),
    ]
    .concat()
    {
        let key = ["name", "pattern", "class", "enabled"].contains(&field) || DEFAULTS.contains(&format!(" {field} "));
        assert!(key, "not explained: {field}");
    }
}

/// No profile can use a path that the gateway itself serves on the public listener: otherwise it would not start.
#[test]
fn the_public_paths_are_reserved() {
    let api: serde_json::Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let is_public = |path: &serde_json::Value| path["servers"][0]["url"].as_str().unwrap().ends_with(":8000");
    let paths = api["paths"].as_object().unwrap().iter().filter(|(_, path)| is_public(path)).map(|(name, _)| &**name);
    let mut public: Vec<_> = paths.filter(|path| *path != "/").collect();
    public.sort_unstable();
    assert_eq!(public, RESERVED);
    let docs = include_str!("../../../docs/configuration.md");
    for path in RESERVED {
        assert!(docs.contains(&format!("`{path}`")), "docs/configuration.md does not name {path}");
    }
}

#[test]
fn the_documents_name_the_shipped_endpoints() {
    let profiles = Config::development().profiles;
    let docs = include_str!("../../../docs/configuration.md");
    let listed = docs.split("Shipped: ").nth(1).unwrap().split('.').next().unwrap();
    let listed: Vec<_> = listed.split(", ").map(|name| name.trim_matches('`')).collect();
    assert_eq!(listed, profiles.iter().map(|profile| &*profile.name).collect::<Vec<_>>());
    let described = include_str!("../../../docs/asyncapi.yaml").lines();
    let described: Vec<_> = described.filter_map(|line| line.trim().strip_prefix("address: ")).collect();
    let sockets = profiles.iter().filter(|profile| profile.protocol.transport == Transport::WebSocket);
    assert_eq!(described, sockets.map(|profile| &*profile.path).collect::<Vec<_>>());
}
