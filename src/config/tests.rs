//! Layers and messages of the configuration as a whole. The environment is always passed as an argument.

mod messages;
mod reference;

use std::{io::Write as _, time::Duration};

use tickgate_wire::{dialect::Dialect, model::Class, protocol::Protocol, transport::Transport};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef-secret";

fn environment(variables: &[(&str, &str)]) -> ConfigSources {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ConfigSources { environment, ..ConfigSources::default() }
}

fn file(text: &str) -> (tempfile::NamedTempFile, ConfigSources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = ConfigSources { file: Some(file.path().into()), ..ConfigSources::default() };
    (file, sources)
}

fn load(sources: &ConfigSources) -> Config {
    Config::load(sources).unwrap_or_else(|problems| panic!("{problems}")).0
}

/// The problems as `key: text`, without origins.
fn problems(sources: &ConfigSources) -> Vec<String> {
    let problems = Config::load(sources).expect_err("the configuration is invalid");
    problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect()
}

fn problems_of(text: &str) -> Vec<String> {
    problems(&file(text).1)
}

#[test]
fn the_defaults_match_the_contract() {
    let config = load(&ConfigSources::default());
    assert!(config.development && config.redis.is_none() && config.warnings.is_empty());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.server.ops_listen.to_string(), "127.0.0.1:8001");
    assert_eq!(config.server.header_timeout, Duration::from_secs(5));
    assert_eq!(config.session.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(config.session.resume_ttl, Duration::from_secs(60));
    assert_eq!(config.session.session_ttl, Duration::from_secs(300));
    assert_eq!(config.limits.connections_per_user_max, 5);
    assert_eq!(config.limits.outbox_messages_max, 100);
    assert_eq!(config.limits.outbox_bytes_max, 1 << 20);
    assert_eq!(config.limits.message_bytes_max, 64 << 10);
    assert_eq!(config.limits.messages_per_connection, Rate { per_second: 100, burst: 200 });
    assert_eq!((config.limits.subscriptions_max, config.limits.json_depth_max), (200, 32));
    assert_eq!(config.limits.over_limit, OverLimit::Refuse);
    assert_eq!((config.drain.delay, config.drain.spread), (Duration::from_secs(5), Duration::from_secs(30)));
    assert_eq!(config.auth.auth_timeout, Duration::from_secs(5));
}

#[test]
fn the_shipped_profiles_are_the_endpoints_of_the_contract() {
    let config = load(&ConfigSources::default());
    let reported: Vec<String> =
        config.profiles.iter().map(|p| format!("{} {} {:?} {}", p.name, p.path, p.token, p.refusal_code)).collect();
    assert_eq!(
        reported,
        [
            "trading /ws/trading Required 4001",
            "market /ws/market Ignored 4001",
            "events /ws Optional 1008",
            "backtest /ws/backtest/{run_id} Optional 1008",
            "forward /ws/forward/{run_id} Optional 1008",
            "sse /sse Optional 4001",
            "ingest /ws/ingest Publisher 4001",
        ]
    );
    let [trading, market, events, backtest, _, sse, ingest] = &config.profiles[..] else { panic!("seven profiles") };
    let private = trading.channels.iter().filter(|channel| channel.scope == ChannelScope::Private);
    let private: Vec<&str> = private.map(|channel| channel.pattern.as_str()).collect();
    assert_eq!(private, ["orders", "risk_alerts", "bot_status", "portfolio"]);
    assert_eq!(market.symbol_verbs.len(), 3);
    assert_eq!(events.channels.iter().filter(|channel| channel.on_connect).count(), 4);
    assert_eq!(events.channels.iter().filter(|channel| channel.restricted).count(), 4);
    assert_eq!(backtest.channels[0].scope, ChannelScope::Path("run:{run_id}".into()));
    assert_eq!(backtest.commands_topic.as_deref(), Some("commands"));
    assert_eq!((ingest.protocol.dialect, ingest.channels.len()), (Dialect::Envelope, 0));
    assert_eq!(sse.protocol, Protocol { transport: Transport::EventStream, dialect: Dialect::Json });
}

#[test]
fn the_shipped_topic_classes_match_the_contract() {
    let topics = load(&ConfigSources::default()).topics;
    let classes = [
        ("ticker:BTCUSDT", Class::State),
        ("orderbook:BTCUSDT", Class::State),
        ("trades:BTCUSDT", Class::Event),
        ("system_log", Class::Event),
        ("orders", Class::Reliable),
        ("bot_status", Class::Reliable),
        ("portfolio", Class::State),
        ("equity_update", Class::State),
        ("position_update", Class::Reliable),
        ("risk_status_update", Class::Reliable),
        ("run:7", Class::Reliable),
        ("commands", Class::Reliable),
        ("ingest_events", Class::Reliable),
        ("logs", Class::Reliable),
        ("anything.else", Class::Event),
    ];
    for (name, class) in classes {
        assert_eq!(topics.of_name(name).class, class, "{name}");
    }
    assert_eq!(topics.of_name("ticker:X").retain_max, 1);
    assert_eq!(topics.of_name("anything.else").retain_max, 100);
    assert_eq!(topics.user_stream().class, Class::Reliable);
}

