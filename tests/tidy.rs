//! Checks of the architecture and the documents: which module may import which, where each crate may appear, how long a
//! file may be, and that lists in the documents match the code. Does not check what the compiler or clippy checks.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]

#[path = "tidy/bounds.rs"]
mod bounds;
#[path = "tidy/cycles.rs"]
mod cycles;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/growing.rs"]
mod growing;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/source.rs"]
mod source;

use std::{collections::BTreeSet, process::Command};

use source::{SourceFile, manifests, root, sources, suite};

/// Modules, in the order in which they build on each other, and everything they may import. Before adding an entry,
/// ask: does the dependency point in the direction in which messages travel, and could a value be passed instead?
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tasks", &[]),
    ("clock", &[]),
    ("defect", &[]),
    ("descriptors", &[]),
    ("config", &[]),
    ("bucket", &["config"]),
    ("fairness", &[]),
    ("telemetry", &["config"]),
    ("log_limit", &[]),
    ("problem", &[]),
    ("metrics", &["tasks"]),
    ("audit", &["config", "log_limit", "metrics"]),
    ("auth", &["bucket", "clock", "config", "metrics", "tasks"]),
    ("tls", &["config", "metrics"]),
    // Decides, and never sees fan-out: no `hub`, no `connection`, no `backplane`.
    ("session", &["auth", "bucket", "config"]),
    // Judges every step of every reader.
    ("history", &[]),
    ("redis_link", &["clock", "config", "defect", "fairness", "log_limit", "metrics", "tasks"]),
    // The message path between replicas knows neither topics' subscribers nor sessions.
    ("backplane", &["clock", "defect", "history", "redis_link", "tasks"]),
    ("registry", &["clock", "config", "defect", "redis_link", "tasks"]),
    ("publisher", &["backplane", "config", "log_limit", "metrics"]),
    // Knows outboxes and wire forms: no `session`, no `connection`, no `api`.
    ("hub", &["backplane", "bucket", "clock", "config", "defect", "fairness", "history", "metrics", "tasks", "tls"]),
    ("feeds", &["backplane", "clock", "config", "defect", "metrics", "publisher", "registry", "tasks"]),
    (
        "connection",
        &[
            "audit",
            "auth",
            "backplane",
            "bucket",
            "clock",
            "config",
            "descriptors",
            "hub",
            "log_limit",
            "metrics",
            "problem",
            "publisher",
            "registry",
            "session",
            "tasks",
            "tls",
        ],
    ),
    (
        "api",
        &[
            "audit",
            "auth",
            "backplane",
            "bucket",
            "config",
            "connection",
            "metrics",
            "problem",
            "publisher",
            "registry",
            "tls",
        ],
    ),
    (
        "app",
        &[
            "api",
            "auth",
            "backplane",
            "clock",
            "config",
            "connection",
            "descriptors",
            "feeds",
            "hub",
            "metrics",
            "publisher",
            "redis_link",
            "registry",
            "session",
            "tasks",
            "telemetry",
            "tls",
        ],
    ),
    ("cli", &["app", "auth", "config", "defect", "descriptors", "tasks", "telemetry"]),
];

/// What the members of the workspace may depend on: the crates of this repository, in order. Dependencies used only by
/// tests are not listed.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    // The vocabulary of the wire; without tokio, so that the compiler keeps it free of I/O.
    ("crates/wire", &[]),
    ("crates/process", &[]),
    // Shares no code with the gateway, so that the two cannot have the same bug.
    ("crates/sim-exchange", &[]),
    ("crates/client", &["tickgate-wire"]),
    // Does not use the client: it must not be correct for the same reason as a client.
    ("crates/client-suite", &["tickgate-wire"]),
    // Uses neither the client nor the gateway: they would become part of the measurement.
    ("crates/bench", &["tickgate-process", "tickgate-wire"]),
    ("", &["tickgate-client", "tickgate-process", "tickgate-wire"]),
    ("benches", &[]),
    ("tests/kit", &["tickgate", "tickgate-client", "tickgate-wire"]),
    // Knows only Redis, so that it cannot share a bug with the gateway.
    ("tests/model", &[]),
    ("tests/redis-model", &[]),
];

