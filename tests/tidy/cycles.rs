//! Import cycles between the files of one folder. The folder's own file (`mod.rs`, or the file next to it with the same
//! name) is excluded: it names its parts, and they may use its contents.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    nothing,
    source::{SourceFile, sources},
};

/// Files that may import each other, with the reason.
const ALLOWED: &[(&str, &[&str], &str)] = &[(
    "hub",
    &["shard", "topic"],
    "a mailbox: a topic posts to its shards, and a shard fetches the mail of its topics",
)];

/// A file's place in the module tree, such as `["hub", "outbox", "look"]`; for a crate, after `crates` and its name.
type Module = Vec<String>;

/// Modules, and what the names in each of them refer to.
#[derive(Default)]
struct Tree {
    modules: BTreeSet<Module>,
    /// By module and name: the path from which the name was imported, and whether it is exported.
    imported: BTreeMap<(Module, String), (Module, bool)>,
}

fn module_of(source: &SourceFile) -> Module {
    let path = source.path.trim_end_matches(".rs");
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&&**last)) {
        module.pop();
    }
    module
}

/// The module at the root of the file's crate.
fn root_of(module: &[String]) -> Module {
    let is_member = module.first().is_some_and(|first| first == "crates");
    module[..if is_member { 2.min(module.len()) } else { 0 }].to_vec()
}

/// A path that starts with `crate`, `super` or `self`, or with a part of its module, resolved from the root of all
/// modules.
fn absolute(module: &[String], path: &[String]) -> Module {
    let (start, rest) = match path[0].as_str() {
        "crate" => (root_of(module), &path[1..]),
        "super" => (module[..module.len().saturating_sub(1)].to_vec(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        _ => (module.to_vec(), path),
    };
    [start, rest.to_vec()].concat()
}

impl Tree {
    fn of(sources: &[SourceFile]) -> Self {
        let modules: BTreeSet<_> = sources.iter().map(module_of).collect();
        let mut tree = Self { modules, ..Self::default() };
        for source in sources {
            let module = module_of(source);
            let code = source.code();
            for (at, word) in code.match_indices("use ") {
                let line = code[..at].rsplit('\n').next().unwrap_or_default().trim();
                if !line.is_empty() && !line.starts_with("pub") {
                    continue;
                }
                for (path, name) in paths(&code[at + word.len()..]) {
                    let target = absolute(&module, &path);
                    if tree.modules.contains(&target[..target.len().saturating_sub(1)]) {
                        tree.imported.insert((module.clone(), name), (target, !line.is_empty()));
                    }
                }
            }
        }
        tree
    }

    /// The file that owns what a path names, through exports, and through the imports of the modules around `from`.
    fn owner(&self, from: &[String], path: &[String]) -> Module {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let len = (0..=path.len()).rev().find(|len| self.modules.contains(&path[..*len])).unwrap_or(0);
            let name = path.get(len).map(|name| (path[..len].to_vec(), name.clone()));
            match name.and_then(|name| self.imported.get(&name)) {
                Some((target, exported)) if *target != path && (*exported || from.starts_with(&path[..len])) => {
                    path = [target.clone(), path[len + 1..].to_vec()].concat();
                }
                _ => return path[..len].to_vec(),
            }
        }
        path
    }
}

/// All paths of the tree at the start of `text`, such as `a::{b, c::D as E}`, each with its local name.
fn paths(text: &str) -> Vec<(Module, String)> {
    let mut found = Vec::new();
    collect(text, &mut Vec::new(), &mut found);
    found
}

/// Collects the paths of one tree. Returns what follows it.
fn collect<'a>(text: &'a str, before: &mut Vec<String>, found: &mut Vec<(Module, String)>) -> &'a str {
    let mut rest = text.trim_start();
    let depth = before.len();
    loop {
        let len = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
        if len > 0 {
            before.push(rest[..len].to_owned());
            rest = &rest[len..];
        }
        let Some(next) = rest.strip_prefix("::").filter(|_| len > 0) else { break };
        rest = next;
        if let Some(mut group) = next.strip_prefix('{') {
            while let Some(item) = Some(group.trim_start()).filter(|item| !item.starts_with('}') && !item.is_empty()) {
                group = collect(item, before, found).trim_start();
                group =
                    group.strip_prefix(',').unwrap_or_else(|| &group[group.find(['}', ',']).unwrap_or(group.len())..]);
            }
            before.truncate(depth);
            return group.trim_start().strip_prefix('}').unwrap_or(group);
        }
    }
    if let Some(last) = before.get(depth..).and_then(<[_]>::last) {
        let alias = rest.trim_start().strip_prefix("as ").map(|rest| rest.trim_start());
        let len =
            alias.map(|alias| alias.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(alias.len()));
        let name = alias.zip(len).map_or_else(|| last.clone(), |(alias, len)| alias[..len].to_owned());
        let path = if last == "self" { before[..before.len() - 1].to_vec() } else { before.clone() };
        let name = if name == "self" { path.last().cloned().unwrap_or_default() } else { name };
        found.push((path, name));
        rest = alias.zip(len).map_or(rest, |(alias, len)| &alias[len..]);
    }
    before.truncate(depth);
    rest
}

