//! Layers and messages of the configuration as a whole. The environment is always an argument.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use super::*;
use crate::model::Class;

const SECRET: &str = "0123456789abcdef0123456789abcdef-secret";

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

fn file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources { file: Some(file.path().into()), ..Sources::default() };
    (file, sources)
}

fn load(sources: &Sources) -> Config {
    Config::load(sources).unwrap_or_else(|problems| panic!("{problems}")).0
}

/// The problems as `key: text`, without origins.
fn problems(sources: &Sources) -> Vec<String> {
    let problems = Config::load(sources).expect_err("the configuration is wrong");
    problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect()
}

fn problems_of(text: &str) -> Vec<String> {
    problems(&file(text).1)
}

#[test]
fn the_defaults_are_what_the_contract_says() {
    let config = load(&Sources::default());
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
    let config = load(&Sources::default());
    let told: Vec<String> =
        config.profiles.iter().map(|p| format!("{} {} {:?} {}", p.name, p.path, p.token, p.refusal_code)).collect();
    assert_eq!(
        told,
        [
            "trading /ws/trading Required 4001",
            "market /ws/market Ignored 4001",
            "events /ws Optional 1008",
            "backtest /ws/backtest/{run_id} Optional 1008",
            "forward /ws/forward/{run_id} Optional 1008",
            "ingest /ws/ingest Publisher 4001",
        ]
    );
    let [trading, market, events, backtest, _, ingest] = &config.profiles[..] else { panic!("six profiles") };
    let private = trading.channels.iter().filter(|channel| channel.scope == Scope::Private);
    let private: Vec<&str> = private.map(|channel| channel.pattern.as_str()).collect();
    assert_eq!(private, ["orders", "risk_alerts", "bot_status", "portfolio"]);
    assert_eq!(market.symbol_verbs.len(), 3);
    assert_eq!(events.channels.iter().filter(|channel| channel.on_connect).count(), 4);
    assert_eq!(events.channels.iter().filter(|channel| channel.restricted).count(), 2);
    assert_eq!(backtest.channels[0].scope, Scope::Path("run:{run_id}".into()));
    assert_eq!(backtest.commands_topic.as_deref(), Some("commands"));
    assert_eq!((ingest.dialect, ingest.channels.len()), (Dialect::Envelope, 0));
}

