//! How the primary is found: at one address, or through sentinels.

use super::{
    Problems, Secret, named_file, raw,
    value::{Section, quoted},
};

/// Maximum number of sentinels, and of mapped addresses: each sentinel has its own connection.
const ADDRESSES_MAX: usize = 16;
/// What the files should contain, for error messages.
const PASSWORD_CONTENT: &str = "one line with the password";
const CA_CONTENT: &str = "the certificate authority of the sentinels in PEM form (-----BEGIN CERTIFICATE-----)";

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl ServerAddress {
    /// Parses `host:port` or `[::1]:6379`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None => Some(host).filter(|host| !host.contains(':'))?,
        };
        let is_plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#[]".contains(c));
        let port = port.parse().ok().filter(|port| *port > 0)?;
        is_plain.then(|| Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// User and password; both empty: no login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; empty: the default user.
    pub user: String,
    /// The password; empty: none is sent.
    pub password: Secret,
}

/// How the primary is found through sentinels. Contains secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentinels {
    /// Under which the sentinels monitor the primary.
    pub name: String,
    /// Where to ask for the primary: at least one sentinel.
    pub addresses: Vec<ServerAddress>,
    /// TLS to the sentinels and to the servers.
    pub tls: bool,
    /// Addresses as the sentinels report them, and those to use instead.
    pub map: Vec<(ServerAddress, ServerAddress)>,
    /// How to log in to the sentinels.
    pub login: Login,
    /// Certificate authorities of the sentinels, in PEM form, if they are not those of the servers.
    pub authority: Option<std::sync::Arc<str>>,
    /// How to log in to the servers that they name.
    pub server_login: Login,
}

impl Sentinels {
    /// The address under which this replica reaches a server that the sentinels report.
    #[must_use]
    pub fn reachable(&self, reported: &ServerAddress) -> ServerAddress {
        let mapped = self.map.iter().find(|(from, _)| from == reported);
        mapped.map_or(reported, |(_, to)| to).clone()
    }

    /// Whether both lead to the same servers; logins and certificates may differ.
    #[must_use]
    pub fn leads_where(&self, other: &Self) -> bool {
        (&self.name, &self.addresses, self.tls, &self.map) == (&other.name, &other.addresses, other.tls, &other.map)
    }

    /// For the log and the greeting, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        format!("{} of sentinels {}", self.name, addresses.join(", "))
    }

    /// Validates the keys for sentinels. `None` if the mode is another one; then none of them may be set.
    pub(super) fn check(raw: &raw::RawRedis, problems: &mut Problems) -> Option<Self> {
        let mut section = Section::new("redis", problems);
        if !section.choice("mode", &raw.mode, &[("standalone", false), ("sentinel", true)]) {
            refuse_without_sentinels(raw, &mut section);
            return None;
        }
        for (key, is_set) in [("url", !raw.url.is_empty()), ("url_file", !raw.url_file.is_empty())] {
            if is_set {
                let text = "does not fit redis.mode = \"sentinel\": the sentinels in redis.addresses name the server; its \
                            login is redis.user and redis.password_file";
                section.report(key, text);
            }
        }
        let (addresses, tls) = addresses(&raw.addresses, &mut section);
        let map = section.take_all("address_map", &raw.address_map, mapped);
        if map.len() > ADDRESSES_MAX {
            section.report("address_map", format!("must have at most {ADDRESSES_MAX} entries"));
        }
        let server_login = login(&mut section, ["user", "password_file"], [&raw.user, &raw.password_file]);
        let mut section = Section::new("redis.sentinel", problems);
        let sentinel = &raw.sentinel;
        let name = section.take("name", name(&sentinel.name), String::new());
        let login = login(&mut section, ["user", "password_file"], [&sentinel.user, &sentinel.password_file]);
        let authority = named_file::pem(&sentinel.ca_file, &["CERTIFICATE"], CA_CONTENT);
        let authority = section.take("ca_file", authority, None).map(|(_, text)| text.as_str().into());
        if authority.is_some() && !tls {
            section.report("ca_file", "requires rediss:// in redis.addresses: without TLS no certificate is checked");
        }
        Some(Self { name, addresses, tls, map, login, authority, server_login })
    }
}

