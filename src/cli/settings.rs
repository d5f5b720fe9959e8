//! The flags that set configuration keys, shared by the verbs that read the configuration.

use std::path::PathBuf;

use crate::config::ConfigSources;

/// The sources of settings above the defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SettingsSources {
    /// Configuration file (TOML); also set by TICKGATE_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the public listener: WebSockets and health
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Address of the operations listener: metrics and the HTTP API
    #[arg(long, value_name = "ADDRESS:PORT")]
    ops_listen: Option<String>,
    /// Redis, redis://host:6379; if it has a password, prefer TICKGATE__REDIS__URL, which other users cannot see
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Development mode even if secrets are configured; loopback only
    #[arg(long)]
    development: bool,
    /// Log level: error, warn, info, debug, trace, or per module (info,tickgate::hub=debug)
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

impl SettingsSources {
    /// The layers above the defaults: file, this process's environment, flags.
    pub(super) fn sources(&self) -> ConfigSources {
        self.over(ConfigSources::of_process(self.config.clone()))
    }

    fn over(&self, sources: ConfigSources) -> ConfigSources {
        let development = self.development.then(|| "development".to_owned());
        let json = self.log_json.then(|| "json".to_owned());
        let flags = [
            ("--listen", "server.listen", &self.listen),
            ("--ops-listen", "server.ops_listen", &self.ops_listen),
            ("--redis", "redis.url", &self.redis),
            ("--development", "server.mode", &development),
            ("--log", "log.filter", &self.log),
            ("--log-json", "log.format", &json),
        ];
        flags.into_iter().fold(sources, |sources, (flag, key, value)| match value {
            Some(value) => sources.flag(flag, key, value),
            None => sources,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn flags_set_their_keys() {
        let settings = SettingsSources {
            config: None,
            listen: Some("127.0.0.1:1".into()),
            ops_listen: Some("127.0.0.1:2".into()),
            redis: Some("redis://h".into()),
            development: true,
            log: Some("debug".into()),
            log_json: true,
        };
        let (config, _) = Config::load(&settings.over(ConfigSources::default())).unwrap();
        assert_eq!((config.server.listen.port(), config.server.ops_listen.port()), (1, 2));
        assert!(config.development && config.redis.is_some() && config.log.json && config.log.filter == "debug");
    }
}