#[test]
fn the_shipped_classes_are_those_of_the_contract() {
    let topics = load(&Sources::default()).topics;
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
fn each_layer_lies_over_the_one_before() {
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
fn the_environment_reaches_every_kind_of_value() {
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
    assert_eq!(config.hub.linger, Duration::from_secs(10), "an empty variable is none");
}

#[test]
fn the_names_of_the_replaced_servers_work_and_give_way_to_ours() {
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
fn all_problems_are_told_at_once_with_where_they_were_written() {
    let (_file, mut sources) = file(
        "[server]\nlisten = \"nowhere\"\nlisen = 1\n[sesion]\nx = 1\n[limits]\nsubscriptions_max = \"many\"\nheartbeat_interval = 1\n[log]\nformat = \"xml\"",
    );
    sources.environment.push(("TICKGATE__LIMITS__JSON_DEPTH_MAX".into(), "-3".into()));
    sources.environment.push(("TICKGATE__LIMITS__JSON_DEPT_MAX".into(), "3".into()));
    sources.environment.push(("TICKGATE__SERVER".into(), "x".into()));
    sources.environment.push(("TICKGATE__PROFILES".into(), "x".into()));
    let sources = sources.flag("--log", "log.filter", "tickgate=loud");
    let path = sources.file.as_ref().unwrap().display().to_string();
    let text = Config::load(&sources).unwrap_err().to_string().replace(&path, "FILE");
    let wanted = [
        "11 problems in the configuration",
        "limits.heartbeat_interval (FILE): unknown key, did you mean session.heartbeat_interval?",
        "limits.subscriptions_max (FILE): wants a whole number from 0, such as 200",
        "server.lisen (FILE): unknown key, did you mean server.listen?",
        "sesion (FILE): unknown key, did you mean session?",
        "limits.json_depth_max (TICKGATE__LIMITS__JSON_DEPTH_MAX): wants a whole number from 0, such as 32",
        "TICKGATE__LIMITS__JSON_DEPT_MAX: unknown key, did you mean TICKGATE__LIMITS__JSON_DEPTH_MAX?",
        "TICKGATE__SERVER: `server` is a section, name a key of it",
        "TICKGATE__PROFILES: can be set in a file only",
        "server.listen (FILE): wants an IP address and a port, such as \"127.0.0.1:8000\", got \"nowhere\"",
        "log.filter (--log): wants levels such as \"info\" or \"info,tickgate::hub=debug\", got \"tickgate=loud\"",
        "log.format (FILE): wants one of text, json, got \"xml\"",
    ];
    assert_eq!(text, wanted.join("\n  "));
}

#[test]
fn values_that_mean_nothing_are_told() {
    let cases = [
        ("session.heartbeat_interval = 30", "session.heartbeat_interval: wants text in quotes, such as \"30s\""),
        (
            "session.heartbeat_interval = \"30\"",
            "wants a time with a unit (ms, s, m, h, d), such as \"30s\", got \"30\"",
        ),
        ("session.heartbeat_interval = \"10ms\"", "session.heartbeat_interval: wants 1s to 10m, got 10ms"),
        ("limits.subscriptions_max = -1", "limits.subscriptions_max: wants a whole number from 0, such as 200"),
        ("limits.over_limit = \"evict\"", "limits.over_limit: wants one of refuse, evict-oldest, got \"evict\""),
        ("limits.messages_per_user = 5", "limits.messages_per_user: is a section"),
        ("limits.messages_per_user.burst = 0", "limits.messages_per_user.burst: wants 1 to 10000000, got 0"),
        ("server.allowed_origins = \"*\"", "server.allowed_origins: wants a list of texts, such as [\"a\", \"b\"]"),
        ("server.allowed_origins = [\"a.example\"]", "server.allowed_origins: wants an origin as browsers send it"),
        (
            "server.allowed_origins = [\"*\", \"http://a\"]",
            "server.allowed_origins: \"*\" allows every origin: write it alone",
        ),
        ("server.trusted_proxies = [\"10.0.0.0/99\"]", "server.trusted_proxies: wants an address range"),
        ("server.mode = \"dev\"", "server.mode: wants one of auto, development, production, got \"dev\""),
        ("redis.url = \"localhost:6379\"", "redis.url: wants redis://host:port/db"),
        ("redis.prefix = \"a{b}\"", "redis.prefix: wants 1 to 32 characters"),
        ("redis.ca_file = \"/no/such.pem\"", "redis.ca_file: can't read /no/such.pem"),
        ("redis.url_file = \"/no/such\"", "redis.url_file: can't read /no/such"),
        ("auth.jwks_url = \"login.example.com\"", "auth.jwks_url: wants an address such as"),
        ("auth.anonymous = \"yes\"", "auth.anonymous: wants one of auto, always, never, got \"yes\""),
        ("feeds.synthetic.symbols = [\"a b\"]", "feeds.synthetic.symbols: wants symbols such as \"BTCUSDT\""),
        ("feeds.synthetic.symbols = []", "feeds.synthetic.symbols: wants at least one symbol"),
        ("user_stream.retain_max = 0", "user_stream.retain_max: wants 1 to 10000000, got 0"),
        ("profiles = 5", "profiles: wants tables, each headed [[profiles]]"),
        (
            "auth.public_keys = [{algorithm = \"HS256\", path = \"/no\"}]",
            "auth.public_keys[0].algorithm: wants one of RS256",
        ),
        ("auth.public_keys = [{path = \"/no\"}]", "auth.public_keys[0]: missing field `algorithm`"),
    ];
    for (text, wanted) in cases {
        let told = problems_of(text);
        assert!(told.iter().any(|told| told.contains(wanted)), "{text}: {told:#?}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let cases = [
        (
            "session.heartbeat_timeout = \"31s\"",
            "session.heartbeat_timeout: wants no more than session.heartbeat_interval (30s)",
        ),
        ("session.session_ttl = \"9s\"", "session.session_ttl: wants at least session.replica_ttl (10s)"),
        ("session.age_max = \"40s\"", "session.age_max: wants \"0s\" (never) or at least two heartbeat intervals"),
        ("redis.canary_timeout = \"1s\"", "redis.canary_timeout: wants more than redis.canary_interval (1s)"),
        (
            "limits.outbox_bytes_max = 2048",
            "limits.payload_bytes_max: wants no more than limits.outbox_bytes_max (2048)",
        ),
        ("limits.body_bytes_max = 2048", "limits.payload_bytes_max: wants no more than limits.body_bytes_max (2048)"),
        ("limits.messages_per_user.per_second = 5", "wants at least limits.messages_per_connection.per_second (100)"),
        ("auth.token_bytes_max = 20000", "auth.token_bytes_max: wants less than server.header_bytes_max (16384)"),
        ("user_stream.retain_ttl = \"30s\"", "user_stream.retain_ttl: wants at least session.resume_ttl"),
        (
            "redis.url = \"redis://h\"\nreadiness.redis_grace = \"1s\"",
            "readiness.redis_grace: wants at least redis.canary_timeout",
        ),
        ("server.ops_listen = \"127.0.0.1:8000\"", "server.ops_listen: wants another port than server.listen"),
        (
            "redis.url = \"redis://h\"\nredis.url_file = \"/f\"",
            "redis.url_file: is set beside redis.url: one of the two",
        ),
        ("auth.api_keys = [\"k\"]\nauth.api_keys_file = \"/f\"", "auth.api_keys_file: is set beside auth.api_keys"),
    ];
    for (text, wanted) in cases {
        let told = problems_of(text);
        assert!(told.len() == 1 && told[0].contains(wanted), "{text}: {told:#?}");
    }
}

#[test]
fn wrong_topics_and_profiles_are_told() {
    let profile = |rest: &str| format!("[[profiles]]\nname = \"own\"\n{rest}");
    let topic = |rest: &str| format!("[[topics]]\npattern = \"x:*\"\n{rest}");
    let cases = [
        (topic("class = \"fast\""), "topics.x:*.class: wants one of state, event, reliable, got \"fast\""),
        (topic("class = \"state\"\nretain_max = 5"), "topics.x:*.retain_max: wants 0 or 1"),
        (topic("class = \"reliable\"\nretain_max = 0"), "topics.x:*.retain_max: wants at least 1"),
        (topic("class = \"event\"\nretain = 1"), "topics.x:*.retain: unknown key"),
        (
            "[[topics]]\npattern = \"a b\"\nclass = \"event\"".into(),
            "topics.a b.pattern: a pattern is 1 to 200 characters",
        ),
        (profile("path = \"ws\"\ntoken = \"ignored\""), "profiles.own.path: wants a path such as"),
        (
            profile("path = \"/health\"\ntoken = \"ignored\""),
            "profiles.own.path: /health is taken by the gateway itself",
        ),
        (
            profile("path = \"/ws\"\ntoken = \"ignored\""),
            "profiles.own.path: /ws and /ws of profile events can't be told apart",
        ),
        (profile("path = \"/x\""), "profiles.own.token: wants one of required, optional, ignored, publisher, auto"),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nrefusal_code = 4003"),
            "profiles.own.refusal_code: wants 4001 or 1008",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nchannels = [{name = \"orders\", scope = \"private\"}]"),
            "profiles.own.channels.orders: is private, which wants a profile with token",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a*\", on_connect = true}]"),
            "profiles.own.channels.a*: can't be subscribed on connect",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a\", topic = \"run:{id}\"}]"),
            "profiles.own.channels.a: wants a topic name",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a\"}, {name = \"a\"}]"),
            "profiles.own.channels.a: appears twice",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nsymbol_verbs = {ticker = \"ticker:\"}"),
            "profiles.own.symbol_verbs.ticker: wants a channel such as \"ticker:*\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\n[[profiles]]\nname = \"own\"\npath = \"/y\"\ntoken = \"auto\""),
            "profiles.own: appears twice",
        ),
        ("profiles = [{name = \"Own\", path = \"/x\", token = \"auto\"}]".into(), "wants 1 to 32 characters of a-z"),
    ];
    for (text, wanted) in cases {
        let told = problems_of(&text);
        assert!(told.len() == 1 && told[0].contains(wanted), "{text}: {told:#?}");
    }
}

