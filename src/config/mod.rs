//! The typed and validated configuration. Other modules read it only through [`Config`].
//!
//! `layers` merges the sources (defaults, file, environment, flags), `raw` is the result with types, and everything
//! exported here is what it means. All problems are reported at once, before a port is bound. Secrets print as `***`.

mod auth;
mod effective;
mod environment;
mod feeds;
mod keys;
mod known_channels;
mod layers;
mod limits;
mod lines;
mod lists;
mod loopback;
mod mode;
mod named_file;
mod problems;
mod profile;
mod raw;
mod redis;
mod reload;
mod secret;
mod sentinel;
mod server;
mod session;
mod strength;
mod topics;
mod value;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

pub use auth::{Algorithm, Auth, Jwks, PublicKey};
pub use effective::Effective;
pub use environment::SHORT_NAMES;
#[cfg(feature = "simulation")]
pub use environment::deliberate_defect;
pub use feeds::{AUDIT_TARGET, Binance, Feeds, Log, Synthetic, is_log_filter};
pub use keys::{ApiKey, Right, UNNAMED};
pub use known_channels::KnownChannels;
pub use layers::{ConfigSources, DEFAULTS, keys};
pub use limits::{Hub, Limits, OverLimit, Rate};
pub use loopback::{is_loopback_host, is_loopback_origin};
pub use named_file::{read_pem, without_marks};
pub use problems::{ConfigProblem, Problems};
pub use profile::{ChannelScope, OfferedChannel, Profile, SymbolVerb, TokenRule};
pub use redis::{Access, Redis};
pub use secret::{Secret, without_credentials};
pub use sentinel::{Login, Sentinels, ServerAddress};
pub use server::{AddressHeader, Identity, LOOPBACK_ORIGINS, Proxies, Server, Tls};
pub use session::{Drain, Readiness, Session};
pub use value::duration as parse_duration;

use tickgate_wire::model::TopicRules;

