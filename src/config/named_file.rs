//! Files that a configuration names: reads them up to a size limit, and describes what each should contain. Never shows
//! contents.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::Secret;

/// Maximum file size, in bytes. Bundles of certificate authorities have a few hundred kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A byte order mark in UTF-8.
const MARK: char = '\u{feff}';

/// Reads a mounted secret: its lines, trimmed, without empty ones.
///
/// # Errors
/// A sentence that names the file and what it should contain, without any of its contents.
pub(super) fn read_lines(path: &Path, expected: &str) -> Result<Vec<Secret>, String> {
    let text = read(path, expected)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect())
}

/// Reads a PEM file.
///
/// # Errors
/// A sentence that names the file.
pub fn read_pem(path: &Path) -> Result<String, String> {
    read(path, "PEM blocks")
}

/// The text without byte order marks, which editors put at the beginning of files and concatenation leaves in the
/// middle.
pub fn without_marks(text: String) -> String {
    if text.contains(MARK) { text.replace(MARK, "") } else { text }
}

/// The path and the text of a PEM file that holds a block of one of these kinds; `None` if no path is set.
///
/// # Errors
/// A sentence that names the file and what it should contain.
pub(super) fn pem(path: &str, kinds: &[&str], expected: &str) -> Result<Option<(PathBuf, String)>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = read(path.as_ref(), expected)?;
    if kinds.iter().any(|kind| text.contains(&format!("-----BEGIN {kind}-----"))) {
        Ok(Some((path.into(), text)))
    } else {
        Err(format!("{path} holds no such PEM block; it should contain {expected}"))
    }
}

/// The whole text, which is never blank.
fn read(path: &Path, expected: &str) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {shown}: {error}; it should contain {expected}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {FILE_BYTES_MAX} bytes; it should contain {expected}"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(format!("{shown} is UTF-16: save it as UTF-8; it should contain {expected}"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not text; it should contain {expected}"))?;
    let text = without_marks(text);
    if text.trim().is_empty() {
        return Err(format!("{shown} is empty; it should contain {expected}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    fn holding(bytes: &[u8]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn lines_are_trimmed_and_empty_lines_are_skipped() {
        let file = holding(b"\xef\xbb\xbf  first \r\n\n\t\n\xef\xbb\xbfsecond");
        let lines = read_lines(file.path(), "secrets").unwrap();
        assert_eq!(lines.iter().map(Secret::expose).collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn an_unusable_file_is_named_with_its_expected_content() {
        let large = vec![b'x'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        for (bytes, reason) in [
            (&b""[..], "is empty"),
            (b" \n\t\n", "is empty"),
            (b"\xff\xfea\0", "is UTF-16: save it as UTF-8"),
            (b"\xc3(", "is not text"),
            (&large, "is larger than"),
        ] {
            let file = holding(bytes);
            let path = file.path().display().to_string();
            for reported in
                [read_lines(file.path(), "secrets").unwrap_err(), pem(&path, &["X"], "secrets").unwrap_err()]
            {
                assert!(reported.starts_with(&path) && reported.contains(reason), "{reported}");
                assert!(reported.ends_with("; it should contain secrets"), "{reported}");
            }
        }
        for path in ["/no/such/file", "/"] {
            let reported = read_lines(path.as_ref(), "secrets").unwrap_err();
            assert!(reported.starts_with(&format!("cannot read {path}: ")), "{reported}");
            assert!(reported.ends_with("; it should contain secrets"), "{reported}");
        }
    }

    #[test]
    fn a_pem_file_holds_a_block_of_the_right_kind() {
        let file = holding(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let path = file.path().display().to_string();
        assert_eq!(pem("", &["CERTIFICATE"], "a certificate"), Ok(None));
        let found = pem(&path, &["PUBLIC KEY", "PRIVATE KEY"], "a key").unwrap().unwrap();
        assert!(found.0 == file.path() && found.1.contains("AAAA"));
        let reported = pem(&path, &["CERTIFICATE"], "a certificate").unwrap_err();
        assert!(reported.contains("holds no such PEM block; it should contain a certificate"), "{reported}");
        assert!(!reported.contains("AAAA"), "{reported}");
    }
}
