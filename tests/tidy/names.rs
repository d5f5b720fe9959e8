//! Names of types: unique over the whole workspace, with its tests and benchmarks, so that one concept has one name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{
    nothing,
    source::{manifests, root, rust_files},
};

/// Types, or folders of types (with a `/` at the end), that may have the name of another one, with the reason.
const SHARED: &[(&str, &str)] = &[
    ("src/config/", "the settings of a part have the part's name, and are always written `config::Name`"),
    ("Args", "the arguments of one program or subcommand, named only in the file that declares them"),
    ("Memory", "the back ends of the two contracts, always written with the module"),
    ("Redis", "the back ends of the two contracts, always written with the module"),
];

/// The types that a file declares, public or not, also those within modules and functions. Associated types have the
/// name that their trait requires, and do not count.
fn declared_types(text: &str) -> Vec<String> {
    let (mut found, mut blocks) = (Vec::new(), Vec::<(usize, bool)>::new());
    for line in text.lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        // The rest of a declaration whose first line is on the stack.
        if code.is_empty() || code.starts_with("//") || code.starts_with("where") || code.starts_with('{') {
            continue;
        }
        blocks.retain(|(outer, _)| *outer < indent);
        let is_associated = blocks.last().is_some_and(|(_, has_associated_types)| *has_associated_types);
        found.extend(declared_type(code).filter(|_| !(is_associated && code.contains("type "))));
        let words = code.trim_start_matches("pub ").trim_start_matches("unsafe ");
        blocks.push((indent, words.starts_with("impl") || words.starts_with("trait ")));
    }
    found
}

/// The type that a line declares, also as a row of `label!`.
fn declared_type(code: &str) -> Option<String> {
    let name = |rest: &str| rest.chars().take_while(|char| char.is_alphanumeric()).collect::<String>();
    if code.ends_with("\" {") && code.contains(" as \"") {
        return Some(name(code));
    }
    let code = match code.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => code,
    };
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    let rest = kinds.iter().find_map(|kind| code.strip_prefix(kind))?;
    rest.starts_with(char::is_uppercase).then(|| name(rest))
}

/// The files that declare each duplicate name, and the exceptions that were needed.
fn duplicates(files: &[(String, String)]) -> (BTreeMap<String, Vec<&str>>, BTreeSet<&'static str>) {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        for name in declared_types(text) {
            all.entry(name).or_default().push(path);
        }
    }
    let mut needed = BTreeSet::new();
    all.retain(|name, paths| {
        if paths.len() < 2 {
            return false;
        }
        let folder = |path: &&str| SHARED.iter().find(|(folder, _)| folder.ends_with('/') && path.starts_with(folder));
        needed.extend(paths.iter().filter_map(folder).map(|(folder, _)| *folder));
        paths.retain(|path| folder(path).is_none());
        let exception = SHARED.iter().find(|(shared, _)| shared == name && paths.len() > 1);
        needed.extend(exception.map(|(shared, _)| *shared));
        paths.len() > 1 && exception.is_none()
    });
    (all, needed)
}

#[test]
fn types_have_unique_names() {
    let files = rust_files();
    let (duplicates, needed) = duplicates(&files);
    let unneeded = SHARED.iter().filter(|(shared, _)| !needed.contains(shared));
    let unneeded = unneeded.map(|(shared, _)| format!("the exception `{shared}` is not needed"));
    let duplicates = duplicates.iter().map(|(name, paths)| format!("`{name}` is declared in {}", paths.join(" and ")));
    nothing(duplicates.chain(unneeded));
}

#[test]
fn libraries_warn_about_missing_documentation() {
    let libraries = manifests().into_iter().map(|manifest| root().join(manifest.member).join("src/lib.rs"));
    // The checker's model reads like the protocol on paper.
    let libraries = libraries.filter(|path| path.exists() && !path.ends_with("tests/model/src/lib.rs"));
    let silent = libraries.filter(|path| {
        let text = fs::read_to_string(path).expect("text");
        !text.contains("\n#![warn(missing_docs)]\n")
    });
    nothing(silent.map(|path| format!("{} has no `#![warn(missing_docs)]`", path.display())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        duplicates(&files).0.into_keys().collect()
    }

    #[test]
    fn a_duplicate_is_found_whatever_its_visibility_and_wherever_it_is() {
        for other in [
            "pub struct Topic<T>(T);\n",
            "struct Topic;\n",
            "pub(super) enum Topic {\n",
            "pub(in crate::hub) type Topic = u8;\n",
            "#[cfg(test)]\nmod tests {\n    struct Topic;\n}\n",
            "fn f() {\n    type Topic = u8;\n}\n",
            "label!(\n    /// Its topic.\n    Topic as \"topic\" {\n",
        ] {
            assert_eq!(found(&[("src/a.rs", "pub trait Topic {\n"), ("tests/b.rs", other)]), ["Topic"], "{other}");
        }
    }

    #[test]
    fn exceptions_and_associated_types_are_no_duplicates() {
        let own = ("src/a.rs", "pub struct Topic;\n");
        let implementation = "impl<T> Iterator for A<T>\nwhere\n    T: B,\n{\n    type Topic = T;\n";
        assert!(found(&[own, ("src/b.rs", implementation)]).is_empty());
        assert!(found(&[own, ("src/config/b.rs", "pub struct Topic;\n")]).is_empty());
        assert!(found(&[("src/a.rs", "struct Args {\n"), ("src/b.rs", "struct Args {\n")]).is_empty());
    }
}