/// Crates that may be used only in their home modules, so that they can be replaced.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    (
        "axum",
        &[
            "api/",
            "connection/accept.rs",
            "connection/admission.rs",
            "connection/event_stream.rs",
            "connection/refused.rs",
            "connection/loopback.rs",
            "connection/routes.rs",
            "connection/upgrade.rs",
            "problem.rs",
        ],
    ),
    ("redis", &["backplane/redis/", "redis_link/", "registry/redis/"]),
    ("deadpool", &["redis_link/"]),
    ("jsonwebtoken", &["auth/", "crates/bench/token.rs"]),
    // Handles are created in `metrics`; other modules hold one: a connection its gauge, the lifecycle its own.
    ("prometheus", &["metrics/", "api/readiness.rs", "tasks.rs", "telemetry.rs", "telemetry/writer.rs"]),
    ("clap", &["cli/", "crates/bench/main.rs", "crates/client-suite/main.rs", "crates/sim-exchange/main.rs"]),
    ("hdrhistogram", &["crates/bench/latency.rs"]),
    ("hyper_rustls", &["crates/client/http.rs", "crates/client/trust.rs"]),
    ("tokio_tungstenite", &["crates/client/socket.rs", "feeds/binance/connections.rs", "feeds/binance/socket.rs"]),
    ("tickgate_client", &["cli/", "auth/jwks.rs", "feeds/binance/rest.rs", "crates/client/bin/adapter.rs"]),
    ("tickgate_client_suite", &["crates/client-suite/main.rs"]),
    ("tickgate_process", &["cli/demo/", "crates/bench/"]),
    ("mio", &["crates/bench/"]),
    ("toml", &["config/", "crates/bench/target.rs"]),
    ("tracing_subscriber", &["telemetry.rs", "telemetry/", "config/feeds.rs"]),
];

/// The core, which decides without I/O and takes the time as an argument: these, and every file whose header says
/// "Pure".
const PURE: &[&str] = &["crates/wire/", "session/", "redis_link/topology.rs"];
/// What the core must not name.
const IMPURE: &[&str] = &[
    "tokio::",
    "axum::",
    "hyper::",
    "redis::",
    "prometheus::",
    "tracing::",
    "std::net::Tcp",
    "std::fs::",
    "Instant::now",
    "SystemTime::now",
    "Utc::now",
];

/// Maximum lines of a file, without its tests.
const LINES_MAX: usize = 400;

