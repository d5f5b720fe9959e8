//! Checks that the documents are correct: verbs, endpoints, modules and functions that they name exist, and links are
//! valid. Lists with their own test next to the code (settings, metrics, codes, routes) are not checked here.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use tickgate::config::Config;

use crate::{
    nothing,
    source::{manifests, root, scripts, sources},
};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents, by their path in the repository.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/adr", "deploy", "helm/tickgate"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let below = path.strip_prefix(root()).expect("below the root");
                found.push(below.to_str().expect("a plain name").to_owned());
            }
        }
    }
    assert!(found.len() > 10, "only {found:?}");
    found
}

/// The verbs, as the program itself lists them.
fn verbs() -> Vec<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_tickgate")).arg("--help").output().expect("the program runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
    let lines = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_readme_lists_exactly_the_verbs() {
    let readme = read("README.md");
    let listed = readme.lines().filter_map(|line| line.strip_prefix("| `tickgate ")?.split('`').next());
    assert_eq!(listed.collect::<Vec<_>>(), verbs());
}

#[test]
fn the_wire_document_names_every_endpoint() {
    let wire = read("docs/wire.md");
    let table = wire.split("## 2. Endpoints").nth(1).and_then(|rest| rest.split("## 3.").next()).expect("the section");
    let profiles = Config::development().profiles;
    nothing(
        profiles
            .iter()
            .filter(|profile| !table.contains(&format!("`{}`", profile.path)))
            .map(|profile| format!("docs/wire.md: no row for {}", profile.path)),
    );
}

#[test]
fn the_code_map_has_every_module_and_member() {
    let map = read("ARCHITECTURE.md");
    let map = map.split("## The code map").nth(1).and_then(|rest| rest.split("## Invariants").next()).expect("the map");
    let rows: BTreeSet<_> = map
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split(", "))
        .map(|cell| cell.trim().trim_matches('`').to_owned())
        .collect();
    let modules = sources().iter().map(|source| source.module().to_owned()).collect::<BTreeSet<_>>();
    let modules = modules.into_iter().filter(|module| !["lib", "main", "crates"].contains(&&**module));
    let members = manifests().into_iter().map(|manifest| manifest.member).filter(|member| !member.is_empty());
    let folders = ["clients/python", "clients/typescript", "examples"].map(str::to_owned);
    assert_eq!(rows, modules.chain(members).chain(folders).collect());
}

/// A walkthrough names its steps as `` `file` `function` ``: each function is in the file named before it.
#[test]
fn the_walkthroughs_name_functions_that_exist() {
    let text = read("ARCHITECTURE.md");
    let walks =
        text.split("## Walk 1").nth(1).and_then(|rest| rest.split("## Where").next()).expect("the walkthroughs");
    let (mut wrong, mut steps) = (Vec::new(), 0);
    let mut file: Option<(String, String)> = None;
    for name in walks.split('`').skip(1).step_by(2) {
        if name.ends_with(".lua") {
            read(&format!("src/{name}"));
        } else if name.ends_with(".rs") {
            file = Some((name.to_owned(), read(&format!("src/{name}"))));
        } else if let Some((path, code)) = file.take() {
            steps += 1;
            if !code.contains(&format!("fn {name}(")) && !code.contains(&format!("fn {name}<")) {
                wrong.push(format!("ARCHITECTURE.md: no function `{name}` in src/{path}"));
            }
        }
    }
    nothing(wrong);
    assert!(steps > 30, "only {steps} steps seen");
}

#[test]
fn files_named_in_documents_exist() {
    let folders = ["src/", "crates/", "tests/", "docs/", "config/", "benches/", "deploy/", "helm/"];
    nothing(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].iter().flat_map(|document| {
        let text = read(document);
        let quoted = text.split('`').skip(1).step_by(2);
        let files = quoted.filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
        let gone = files.filter(|name| !root().join(name).exists());
        gone.map(|name| format!("{document}: {name} does not exist")).collect::<Vec<_>>()
    }));
}

#[test]
fn links_are_valid() {
    nothing(documents().iter().flat_map(|document| {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let local = links.filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
        let broken = local.filter(|link| !leads_somewhere(folder, document, link));
        broken.map(|link| format!("{document}: {link}")).collect::<Vec<_>>()
    }));
}

fn leads_somewhere(folder: &Path, document: &str, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { Path::new(document).to_owned() } else { folder.join(path) };
    let Ok(target) = root().join(target).canonicalize() else { return false };
    anchor.is_empty() || fs::read_to_string(target).is_ok_and(|text| anchors(&text).contains(anchor))
}

/// The anchors of the headings, as they are generated from their text.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            let kept = kept.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
            kept.map(|char| if char == ' ' { '-' } else { char }).collect()
        })
        .collect()
}

#[test]
fn each_decision_is_listed() {
    let list = read("docs/adr/README.md");
    let pages = documents().into_iter().filter_map(|path| path.strip_prefix("docs/adr/").map(str::to_owned));
    nothing(
        pages
            .filter(|page| page != "README.md" && !list.contains(&format!("]({page})")))
            .map(|page| format!("docs/adr/README.md: does not list {page}")),
    );
}

/// All texts between two marks.
fn between<'a>(text: &'a str, start: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split(end).next())
}

#[test]
fn the_gateways_rights_cover_the_commands_it_sends() {
    let rights = read("deploy/redis/users.acl");
    let granted = rights.lines().find(|line| line.starts_with("user tickgate ")).expect("the gateway's user");
    let mut sent = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        sent.extend(between(&source.text, "cmd(\"", '"').map(str::to_lowercase));
    }
    for script in scripts() {
        sent.extend(between(&script, "call('", '\'').map(str::to_lowercase));
    }
    assert!(sent.len() > 30, "only {sent:?}");
    // Redis 7.0 refuses files that name it; docs/operations.md says so.
    sent.remove("waitaof");
    // Sent only to sentinels, which have users of their own.
    sent.remove("sentinel");
    let has = |command: &str| granted.split(' ').any(|right| right.strip_prefix('+') == Some(command));
    let of_parent = |command: &str| granted.contains(&format!(" +{command}|"));
    nothing(
        sent.iter()
            .filter(|command| !has(command) && !of_parent(command))
            .map(|command| format!("deploy/redis/users.acl: tickgate may not {command}")),
    );
}
