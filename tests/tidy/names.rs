//! Names of public types: unique over the gateway and `crates/wire`, so that one concept has one name. Other members
//! share no types with the gateway, and private types are local to their folder; both are not checked.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    nothing,
    source::{SourceFile, sources},
};

/// Types, or folders of types (with a `/` at the end), that may have the name of another one, with the reason.
const SHARED: &[(&str, &str)] = &[
    ("config/", "the settings of a part have the part's name, and are always written `config::Name`"),
    ("crates/wire/reply", "a reply has the name of what it reports, and is only used while encoding"),
    ("Code", "`metrics::Code` is the metric label of a close code"),
    ("Event", "each layer has one kind of event, and passes it only to the layer above"),
    ("Gap", "`hub::Gap` is a detected gap, and the one of `crates/wire` its encoding"),
    ("Memory", "the back ends of the two contracts, always written with the module"),
    ("Reader", "`hub::Reader` is a client that reads streams, and the one of `crates/wire` decodes frames"),
    ("Redis", "the back ends of the two contracts, always written with the module"),
    ("Unavailable", "the only error of both contracts, always converted where it is received"),
    ("Verdict", "`registry::Verdict` is about an admission, and the one of `history` about a step"),
];

/// The public types that a file declares at its top level.
fn public_types(source: &SourceFile) -> Vec<String> {
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let declared = source.code().lines().filter_map(|line| {
        let line = line.strip_prefix("pub ")?;
        kinds.iter().find_map(|kind| line.strip_prefix(kind))
    });
    let name = |rest: &str| rest.chars().take_while(|char| char.is_alphanumeric()).collect();
    declared.map(name).collect()
}

/// The files that declare each name, and the exceptions that were needed.
fn declarations(sources: &[SourceFile]) -> (BTreeMap<String, Vec<String>>, BTreeSet<&'static str>) {
    let is_checked = |source: &&SourceFile| {
        !source.is_test && (source.module() != "crates" || source.path.starts_with("crates/wire/"))
    };
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources.iter().filter(is_checked) {
        for name in public_types(source) {
            all.entry(name).or_default().push(source.path.clone());
        }
    }
    all.retain(|_, paths| paths.len() > 1);
    let mut needed = BTreeSet::new();
    all.retain(|name, paths| {
        paths.retain(|path| {
            let folder = SHARED.iter().find(|(folder, _)| folder.contains('/') && path.starts_with(folder));
            needed.extend(folder.map(|(folder, _)| *folder));
            folder.is_none()
        });
        let exception = SHARED.iter().find(|(shared, _)| shared == name && paths.len() > 1);
        needed.extend(exception.map(|(shared, _)| *shared));
        paths.len() > 1 && exception.is_none()
    });
    (all, needed)
}

#[test]
fn public_types_have_unique_names() {
    let (duplicates, needed) = declarations(&sources());
    let unneeded = SHARED.iter().filter(|(shared, _)| !needed.contains(shared));
    let unneeded = unneeded.map(|(shared, _)| format!("the exception `{shared}` is not needed"));
    let duplicates = duplicates.iter().map(|(name, paths)| format!("`{name}` is declared in {}", paths.join(" and ")));
    nothing(duplicates.chain(unneeded));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_found_and_private_types_are_not_checked() {
        let of = |path: &str, text: &str| SourceFile::of(path, text);
        let found = |sources: &[SourceFile]| declarations(sources).0.into_keys().collect::<Vec<_>>();
        let twice = [of("hub/a.rs", "pub struct Topic {\n"), of("api/b.rs", "pub enum Topic {\n")];
        assert_eq!(found(&twice), ["Topic"]);
        let other =
            [of("hub/a.rs", "pub struct Topic<T>(T);\n"), of("api/b.rs", "struct Topic;\npub(super) enum Topic {\n")];
        assert!(found(&other).is_empty());
        let member = [of("hub/a.rs", "pub struct Topic;\n"), of("crates/client/a.rs", "pub struct Topic;\n")];
        assert!(found(&member).is_empty());
    }
}