#[test]
fn a_platform_adds_replaces_and_removes_endpoints() {
    let (_file, sources) = file(
        "[[profiles]]\nname = \"prices\"\npath = \"/prices\"\ntoken = \"ignored\"\nchannels = [{ name = \"ticker:*\" }]\n\
         [[profiles]]\nname = \"events\"\npath = \"/feed\"\ntoken = \"required\"\nwelcome = \"Hello\"\n\
         [[profiles]]\nname = \"ingest\"\nenabled = false\n\
         [[topics]]\npattern = \"ticker:SLOW*\"\nclass = \"event\"\n\
         [[topics]]\npattern = \"*\"\nclass = \"reliable\"\n",
    );
    let config = load(&sources);
    let names: Vec<&str> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["trading", "market", "events", "backtest", "forward", "prices"]);
    let events = &config.profiles[2];
    assert_eq!((events.path.as_str(), events.welcome.as_str(), events.channels.len()), ("/feed", "Hello", 0));
    assert_eq!(config.topics.of_name("ticker:SLOWBTC").class, Class::Event);
    assert_eq!(config.topics.of_name("ticker:BTC").class, Class::State, "the shipped rules still count");
    assert_eq!(config.topics.of_name("unknown").class, Class::Reliable);
}

#[test]
fn development_mode_makes_its_own_secrets_and_only_on_loopback() {
    let first = load(&Sources::default());
    let second = load(&Sources::default());
    assert!(first.secret_generated && first.auth.hs256_secrets != second.auth.hs256_secrets);
    assert_eq!((first.auth.hs256_secrets.len(), first.auth.api_keys.len()), (1, 1));
    assert!(first.feeds.synthetic.is_some());
    assert_eq!(first.server.allowed_origins, ["*"]);

    let told = problems(&environment(&[("TICKGATE__SERVER__LISTEN", "0.0.0.0:8000")]));
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("server.listen: 0.0.0.0:8000 can be reached by others, and no key to verify tokens is set")
    );
    assert!(told[0].contains("TICKGATE__AUTH__HS256_SECRETS_FILE"), "it says what to do: {told:?}");

    let told =
        problems(&environment(&[("TICKGATE__SERVER__LISTEN", "[::]:8000"), ("TICKGATE__SERVER__MODE", "development")]));
    assert_eq!(told, ["server.listen: [::]:8000 can be reached by others: development mode listens on loopback only"]);

    let fixed =
        load(&environment(&[("TICKGATE__SERVER__MODE", "development"), ("TICKGATE__AUTH__HS256_SECRETS", "short")]));
    assert!(fixed.development && !fixed.secret_generated);
}

