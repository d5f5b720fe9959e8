//! A certificate authority for one test, made with `openssl`.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

/// An authority, in its own folder.
pub struct Authority(TempDir);

/// A certificate and its key, in files.
pub struct Issued {
    /// PEM file of the certificate.
    pub certificate_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
}

impl Issued {
    /// Its contents.
    pub fn certificate(&self) -> String {
        fs::read_to_string(&self.certificate_file).expect("a certificate")
    }

    /// Its contents.
    pub fn key(&self) -> String {
        fs::read_to_string(&self.key_file).expect("a key")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Generates a new authority.
    pub fn new() -> Self {
        let authority = Self(TempDir::with_prefix("tickgate-ca-").expect("a temporary folder"));
        authority.openssl(&format!("req -x509 {KEY} -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"));
        authority
    }

    /// PEM file of the authority itself.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// A certificate for these names (`DNS:a,IP:127.0.0.1`) that expires in this many days; already expired if
    /// negative. `file` is its name.
    pub fn issue(&self, file: &str, names: &str, days: i64) -> Issued {
        let at = |suffix: &str| self.0.path().join(format!("{file}.{suffix}"));
        fs::write(at("names"), format!("subjectAltName={names}\n")).expect("written");
        self.openssl(&format!("req -new {KEY} -subj /CN={file} -keyout {file}.key -out {file}.csr"));
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {file}.names \
             -out {file}.pem"
        ));
        Issued { certificate_file: at("pem"), key_file: at("key") }
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.expect("openssl: install it (apt-get install openssl)");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
