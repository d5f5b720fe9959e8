//! A log file that other programs may rotate: after it is renamed, new lines go to a new file of the original name.
//! Never reads it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

/// Owner and group read, the owner writes: it contains names of users and addresses.
const MODE: u32 = 0o640;

pub(super) struct Rotated {
    path: PathBuf,
    file: File,
}

impl Rotated {
    /// Opens the file, and creates it if it does not exist.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: Self::append(&path)?, path })
    }

    fn append(path: &PathBuf) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(MODE).open(path)
    }

    /// Whether the path now leads to another file, or to none.
    fn is_moved(&self) -> bool {
        let of = |found: std::fs::Metadata| (found.dev(), found.ino());
        match (self.path.metadata().map(of), self.file.metadata().map(of)) {
            (Ok(there), Ok(ours)) => there != ours,
            (Err(_), _) => true,
            (_, Err(_)) => false,
        }
    }
}

impl Write for Rotated {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.is_moved()
            && let Ok(file) = Self::append(&self.path)
        {
            self.file = file;
        }
        self.file.write(lines)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_renamed_file_is_left_alone_and_a_new_one_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let mut rotated = Rotated::open(path.clone()).unwrap();
        rotated.write_all(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        rotated.write_all(b"two\n").unwrap();
        rotated.write_all(b"three\n").unwrap();
        assert_eq!((fs::read(&old).unwrap(), fs::read(&path).unwrap()), (b"one\n".to_vec(), b"two\nthree\n".to_vec()));
        assert_eq!(path.metadata().unwrap().mode() & 0o007, 0, "not readable by others");
        assert!(Rotated::open(folder.path().to_owned()).is_err());
    }
}