/// By folder: which of its parts name which others.
fn imports(sources: &[SourceFile]) -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
    let tree = Tree::of(sources);
    let mut found: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in sources {
        let (module, code) = (module_of(source), source.code());
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in code.match_indices(start) {
                if code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == ':') {
                    continue;
                }
                for (path, _) in paths(&code[at..]) {
                    let owner = tree.owner(&module, &absolute(&module, &path));
                    let shared = module.iter().zip(&owner).take_while(|(one, other)| one == other).count();
                    if let (Some(from), Some(to)) = (module.get(shared), owner.get(shared)) {
                        let folder = found.entry(module[..shared].to_vec()).or_default();
                        folder.entry(from.clone()).or_default().insert(to.clone());
                    }
                }
            }
        }
    }
    found
}

/// Everything that a part reaches by its imports.
fn reach<'a>(from: &'a str, imports: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(part) = next.pop() {
        for import in imports.get(part).into_iter().flatten() {
            if reached.insert(import.as_str()) {
                next.push(import);
            }
        }
    }
    reached
}

/// The groups of parts of one folder that import each other.
fn cycles(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<_, _> = imports.keys().map(|part| (part.as_str(), reach(part, imports))).collect();
    let of = |part: &str| reached.get(part).is_some_and(|all| all.contains(part));
    let group = |part: &str| {
        let mutual = reached[part].iter().filter(|other| reached.get(**other).is_some_and(|all| all.contains(part)));
        mutual.copied().collect::<Vec<_>>()
    };
    reached.keys().filter(|part| of(part)).map(|part| group(part)).collect()
}

#[test]
fn files_of_a_folder_have_no_import_cycle() {
    let sources: Vec<_> = sources().into_iter().filter(|source| !source.is_test).collect();
    let all = imports(&sources);
    assert!(all.values().map(BTreeMap::len).sum::<usize>() > 100, "imports are not recognized");
    let mut allowed: BTreeSet<_> =
        ALLOWED.iter().map(|(folder, parts, _)| ((*folder).to_owned(), parts.to_vec())).collect();
    let mut wrong = Vec::new();
    for (folder, imports) in &all {
        for cycle in cycles(imports) {
            let found = (folder.join("/"), cycle);
            if !allowed.remove(&found) {
                wrong.push(format!("{}/: {} import each other", found.0, found.1.join(" and ")));
            }
        }
    }
    wrong.extend(allowed.iter().map(|(folder, parts)| format!("{folder}/: {parts:?} no longer import each other")));
    nothing(wrong);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(path, text)| SourceFile::of(path, text)).collect();
        let all = imports(&sources);
        all.iter()
            .flat_map(|(folder, of)| cycles(of).into_iter().map(|c| format!("{}: {}", folder.join("/"), c.join(" "))))
            .collect()
    }

    #[test]
    fn a_cycle_is_found_however_it_is_written() {
        for b in
            ["use super::a::A;", "use crate::x::a;", "fn f() { super::a::f() }", "use crate::{y, x::{c, a::{A, B}}};"]
        {
            let files = [
                ("x/mod.rs", "mod a; mod b;"),
                ("x/a.rs", "use super::{c, b::B as C};"),
                ("x/b.rs", b),
                ("x/c.rs", ""),
            ];
            assert_eq!(cycles_of(&files), ["x: a b"], "{b}");
        }
    }

    #[test]
    fn a_name_belongs_to_the_file_that_exports_it() {
        let files = [
            ("x/mod.rs", "mod a;\nmod b;\npub use a::A;\npub(super) use b::{B, self as c};"),
            ("x/a.rs", "use super::B;"),
            ("x/b.rs", "use crate::x::A;"),
        ];
        assert_eq!(cycles_of(&files), ["x: a b"]);
    }

    #[test]
    fn a_folder_is_one_part_and_its_own_file_is_excluded() {
        let files = [
            ("x/a.rs", "mod inner;\nuse super::b;\npub struct A;"),
            ("x/a/inner.rs", "use super::A;"),
            ("x/b.rs", "use super::c;"),
            ("x/c.rs", "use super::a::inner;"),
            ("crates/w/a.rs", "use crate::b::B;"),
            ("crates/w/b.rs", "use super::a;"),
        ];
        assert_eq!(cycles_of(&files), ["crates/w: a b", "x: a b c"]);
    }

    #[test]
    fn imports_in_one_direction_are_not_a_cycle() {
        let files = [
            ("x/a.rs", "use super::{b, c};"),
            ("x/b.rs", "use super::c;"),
            ("x/c.rs", "use crate::y;"),
            ("y/a.rs", ""),
        ];
        assert!(cycles_of(&files).is_empty());
    }
}