/// Words for unfinished work. Everything on main is finished.
const STUBS: &[&str] = &["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "not implemented"];

/// Names that say nothing about the contents.
const BANNED_NAMES: &[&str] = &["broker", "node", "manager", "service", "handler", "util", "utils", "core", "common"];

/// Fails with one line per error.
fn nothing(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Fails with all errors that a rule finds in the sources, excluding tests.
fn holds(rule: impl Fn(&SourceFile) -> Vec<String>) {
    nothing(sources().iter().filter(|source| !source.is_test).flat_map(|source| {
        let found = rule(source);
        found.into_iter().map(|wrong| format!("{}: {wrong}", source.shown())).collect::<Vec<_>>()
    }));
}

fn is_at(source: &SourceFile, homes: &[&str]) -> bool {
    homes.iter().any(|home| source.path == *home || (home.ends_with('/') && source.path.starts_with(home)))
}

#[test]
fn modules_import_only_what_they_build_on() {
    let roots = ["lib.rs", "main.rs"];
    let modules: BTreeSet<_> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    holds(|source| {
        let module = source.module();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            let is_elsewhere = roots.contains(&&*source.path) || module == "crates";
            return if is_elsewhere { vec![] } else { vec![format!("`{module}` has no row here")] };
        };
        let mut strangers = source.imports();
        strangers.retain(|name| modules.contains(&**name) && name != module && !allowed.contains(&&**name));
        strangers.iter().map(|stranger| format!("`{module}` may not import `{stranger}`")).collect()
    });
}

#[test]
fn the_table_of_imports_has_no_cycle() {
    let mut below = BTreeSet::new();
    for (module, imports) in MAY_IMPORT {
        for import in *imports {
            assert!(below.contains(import), "`{module}` imports `{import}`, which the table does not place below it");
        }
        below.insert(module);
    }
}

#[test]
fn the_tables_allow_nothing_unnecessary() {
    let sources = sources();
    let product = || sources.iter().filter(|source| !source.is_test);
    let imports = MAY_IMPORT.iter().flat_map(|(module, imports)| imports.iter().map(move |import| (*module, *import)));
    let idle_import = imports.filter(|(module, import)| {
        !product().any(|source| source.module() == *module && source.imports().iter().any(|name| name == import))
    });
    let homes = CRATE_HOMES.iter().flat_map(|(name, homes)| homes.iter().map(move |home| (*name, *home)));
    let idle_home =
        homes.filter(|(name, home)| !product().any(|source| is_at(source, &[home]) && source.names_crate(name)));
    let idle_pure = PURE.iter().filter(|place| !product().any(|source| is_at(source, &[place])));
    nothing(
        (idle_import.map(|(module, import)| format!("`{module}` no longer imports `{import}`")))
            .chain(idle_home.map(|(name, home)| format!("`{name}` no longer appears in {home}")))
            .chain(idle_pure.map(|place| format!("the core has no {place}"))),
    );
}

/// A documented label value that is never counted is an empty panel and an alert that never fires.
#[test]
fn every_label_value_is_counted_somewhere() {
    let sources = sources();
    let (lists, rest): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.path.starts_with("metrics/labels"));
    let list = &lists.iter().map(|source| &*source.text).collect::<String>();
    let mut wrong = Vec::new();
    for label in list.split("\nlabel!(").skip(1).filter_map(|block| block.split("\n);").next()) {
        let declared = label.lines().find(|line| line.contains(" as \"")).expect("a label");
        let name = declared.split_whitespace().next().expect("a name");
        let variants = label.lines().filter_map(|line| line.trim().split_once(" = \"")).map(|(variant, _)| variant);
        let users = || rest.iter().filter(|source| !source.is_test && source.names(name));
        for variant in variants {
            // The list itself maps external numbers to some labels.
            let mapped = list.contains(&format!("Self::{variant},"));
            let counts = |source: &SourceFile| {
                source.text.contains(&format!("::{variant}"))
                    || source.names(&format!("{variant},"))
                    || source.names(&format!("{variant} "))
            };
            if !mapped && !users().any(|source| counts(source)) {
                wrong.push(format!("`{name}::{variant}` is never counted"));
            }
        }
    }
    nothing(wrong);
}

#[test]
fn crates_are_used_only_in_their_home_modules() {
    holds(|source| {
        let away = CRATE_HOMES.iter().filter(|(name, homes)| source.names_crate(name) && !is_at(source, homes));
        away.map(|(name, homes)| format!("`{name}` is at home in {}", homes.join(", "))).collect()
    });
}

#[test]
fn members_depend_only_on_crates_below_them() {
    let listed: BTreeSet<_> = MAY_DEPEND.iter().map(|(member, _)| *member).collect();
    for manifest in manifests() {
        let path = &*manifest.member;
        assert!(listed.contains(path), "the member {path:?} has no row here");
        let allowed = MAY_DEPEND.iter().find(|(member, _)| *member == path).map(|(_, allowed)| *allowed);
        assert_eq!(manifest.dependencies_of_this_repository(), allowed.unwrap_or_default(), "{path:?}");
    }
}

/// Programs that are built to run never have the simulated back end or a defect: no dependency enables them, and no
/// default feature does.
#[test]
fn only_tests_enable_the_simulation_and_the_defects() {
    for manifest in manifests() {
        let default = manifest.text.lines().any(|line| line.starts_with("default ="));
        assert!(!default, "{:?} has default features", manifest.member);
        let built = manifest.text.split("[dev-dependencies]").next().unwrap_or_default();
        for feature in ["\"simulation\"", "\"defects\""] {
            let enables = built.lines().any(|line| line.contains(feature));
            assert_eq!(enables, manifest.member == "tests/kit", "{:?} {feature}", manifest.member);
        }
    }
}