/// Everything a replica needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Development mode: loopback only, generated secrets, open ingest.
    pub development: bool,
    /// The token secret was generated at this start: only this process can sign with it.
    pub secret_generated: bool,
    /// The API key was generated at this start.
    pub api_key_generated: bool,
    /// Listeners and who may reach them.
    pub server: Server,
    /// Where Redis is; `None`: memory, for a single replica.
    pub redis: Option<Redis>,
    /// Who may connect and publish.
    pub auth: Auth,
    /// The endpoints, each with a unique name and path.
    pub profiles: Vec<Arc<Profile>>,
    /// How publications are retained and delivered, by topic.
    pub topics: Arc<TopicRules>,
    /// Bounds of connections, messages and memory.
    pub limits: Limits,
    /// Lifetimes of connections, sessions and leases.
    pub session: Session,
    /// Bounds of the fan-out.
    pub hub: Hub,
    /// The times of a shutdown.
    pub drain: Drain,
    /// What makes the replica not ready.
    pub readiness: Readiness,
    /// Market data that this replica publishes.
    pub feeds: Feeds,
    /// The log of the process.
    pub log: Log,
    /// Settings that are valid but rarely intended: sentences for the log at startup.
    pub warnings: Vec<String>,
    /// Files that the configuration names, and the file that contains the configuration.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Merges all layers and validates them; also returns the configuration in force, in a form that can be written
    /// out.
    ///
    /// # Errors
    /// All problems of all layers.
    pub fn load(sources: &ConfigSources) -> Result<(Self, Effective), Problems> {
        Self::load_with(sources, |_, _| {})
    }

    /// Like [`Config::load`], but `check` may find further problems in a configuration that is otherwise valid.
    ///
    /// # Errors
    /// All problems of all layers, or those that `check` found.
    pub fn load_with(
        sources: &ConfigSources,
        check: impl FnOnce(&Self, &mut Problems),
    ) -> Result<(Self, Effective), Problems> {
        let mut layers = layers::Layers::read(sources);
        let raw = layers.typed();
        let mut problems = std::mem::take(&mut layers.problems);
        let loaded = raw.map(|raw| (Self::check(&raw, &mut problems), raw));
        if let Some((config, _)) = &loaded
            && problems.is_empty()
        {
            check(config, &mut problems);
        }
        problems.locate(&layers.origins);
        match loaded {
            Some((mut config, raw)) if problems.is_empty() => {
                config.files.extend(sources.file.clone());
                let effective = Effective::new(raw, config.development, std::mem::take(&mut layers.origins));
                Ok((config, effective))
            }
            _ => Err(problems),
        }
    }

    /// Development mode on free loopback ports, in memory, with its own generated secret and API key and without the
    /// synthetic feed: the base for tests and in-process replicas, which may change its fields.
    ///
    /// # Panics
    /// If the shipped defaults are invalid.
    #[must_use]
    pub fn development() -> Self {
        let sources = ConfigSources::default()
            .flag("", "server.listen", "127.0.0.1:0")
            .flag("", "server.ops_listen", "127.0.0.1:0")
            .flag("", "feeds.synthetic.enabled", "off");
        match Self::load(&sources) {
            Ok((config, _)) => config,
            Err(problems) => panic!("the shipped defaults are invalid: {problems}"),
        }
    }

    /// The meaning of the merged layers.
    fn check(raw: &raw::Raw, problems: &mut Problems) -> Self {
        let mut server = Server::check(&raw.server, problems);
        let mut auth = Auth::check(&raw.auth, problems);
        let client_certificates = !raw.server.ops_tls.client_ca_file.is_empty();
        auth.keys = keys::check(&raw.auth.keys, client_certificates, problems);
        let development = mode::is_development(&raw.server, &server, &auth, problems);
        let [secret_generated, api_key_generated] = if development { auth.generate_missing() } else { [false, false] };
        if development {
            if server.allowed_origins.is_empty() {
                server.allowed_origins.push(LOOPBACK_ORIGINS.into());
            }
        } else {
            strength::check(&raw.auth, [&auth.hs256_secrets, &auth.api_keys], problems);
            strength::check_keys(&raw.auth.keys, &auth.keys, problems);
        }
        let choices = [("auto", development), ("always", true), ("never", false)];
        let anonymous = value::Section::new("auth", problems).choice("anonymous", &raw.auth.anonymous, &choices);
        let mut config = Self {
            development,
            secret_generated,
            api_key_generated,
            server,
            redis: Redis::check(&raw.redis, problems),
            auth,
            profiles: profile::check(&raw.profiles, anonymous, problems).into_iter().map(Arc::new).collect(),
            topics: Arc::new(topics::check(&raw.topics, &raw.user_stream, problems)),
            limits: Limits::check(&raw.limits, development, problems),
            session: Session::check(&raw.session, problems),
            hub: Hub::check(&raw.hub, problems),
            drain: Drain::check(&raw.drain, problems),
            readiness: Readiness::check(&raw.readiness, problems),
            feeds: Feeds::check(&raw.feeds, development, problems),
            log: Log::check(&raw.log, problems),
            warnings: Vec::new(),
            files: reload::files(raw),
        };
        config.check_across(problems);
        config.warnings = config.warn(raw, anonymous);
        config.warnings.extend(config.feeds.warn());
        config
    }

    /// Contradictions between sections.
    fn check_across(&self, problems: &mut Problems) {
        if self.auth.token_bytes_max >= self.server.header_bytes_max {
            let text = format!(
                "must be less than server.header_bytes_max ({}): a token in the URL is part of the head",
                self.server.header_bytes_max
            );
            problems.report("auth.token_bytes_max", text);
        }
        if self.topics.user_stream().retain_ttl < self.session.resume_ttl {
            problems.report(
                "user_stream.retain_ttl",
                "must be at least session.resume_ttl: otherwise a resume could not be complete",
            );
        }
        if let Some(redis) = &self.redis
            && self.readiness.redis_required
            && self.readiness.redis_grace < redis.canary_timeout
        {
            problems.report(
                "readiness.redis_grace",
                "must be at least redis.canary_timeout: an outage is not detected sooner",
            );
        }
    }

    /// Settings that are rarely intended in production.
    fn warn(&self, raw: &raw::Raw, anonymous: bool) -> Vec<String> {
        if self.development {
            return Vec::new();
        }
        let origins = &self.server.allowed_origins;
        let warnings = [
            (origins.is_empty(), "no browser page can connect: server.allowed_origins is empty"),
            (
                origins.iter().any(|origin| origin == "*"),
                "pages of any origin can connect: server.allowed_origins is \"*\"",
            ),
            (
                self.redis.is_none(),
                "messages are kept only in the memory of this replica and are lost when it ends: redis.url is not set",
            ),
            (!self.auth.has_api_keys(), "publishing over HTTP is not possible: auth.api_keys is empty"),
            (
                anonymous,
                "clients without a token are accepted where a profile has token = \"auto\": auth.anonymous is \
                 \"always\"",
            ),
        ];
        let mut warnings: Vec<_> =
            warnings.into_iter().filter(|(reported, _)| *reported).map(|(_, text)| text.to_owned()).collect();
        let secrets = [&*self.auth.hs256_secrets, &*self.auth.api_keys];
        warnings.extend(strength::warn((&raw.auth, &raw.redis), secrets, self.redis.as_ref()));
        warnings
    }
}