#[test]
fn each_layer_overrides_the_previous_one() {
    let (_file, mut sources) =
        file("[limits]\nsubscriptions_max = 1\njson_depth_max = 11\n[hub]\nring_messages_max = 21\n");
    sources.environment.push(("TICKGATE__LIMITS__SUBSCRIPTIONS_MAX".into(), "2".into()));
    sources.environment.push(("TICKGATE__LIMITS__JSON_DEPTH_MAX".into(), "12".into()));
    let sources = sources.flag("--subscriptions", "limits.subscriptions_max", "3");
    let config = load(&sources);
    assert_eq!(config.limits.subscriptions_max, 3, "the flag");
    assert_eq!(config.limits.json_depth_max, 12, "the environment");
    assert_eq!(config.hub.ring_messages_max, 21, "the file");
    assert_eq!(config.limits.invalid_messages_max, 10, "the default");
}

#[test]
fn the_environment_sets_every_kind_of_value() {
    let config = load(&environment(&[
        ("TICKGATE__SERVER__LISTEN", "127.0.0.1:9000"),
        ("TICKGATE__SERVER__ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("TICKGATE__READINESS__REDIS_REQUIRED", "false"),
        ("TICKGATE__LIMITS__HANDSHAKES_PER_ADDRESS__PER_SECOND", "0"),
        ("TICKGATE__HUB__LINGER", ""),
        ("PATH", "/bin"),
    ]));
    assert_eq!(config.server.listen.port(), 9000);
    assert_eq!(config.server.allowed_origins, ["https://a.example", "https://b.example"]);
    assert!(!config.readiness.redis_required);
    assert_eq!(config.limits.handshakes_per_address.per_second, 0);
    assert_eq!(config.hub.linger, Duration::from_secs(10), "an empty variable is ignored");
}

#[test]
fn short_variable_names_work_and_give_way_to_full_names() {
    let config = load(&environment(&[
        ("WS_HEARTBEAT_INTERVAL", "20"),
        ("WS_MAX_CONNECTIONS_PER_USER", "7"),
        ("WS_MESSAGE_QUEUE_SIZE", "50"),
        ("WS_RECONNECT_TIMEOUT", "90"),
        ("TICKGATE__SESSION__RESUME_TTL", "2m"),
    ]));
    assert_eq!(config.session.heartbeat_interval, Duration::from_secs(20));
    assert_eq!(config.limits.connections_per_user_max, 7);
    assert_eq!(config.limits.outbox_messages_max, 50);
    assert_eq!(config.session.resume_ttl, Duration::from_secs(120));
}

#[test]
fn a_file_adds_replaces_and_removes_endpoints() {
    let (_file, sources) = file(
        "[[profiles]]\nname = \"prices\"\npath = \"/prices\"\ntoken = \"ignored\"\nchannels = [{ name = \"ticker:*\" }]\n\
         [[profiles]]\nname = \"events\"\npath = \"/feed\"\ntoken = \"required\"\nwelcome = \"Hello\"\n\
         [[profiles]]\nname = \"ingest\"\nenabled = false\n\
         [[topics]]\npattern = \"ticker:SLOW*\"\nclass = \"event\"\n\
         [[topics]]\npattern = \"*\"\nclass = \"reliable\"\n",
    );
    let config = load(&sources);
    let names: Vec<&str> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["trading", "market", "events", "backtest", "forward", "sse", "prices"]);
    let events = &config.profiles[2];
    assert_eq!((events.path.as_str(), events.welcome.as_str(), events.channels.len()), ("/feed", "Hello", 0));
    assert_eq!(config.topics.of_name("ticker:SLOWBTC").class, Class::Event);
    assert_eq!(config.topics.of_name("ticker:BTC").class, Class::State, "the shipped rules still count");
    assert_eq!(config.topics.of_name("unknown").class, Class::Reliable);
}