#[test]
fn with_secrets_it_is_not_development_mode() {
    let config = load(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", SECRET)]));
    assert!(!config.development && config.feeds.synthetic.is_none() && config.auth.api_keys.is_empty());
    assert!(config.server.allowed_origins.is_empty());
    assert_eq!(config.profiles[2].token, TokenRule::Required, "/ws is closed to the anonymous");
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);

    let open =
        load(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", SECRET), ("TICKGATE__AUTH__ANONYMOUS", "always")]));
    assert_eq!(open.profiles[2].token, TokenRule::Optional);
    assert_eq!(open.warnings.len(), 3);
}

#[test]
fn secrets_are_strong_and_listeners_guarded_outside_development_mode() {
    let told = problems(&environment(&[
        ("TICKGATE__AUTH__HS256_SECRETS", &format!("{SECRET},short")),
        ("TICKGATE__SERVER__OPS_LISTEN", "0.0.0.0:8001"),
    ]));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("server.ops_listen: 0.0.0.0:8001 can be reached by others, and no API key is set"));
    assert!(told[1].starts_with("auth.hs256_secrets: wants at least 32 bytes each"));

    let told = problems(&environment(&[("TICKGATE__SERVER__MODE", "production")]));
    assert!(
        told[0].starts_with("server.mode: this is not development mode, and no key to verify tokens is set"),
        "{told:?}"
    );
    let three = format!("{SECRET},{SECRET},{SECRET}");
    assert!(problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", &three)]))[0].contains("two at the most"));
}

#[test]
fn secrets_may_come_from_mounted_files() {
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
    assert_eq!(config.redis.unwrap().url.expose(), "redis://:pw@redis:6379/0");

    let (empty, _) = file("\n");
    let told = problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS_FILE", empty.path().to_str().unwrap())]));
    assert!(told.iter().any(|told| told.contains("is empty")), "{told:?}");
}

#[test]
fn secrets_show_themselves_nowhere() {
    let key = "api-key-0123456789abcdef0123456789abcdef";
    let sources = environment(&[
        ("TICKGATE__AUTH__HS256_SECRETS", SECRET),
        ("TICKGATE__AUTH__API_KEYS", key),
        ("TICKGATE__REDIS__URL", "redis://bob:hunter2@h:6379/0"),
    ]);
    let (config, effective) = Config::load(&sources).unwrap();
    let shown = format!("{config:?}\n{effective:?}\n{}\n{}", effective.to_toml(), effective.to_json());
    for secret in [SECRET, key, "hunter2", "bob"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    assert!(effective.to_toml().contains("hs256_secrets = [\"***\"]"));
    assert!(effective.to_toml().contains("redis://***@h:6379/0"));

    let wrong = [
        "[auth]\napi_keys = \"hunter2\"",
        "[auth]\napi_keys = [\"hunter2\", 5]",
        "[auth]\napi_keys = hunter2",
        "[auth]\napi_key = \"hunter2\"",
        "[redis]\nurl = \"hunter2@h\"",
        "[redis]\nurl = [\"hunter2\"]",
        "[server]\nlisten = \"0.0.0.0:1\"\n[auth]\nhs256_secrets = [\"hunter2\"]",
    ];
    for text in wrong {
        let told = problems_of(text);
        assert!(!told.is_empty() && !told.concat().contains("hunter2"), "{text}: {told:?}");
    }
}

#[test]
fn what_is_in_force_can_be_written_down_and_read_again() {
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
fn a_file_that_is_no_toml_names_the_line() {
    let told = problems_of("[server]\nlisten = \n");
    assert!(told[0].contains("line 2 is not TOML"), "{told:?}");
    let missing = Sources { file: Some("/no/such.toml".into()), ..Sources::default() };
    assert!(problems(&missing)[0].starts_with("/no/such.toml: can't be read"));
}

#[test]
fn the_shipped_production_file_only_lacks_its_secrets() {
    let sources = Sources {
        file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml").into()),
        ..Sources::default()
    };
    let (mounted, _) = file(&format!("{SECRET}\n"));
    let (url, _) = file("redis://redis:6379/0");
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let sources = sources
        .flag("", "auth.hs256_secrets_file", path(&mounted))
        .flag("", "auth.api_keys_file", path(&mounted))
        .flag("", "redis.url_file", path(&url));
    let config = load(&sources);
    assert!(!config.development && config.redis.is_some() && config.log.json);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn tests_start_from_free_ports() {
    let config = Config::development();
    assert_eq!((config.server.listen.port(), config.server.ops_listen.port()), (0, 0));
    assert!(config.development && config.feeds.synthetic.is_none());
}

/// `docs/configuration.md` has a row for every key, with its default; and no row for a key that is not there.
#[test]
fn the_reference_lists_every_key_with_its_default() {
    let docs = include_str!("../../docs/configuration.md");
    let defaults: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let mut missing = String::new();
    for key in keys().iter().filter(|key| !lists::is_list_of_tables(key)) {
        let default = key.split('.').fold(None, |at: Option<&toml::Value>, part| {
            at.map_or_else(|| defaults.get(part), |table| table.get(part))
        });
        let row = format!("| `{key}` | `{}` |", default.unwrap());
        if !docs.contains(&row) {
            writeln!(missing, "{row}").unwrap();
        }
    }
    assert_eq!(missing, "", "rows that docs/configuration.md lacks");
    let known = keys();
    for row in docs.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = row.split('`').next().unwrap();
        let seed = SEED_NAMES.iter().any(|(seed, _)| *seed == name);
        assert!(
            !name.contains('.') || seed || known.iter().any(|key| key == name),
            "unknown key in the reference: {name}"
        );
    }
    for (seed, key) in SEED_NAMES {
        assert!(docs.contains(&format!("| `{seed}` | `{key}` |")), "{seed}");
    }
    let entries =
        [lists::fields_of::<raw::Profile>(), lists::fields_of::<raw::Channel>(), lists::fields_of::<raw::Topic>()];
    for field in entries.concat().iter().chain(lists::fields_of::<raw::PublicKey>()) {
        assert!(docs.contains(&format!("| `{field}` |")), "{field}");
    }
}

/// The example of an endpoint of one's own in the reference works as it stands there.
#[test]
fn the_example_of_the_reference_works() {
    let docs = include_str!("../../docs/configuration.md");
    let example =
        docs.split("```toml\n").find(|block| block.starts_with("[[profiles]]")).unwrap().split("```").next().unwrap();
    let config = load(&file(example).1);
    let profile = config.profiles.iter().find(|profile| profile.name == "strategies").unwrap();
    assert_eq!(profile.channels[0].scope, Scope::Path("signals:{strategy}".into()));
    assert_eq!(config.profiles.len(), 7);
    assert_eq!(config.topics.of_name("signals:momentum").retain_max, 5000);
}

/// What the reference says of entries is all that entries may have, also in the shipped file's comments.
#[test]
fn the_shipped_file_explains_every_key() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        let is_key = line
            .split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
        if line.starts_with("[[topics]]") {
            break;
        }
        assert!(!is_key || explained, "no comment above: {line}");
        explained = line.starts_with('#');
    }
    for field in
        [lists::fields_of::<raw::Profile>(), lists::fields_of::<raw::Channel>(), lists::fields_of::<raw::Topic>()]
            .concat()
    {
        let key = ["name", "pattern", "class", "enabled"].contains(&field) || DEFAULTS.contains(&format!(" {field} "));
        assert!(key, "not explained: {field}");
    }
}