fn refuse_without_sentinels(raw: &raw::RawRedis, section: &mut Section<'_>) {
    let set = [
        ("addresses", !raw.addresses.is_empty()),
        ("address_map", !raw.address_map.is_empty()),
        ("sentinel.name", !raw.sentinel.name.is_empty()),
        ("sentinel.user", !raw.sentinel.user.is_empty()),
        ("sentinel.password_file", !raw.sentinel.password_file.is_empty()),
        ("sentinel.ca_file", !raw.sentinel.ca_file.is_empty()),
    ];
    for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        section.report(key, "requires redis.mode = \"sentinel\"");
    }
    for (key, is_set) in [("user", !raw.user.is_empty()), ("password_file", !raw.password_file.is_empty())] {
        if is_set {
            let text = "requires redis.mode = \"sentinel\": otherwise user and password are part of redis.url";
            section.report(key, text);
        }
    }
}

/// The sentinels, and whether they use TLS.
fn addresses(texts: &[String], section: &mut Section<'_>) -> (Vec<ServerAddress>, bool) {
    let is_tls = |text: &&String| text.starts_with("rediss://");
    let secured = texts.iter().filter(is_tls).count();
    let found = section.take_all("addresses", texts, address);
    if texts.is_empty() || texts.len() > ADDRESSES_MAX {
        let text = format!(
            "must have 1 to {ADDRESSES_MAX} sentinels, such as [\"a:26379\", \"b:26379\", \"c:26379\"], got {}",
            texts.len()
        );
        section.report("addresses", text);
    } else if secured != 0 && secured != texts.len() {
        section.report("addresses", "must all have rediss://, or none: TLS applies to all sentinels and servers");
    }
    for (_, address) in found.iter().enumerate().filter(|(at, address)| found[..*at].contains(address)) {
        section.report("addresses", format!("has {address} twice: each sentinel counts once"));
    }
    (found, secured > 0)
}

fn address(text: &str) -> Result<ServerAddress, String> {
    let bare = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://")).unwrap_or(text);
    // It may contain a password, which belongs elsewhere.
    if bare.contains('@') {
        return Err("must be host:port without a login: set redis.sentinel.user and .password_file".into());
    }
    ServerAddress::parse(bare).ok_or_else(|| {
        format!("must be host:port of a sentinel, with rediss:// in front for TLS, got {}", quoted(text))
    })
}

fn mapped(text: &str) -> Result<(ServerAddress, ServerAddress), String> {
    let pair = text.split_once('=');
    let parse = |text: &str| ServerAddress::parse(text.trim());
    pair.and_then(|(from, to)| Some((parse(from)?, parse(to)?))).ok_or_else(|| {
        format!("must be reported=reachable, such as \"10.0.0.5:6379=redis.example:7001\", got {}", quoted(text))
    })
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(text.into());
    }
    Err(format!(
        "must be the name in the sentinels' configuration (sentinel monitor NAME …), 1 to 64 characters of A-Z a-z 0-9 \
         . - _, got {}",
        quoted(text)
    ))
}

fn login(section: &mut Section<'_>, [user, file]: [&str; 2], [name, path]: [&str; 2]) -> Login {
    if path.is_empty() {
        if !name.is_empty() {
            section.report(file, "is missing: a user requires a password");
        }
        return Login::default();
    }
    if name.contains(char::is_whitespace) {
        section.report(user, "must not contain spaces");
    }
    let password = named_file::read_lines(path.as_ref(), PASSWORD_CONTENT).and_then(|lines| match &lines[..] {
        [password] => Ok(password.clone()),
        _ => Err(format!("{path} holds {} lines; it should contain {PASSWORD_CONTENT}", lines.len())),
    });
    Login { user: name.to_owned(), password: section.take(file, password, Secret::default()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, shown) in [("a:1", "a:1"), ("[::1]:26379", "[::1]:26379"), ("10.0.0.5:6379", "10.0.0.5:6379")] {
            assert_eq!(ServerAddress::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:x", "a:70000", "::1:6379", "[::1:6379", "a b:1", "u@a:1", "a/b:1"] {
            assert_eq!(ServerAddress::parse(text), None, "{text}");
        }
        assert!(address("redis://a:1").is_ok() && address("rediss://a:1").is_ok() && address("http://a:1").is_err());
        let refused = address("redis://user:hidden@a:1").unwrap_err();
        assert!(!refused.contains("hidden"), "{refused}");
    }

    #[test]
    fn a_mapped_address_replaces_the_reported_one_only() {
        let sentinels = Sentinels { map: vec![mapped("10.0.0.5:6379 = r:7001").unwrap()], ..Sentinels::default() };
        let at = |text: &str| sentinels.reachable(&ServerAddress::parse(text).unwrap()).to_string();
        assert_eq!((&*at("10.0.0.5:6379"), &*at("10.0.0.5:6380")), ("r:7001", "10.0.0.5:6380"));
        assert!(mapped("10.0.0.5:6379").is_err() && mapped("a:1=b").is_err());
    }
}