#[test]
fn development_mode_generates_secrets_and_listens_only_on_loopback() {
    let first = load(&ConfigSources::default());
    let second = load(&ConfigSources::default());
    assert!(first.secret_generated && first.auth.hs256_secrets != second.auth.hs256_secrets);
    assert_eq!((first.auth.hs256_secrets.len(), first.auth.api_keys.len()), (1, 1));
    assert!(first.feeds.synthetic.is_some());
    assert_eq!(first.server.allowed_origins, [LOOPBACK_ORIGINS]);

    let reported = problems(&environment(&[("TICKGATE__SERVER__LISTEN", "0.0.0.0:8000")]));
    assert_eq!(reported.len(), 1);
    assert!(reported[0].starts_with(
        "server.listen: 0.0.0.0:8000 is reachable from other machines, and no key to verify tokens is set"
    ));
    assert!(reported[0].contains("TICKGATE__AUTH__HS256_SECRETS_FILE"), "the message says what to do: {reported:?}");

    let reported =
        problems(&environment(&[("TICKGATE__SERVER__LISTEN", "[::]:8000"), ("TICKGATE__SERVER__MODE", "development")]));
    assert_eq!(
        reported,
        ["server.listen: [::]:8000 is reachable from other machines: development mode listens only on loopback"]
    );

    let fixed =
        load(&environment(&[("TICKGATE__SERVER__MODE", "development"), ("TICKGATE__AUTH__HS256_SECRETS", "short")]));
    assert!(fixed.development && !fixed.secret_generated);
}

#[test]
fn with_secrets_it_is_not_development_mode() {
    let config = load(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", SECRET)]));
    assert!(!config.development && config.feeds.synthetic.is_none() && config.auth.api_keys.is_empty());
    assert!(config.server.allowed_origins.is_empty());
    assert_eq!(config.profiles[2].token, TokenRule::Required, "/ws requires a token");
    assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);

    let open =
        load(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", SECRET), ("TICKGATE__AUTH__ANONYMOUS", "always")]));
    assert_eq!(open.profiles[2].token, TokenRule::Optional);
    assert_eq!(open.warnings.len(), 4);
}

#[test]
fn an_exchange_feed_turns_off_the_synthetic_market_and_plain_addresses_cause_warnings() {
    let on = ("TICKGATE__FEEDS__BINANCE__ENABLED", "on");
    let config = load(&environment(&[on]));
    assert!(config.development && config.feeds.binance.is_some() && config.feeds.synthetic.is_none());

    let plain = ("TICKGATE__FEEDS__BINANCE__STREAM_URL", "ws://exchange.example:9443");
    let warned = |variables: &[(&str, &str)]| {
        let config = load(&environment(variables));
        config.warnings.iter().filter(|warning| warning.contains("feeds.binance.stream_url")).count()
    };
    assert_eq!(warned(&[on, plain]), 1);
    assert_eq!(warned(&[on, ("TICKGATE__FEEDS__BINANCE__STREAM_URL", "ws://127.0.0.1:9443")]), 0);
    assert_eq!((warned(&[on]), warned(&[plain])), (0, 0));
}

#[test]
fn secrets_can_come_from_mounted_files() {
    let (mounted, _) = file(&format!("  {SECRET}\r\n\n{SECRET}-2\n"));
    let path = mounted.path().to_str().unwrap();
    let (url, _) = file("redis://:pw@redis:6379/0\n");
    let config = load(&environment(&[
        ("TICKGATE__AUTH__HS256_SECRETS_FILE", path),
        ("TICKGATE__AUTH__API_KEYS_FILE", path),
        ("TICKGATE__REDIS__URL_FILE", url.path().to_str().unwrap()),
    ]));
    assert_eq!(config.auth.hs256_secrets, [Secret::new(SECRET), Secret::new(&format!("{SECRET}-2"))]);
    assert_eq!(config.auth.api_keys.len(), 2);
    assert_eq!(config.redis.unwrap().access().url.expose(), "redis://:pw@redis:6379/0");

    let (empty, _) = file("\n");
    let reported = problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS_FILE", empty.path().to_str().unwrap())]));
    assert!(reported.iter().any(|reported| reported.contains("is empty")), "{reported:?}");
}

#[test]
fn the_configuration_in_force_can_be_written_and_read_again() {
    let (_file, sources) =
        file("[limits]\nsubscriptions_max = 7\n[[profiles]]\nname = \"own\"\npath = \"/own\"\ntoken = \"auto\"");
    let (_, effective) = Config::load(&sources).unwrap();
    let (_again, sources) = file(&effective.to_toml());
    let (config, again) = Config::load(&sources).unwrap();
    assert_eq!(config.limits.subscriptions_max, 7);
    assert_eq!(again.to_toml(), effective.to_toml());
    assert_eq!(again.to_json()["config"]["limits"]["subscriptions_max"], 7);
}

#[test]
fn tests_start_from_free_ports() {
    let config = Config::development();
    assert_eq!((config.server.listen.port(), config.server.ops_listen.port()), (0, 0));
    assert!(config.development && config.feeds.synthetic.is_none());
}

#[test]
fn published_secrets_are_refused_and_weak_ones_cause_warnings() {
    let published = "local-machine-only-0123456789abcdef";
    let reported = problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", published)]));
    assert!(reported.len() == 1 && reported[0].starts_with("auth.hs256_secrets"), "{reported:?}");
    assert!(
        reported[0].contains("is published with Tickgate's own files") && !reported[0].contains(published),
        "{reported:?}"
    );
    let development = [("TICKGATE__SERVER__MODE", "development"), ("TICKGATE__AUTH__HS256_SECRETS", published)];
    assert!(load(&environment(&development)).warnings.is_empty(), "development mode accepts published secrets");

    let (open, _) = file("redis://tickgate:change-me@redis.example.com:6379/0\n");
    let config = load(&environment(&[
        ("TICKGATE__SERVER__ALLOWED_ORIGINS", "https://app.example.com"),
        ("TICKGATE__AUTH__HS256_SECRETS", &"ab".repeat(32)),
        ("TICKGATE__AUTH__API_KEYS", &"ab".repeat(32)),
        ("TICKGATE__REDIS__URL_FILE", open.path().to_str().unwrap()),
    ]));
    let reported =
        ["hs256_secrets can be guessed", "api_keys can be guessed", "the same secret", "is published", "unencrypted"];
    assert_eq!(config.warnings.len(), reported.len(), "{:?}", config.warnings);
    for text in reported {
        assert!(config.warnings.iter().any(|warning| warning.contains(text)), "{text}: {:?}", config.warnings);
    }
}

#[test]
fn a_secret_file_readable_by_every_user_causes_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let (mounted, _) = file(SECRET);
    let path = mounted.path().to_str().unwrap();
    let warned = |mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = load(&environment(&[("TICKGATE__AUTH__HS256_SECRETS_FILE", path)]));
        config.warnings.iter().any(|warning| warning.contains("every user of this machine can read"))
    };
    assert!(warned(0o644) && !warned(0o640));
}