/// `cargo test --test it` and `cargo build --example echo` rebuild nothing after `cargo test --workspace`: the other
/// members enable no feature of a dependency that the gateway's tests do not.
#[test]
fn the_gateways_tests_use_the_same_features_as_the_workspace() {
    let built = |of: &str| {
        let arguments = ["tree", of, "-e", "normal,build,dev", "-f", "{p} {f}", "--prefix", "none", "--no-dedupe"];
        let mut command = Command::new(env!("CARGO"));
        let output = command.args(arguments).arg("--locked").current_dir(root()).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (gateway, workspace) = (built("--package=tickgate"), built("--workspace"));
    assert!(gateway.len() > 100, "{gateway:?}");
    nothing(
        gateway.difference(&workspace).map(|package| format!("built with other features in the workspace: {package}")),
    );
}

/// The suite that judges the gateway under faults must not be correct for the same reason as the client.
#[test]
fn the_fault_suite_shares_no_rule_with_the_client() {
    let rules = ["Client,", "Client}", "Client;", "Builder", "Driver", "Handle", "retry_after"];
    nothing(suite("tests/chaos").iter().flat_map(|(path, text)| {
        let imports = text.split("use tickgate_client::").skip(1).filter_map(|rest| rest.split(';').next());
        let shared: Vec<_> = imports.map(|import| format!("{import};")).collect();
        let found = rules.iter().filter(|rule| shared.iter().any(|import| import.contains(**rule)));
        found.map(|rule| format!("{path}: `{rule}` of the client")).collect::<Vec<_>>()
    }));
}

#[test]
fn the_core_has_no_io_and_no_clock() {
    holds(|source| {
        let header: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let is_core = is_at(source, PURE) || header.contains("Pure");
        let named = IMPURE.iter().filter(|word| is_core && source.names(word));
        named.map(|word| format!("`{word}` in code that must have no I/O")).collect()
    });
}

/// Crates that do I/O.
const IO_CRATES: &[&str] = &["hyper", "mio", "reqwest", "socket2", "tokio"];

/// `crates/wire` must build without a runtime, so that the compiler keeps it free of I/O.
#[test]
fn the_wire_crate_depends_on_no_io() {
    let lock: toml::Table = toml::from_str(include_str!("../Cargo.lock")).expect("a lock file");
    let packages = lock["package"].as_array().expect("packages");
    let (mut below, mut at) = (vec!["tickgate-wire"], 0);
    while let Some(name) = below.get(at) {
        let found = packages.iter().filter(|package| package["name"].as_str() == Some(name));
        let dependencies = found.filter_map(|package| package.get("dependencies")?.as_array()).flatten();
        let names = dependencies.filter_map(|name| name.as_str()?.split(' ').next());
        let new: Vec<_> = names.filter(|name| !below.contains(name)).collect();
        below.extend(new);
        at += 1;
    }
    assert!(below.contains(&"serde"), "{below:?}");
    nothing(IO_CRATES.iter().filter(|name| below.contains(name)).map(|name| format!("crates/wire depends on {name}")));
}

#[test]
fn only_tasks_spawns() {
    holds(|source| {
        let spawns = ["tokio::spawn(", "task::spawn(", "spawn_blocking(", "thread::spawn("];
        let found = spawns.iter().filter(|spawn| source.path != "tasks.rs" && source.names(spawn));
        found.map(|spawn| format!("`{spawn}..)` outside `tasks`")).collect()
    });
}

#[test]
fn files_are_short() {
    holds(|source| {
        let lines = source.lines();
        if lines > LINES_MAX { vec![format!("{lines} lines, at most {LINES_MAX} are allowed")] } else { vec![] }
    });
}

#[test]
fn every_file_states_what_it_owns() {
    holds(|source| match source.text.starts_with("//! ") {
        true => vec![],
        false => vec!["no `//!` at its head".into()],
    });
}

#[test]
fn no_unfinished_work_remains() {
    nothing(sources().iter().flat_map(|source| {
        let found = STUBS.iter().filter(|word| source.text.contains(**word));
        found.map(|word| format!("{}: `{word}`", source.shown())).collect::<Vec<_>>()
    }));
}

#[test]
fn names_describe_their_contents() {
    holds(|source| {
        let parts = source.path.trim_end_matches(".rs").split('/');
        let mut wrong: Vec<_> = parts
            .filter(|part| BANNED_NAMES.contains(part))
            .map(|part| format!("`{part}` is not descriptive"))
            .collect();
        if source.names("super::super") {
            wrong.push("`super::super` breaks when a file moves; start with `crate::`".into());
        }
        wrong
    });
}
