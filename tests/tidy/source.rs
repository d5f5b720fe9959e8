//! The source files of the gateway and its crates, as text: enough of Rust to see which file names which. Not a parser.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One file.
pub struct SourceFile {
    /// Below `src/`, such as `hub/shard.rs`; of a crate, `crates/wire/json/scan.rs`.
    pub path: String,
    pub text: String,
    /// Without comments, and without the tests at its end.
    code: String,
    /// The whole file is a test.
    pub is_test: bool,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All files of the gateway and of its crates.
pub fn sources() -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut add = |folder: PathBuf, prefix: &str| {
        walk(&folder, "rs", &mut |path| {
            let below = path.strip_prefix(&folder).expect("below the folder").to_str().expect("a plain name");
            found.push(SourceFile::new(&format!("{prefix}{below}"), path));
        });
    };
    add(root().join("src"), "");
    for member in fs::read_dir(root().join("crates")).expect("a folder") {
        let member = member.expect("an entry").path();
        let name = member.file_name().and_then(|name| name.to_str()).expect("a plain name");
        add(member.join("src"), &format!("crates/{name}/"));
    }
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

/// The manifest of a member of the workspace.
pub struct Manifest {
    /// Its folder; empty for the gateway.
    pub member: String,
    pub text: String,
}

impl Manifest {
    /// Dependencies within this repository that are not only for tests, sorted.
    pub fn dependencies_of_this_repository(&self) -> Vec<&str> {
        let section = self.text.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next());
        let names = section.unwrap_or_default().lines().filter_map(|line| line.split(['.', ' ']).next());
        names.filter(|name| *name == "tickgate" || name.starts_with("tickgate-")).collect()
    }
}

/// The manifests of all members.
pub fn manifests() -> Vec<Manifest> {
    let mut folders =
        vec![String::new(), "benches".into(), "tests/kit".into(), "tests/model".into(), "tests/redis-model".into()];
    for member in fs::read_dir(root().join("crates")).expect("a folder") {
        let name = member.expect("an entry").file_name();
        folders.push(format!("crates/{}", name.to_str().expect("a plain name")));
    }
    let read = |member: String| {
        let path = root().join(&member).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Manifest { member, text }
    };
    folders.into_iter().map(read).collect()
}

/// The files of a suite, by their path.
pub fn suite(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root().join(folder), "rs", &mut |path| {
        found.push((path.display().to_string(), fs::read_to_string(path).expect("text")));
    });
    assert!(found.len() > 5, "only {} files in {folder}", found.len());
    found
}

/// All Rust files of the workspace, with tests, benchmarks and examples: their paths in the repository and their text.
pub fn rust_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "examples"] {
        walk(&root().join(folder), "rs", &mut |path| {
            let below = path.strip_prefix(root()).expect("below the root").to_str().expect("a plain name");
            found.push((below.to_owned(), fs::read_to_string(path).expect("text")));
        });
    }
    assert!(found.len() > 400, "only {} files found", found.len());
    found
}

/// The text of all scripts that Redis runs.
pub fn scripts() -> Vec<String> {
    let mut found = Vec::new();
    walk(&root().join("src"), "lua", &mut |path| found.push(fs::read_to_string(path).expect("text")));
    assert!(found.len() > 5, "only {} scripts found", found.len());
    found
}

fn walk(dir: &Path, extension: &str, found: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, extension, found);
        } else if path.extension().is_some_and(|of| of == extension) {
            found(&path);
        }
    }
}

impl SourceFile {
    fn new(below: &str, path: &Path) -> Self {
        Self::of(below, &fs::read_to_string(path).expect("text"))
    }

    /// A file with this text at a path below `src/`.
    pub fn of(below: &str, text: &str) -> Self {
        let is_test = below.contains("/tests/") || below.ends_with("tests.rs");
        let code = without_tests(text).lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>();
        Self { path: below.to_owned(), code: code.join("\n"), text: text.to_owned(), is_test }
    }

    /// Without comments, and without the tests at its end.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Its path in the repository.
    pub fn shown(&self) -> String {
        match self.path.strip_prefix("crates/").and_then(|path| path.split_once('/')) {
            Some((member, below)) => format!("crates/{member}/src/{below}"),
            None => format!("src/{}", self.path),
        }
    }

    /// The top-level module it belongs to; `crates` for files outside the gateway.
    pub fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or(&self.path).trim_end_matches(".rs")
    }

    /// Number of lines without the tests.
    pub fn lines(&self) -> usize {
        self.code.lines().count()
    }

    /// Whether the code contains this text, but not as the end of a longer name.
    pub fn names(&self, words: &str) -> bool {
        self.code.match_indices(words).any(|(at, _)| !self.code[..at].ends_with(is_of_a_name))
    }

    /// Whether the code names a crate: `name::…`, not as a part of a path, and not a sibling module with the same name.
    pub fn names_crate(&self, name: &str) -> bool {
        let beside = root().join(self.shown()).with_file_name(name);
        if beside.exists() || beside.with_extension("rs").exists() {
            return false;
        }
        let path = format!("{name}::");
        self.code.match_indices(&path).any(|(at, _)| {
            let before = &self.code[..at];
            !before.ends_with(is_of_a_name) && !before.ends_with("::")
        })
    }

    /// The top-level modules that it names with `crate::`, alone or in a group.
    pub fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, path) in self.code.match_indices("crate::") {
            let rest = &self.code[at + path.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(heads(group)),
                None => found.extend(head(rest)),
            }
        }
        found
    }
}

/// The text before the tests at the end of a file.
fn without_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(at) = text[from..].find("#[cfg(test)]\nmod ") {
        let line = text[from + at..].lines().nth(1).unwrap_or_default();
        if line.ends_with('{') {
            return &text[..from + at];
        }
        from += at + 1;
    }
    text
}

fn is_of_a_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The first name of a path.
fn head(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|char| is_of_a_name(*char)).collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of the paths in a group, starting after its opening brace.
fn heads(group: &str) -> Vec<String> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(head(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(head(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> SourceFile {
        SourceFile::of("hub/x.rs", text)
    }

    #[test]
    fn imports_are_seen_alone_and_in_groups() {
        let source = of("use crate::{\n    a::{B, c::D},\n    e,\n};\nfn f() { crate::g::h(); }\n");
        assert_eq!(source.imports().into_iter().collect::<Vec<_>>(), ["a", "e", "g"]);
    }

    #[test]
    fn tests_at_the_end_are_not_code_and_declared_test_modules_end_nothing() {
        let source = of("#[cfg(test)]\nmod tests;\nuse crate::a;\n#[cfg(test)]\nmod inline {\n    use crate::b;\n}\n");
        assert_eq!(source.imports().into_iter().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_crate_is_not_the_end_of_a_path() {
        assert!(of("use redis::Value;").names_crate("redis"));
        assert!(of("fn f() -> redis::Value {}").names_crate("redis"));
        assert!(!of("use some_redis::Pool;").names_crate("redis"));
        assert!(!of("use super::redis::Link;").names_crate("redis"));
    }
}