#[test]
fn keys_that_do_not_fit_the_mode_of_redis_are_refused() {
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    let good = format!(
        "[redis]\nmode = 'sentinel'\naddresses = ['a:1', 'b:2']\npassword_file = '{}'\nsentinel = {{ name = 'n' }}\n",
        password.path().display()
    );
    let redis = load(&file(&good).1).redis.unwrap();
    let sentinels = redis.access().sentinels.clone().unwrap();
    assert_eq!((&*sentinels.name, sentinels.addresses.len(), sentinels.tls), ("n", 2, false));
    assert_eq!(sentinels.server_login.password.expose(), "secret");
    assert_eq!((redis.place_key(), &*redis.access().shown()), ("redis.addresses", "n of sentinels a:1, b:2"));
    let named = |text: &str| format!("mode = 'sentinel'\nsentinel = {{ name = 'n' }}\n{text}");
    for (text, refused) in [
        ("mode = 'cluster'".into(), "mode: must be one of standalone, sentinel"),
        ("addresses = ['a:1']".into(), "addresses: requires redis.mode"),
        ("address_map = ['a:1=b:1']".into(), "address_map: requires redis.mode"),
        ("user = 'u'".into(), "user: requires redis.mode"),
        ("sentinel = { name = 'n' }".into(), "sentinel.name: requires redis.mode"),
        ("sentinel = { user = 'u' }".into(), "sentinel.user: requires redis.mode"),
        ("mode = 'sentinel'\naddresses = ['a:1']".into(), "sentinel.name: must be the name"),
        (named(""), "addresses: must have 1 to 16"),
        (named("addresses = ['a:1']\nurl = 'redis://h'"), "url: does not fit"),
        (named("addresses = ['a:1', 'a:1']"), "addresses: has a:1 twice"),
        (named("addresses = ['a:1', 'rediss://b:1']"), "addresses: must all have"),
        (named("addresses = ['a']"), "addresses: must be host:port"),
        (named("addresses = ['a:1']\nuser = 'u'"), "password_file: is missing"),
        (named("addresses = ['a:1']\naddress_map = ['a']"), "address_map: must be"),
    ] {
        let found = problems_of(&format!("[redis]\n{text}\n"));
        assert!(found.iter().any(|problem| problem.starts_with(&format!("redis.{refused}"))), "{text}: {found:?}");
    }
}

#[test]
fn the_query_of_a_key_set_is_not_shown() {
    let url = "https://login.example.com/jwks?key=hunter2";
    let (_, effective) = Config::load(&environment(&[("TICKGATE__AUTH__JWKS_URL", url)])).unwrap();
    let shown = effective.to_toml();
    assert!(shown.contains("https://login.example.com/jwks?***") && !shown.contains("hunter2"), "{shown}");
}
