//! What is told about a wrong configuration, and what is never shown.

use super::*;

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
        "limits.heartbeat_interval (FILE:8): unknown key, did you mean session.heartbeat_interval?",
        "limits.subscriptions_max (FILE:7): wants a whole number from 0, such as 200",
        "server.lisen (FILE:3): unknown key, did you mean server.listen?",
        "sesion (FILE:4): unknown key, did you mean session?",
        "limits.json_depth_max (TICKGATE__LIMITS__JSON_DEPTH_MAX): wants a whole number from 0, such as 32",
        "TICKGATE__LIMITS__JSON_DEPT_MAX: unknown key, did you mean TICKGATE__LIMITS__JSON_DEPTH_MAX?",
        "TICKGATE__SERVER: `server` is a section, name a key of it",
        "TICKGATE__PROFILES: can be set in a file only",
        "server.listen (FILE:2): wants an IP address and a port, such as \"127.0.0.1:8000\", got \"nowhere\"",
        "log.filter (--log): must be levels (off, error, warn, info, debug, trace), such as \"info\" or \"info,tickgate::hub=debug\", not \"tickgate=loud\"",
        "log.format (FILE:10): wants one of text, json, got \"xml\"",
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
        ("log.filter = \"info, tickgate=debug\"", "log.filter: must be levels (off"),
        ("log.filter = \"\"", "log.filter: must be levels (off"),
        ("limits.messages_per_user = 5", "limits.messages_per_user: is a section"),
        ("limits.messages_per_user.burst = 0", "limits.messages_per_user.burst: wants 1 to 10000000, got 0"),
        ("server.allowed_origins = \"*\"", "server.allowed_origins: wants a list of texts, such as [\"a\", \"b\"]"),
        ("server.allowed_origins = [\"a.example\"]", "server.allowed_origins: wants an origin as browsers send it"),
        (
            "server.allowed_origins = [\"*\", \"http://a\"]",
            "server.allowed_origins: \"*\" allows every origin: write it alone",
        ),
        ("server.trusted_proxies = [\"10.0.0.0/99\"]", "server.trusted_proxies: must be an address range"),
        ("server.trusted_proxies = [\"0.0.0.0/0\"]", "server.trusted_proxies: must be the proxies' own addresses"),
        (
            "server.trusted_proxies = [\"10.0.0.1\"]\nserver.trusted_hops = 1",
            "server.trusted_hops: is set beside server.trusted_proxies",
        ),
        ("server.address_header = \"via\"", "server.address_header: wants one of x-forwarded-for, forwarded"),
        ("server.allowed_origins = [\"loopback\"]", "server.allowed_origins: wants an origin"),
        ("auth.hs256_secrets = [\"\"]", "auth.hs256_secrets: has an empty secret"),
        ("auth.jwks_age_max = \"15m\"", "auth.jwks_age_max: must be at least twice auth.jwks_refresh_interval"),
        (
            "[[profiles]]\nname = \"tradng\"\nenabled = false",
            "profiles.tradng: no such profile, and a new one requires a path; there are trading, market, events",
        ),
        ("[[topics]]\npattern = \"tickr:*\"", "topics.tickr:*: missing field `class`"),
        (
            "[[topics]]\npattern = \"x\"\nclass = \"state\"\nretain_max = -1",
            "topics.x.retain_max: must be a whole number from 0",
        ),
        ("server.listen = \"::1:27506\"", "an IPv6 address in brackets, such as \"[::1]:8000\", got \"::1:27506\""),
        ("server.listen = 127.0.0.1:8000", "; text is written in quotes: server.listen = \"…\""),
        ("log.filter = \"warning\"", "log.filter: must be levels (off, error, warn, info, debug, trace)"),
        ("log.filter = \"warning\"", "not \"warning\" (did you mean \"warn\"?)"),
        ("log.filter = \"info,tickgate\"", "log.filter: must be levels"),
        ("log.filter = \"info,tickgate::hub=verbose\"", "log.filter: must be levels"),
        ("server.mode = \"dev\"", "server.mode: wants one of auto, development, production, got \"dev\""),
        ("redis.url = \"localhost:6379\"", "redis.url: wants redis://host:port"),
        ("redis.prefix = \"a{b}\"", "redis.prefix: wants 1 to 32 characters"),
        ("redis.ca_file = \"/no/such.pem\"", "redis.ca_file: can't read /no/such.pem"),
        ("redis.url_file = \"/no/such\"", "redis.url_file: can't read /no/such"),
        ("auth.jwks_url = \"login.example.com\"", "auth.jwks_url: wants an address such as"),
        (
            "auth.user_claim = \"exp\"",
            "auth.user_claim: must be a claim that names the user, such as \"uid\", not \"exp\"",
        ),
        ("auth.lifetime_without_exp = \"31d\"", "auth.lifetime_without_exp: wants 0s to 30d"),
        ("auth.anonymous = \"yes\"", "auth.anonymous: wants one of auto, always, never, got \"yes\""),
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
fn values_of_feeds_that_mean_nothing_are_told() {
    let cases = [
        ("feeds.synthetic.symbols = [\"a@b\"]", "feeds.synthetic.symbols: wants symbols such as \"BTCUSDT\""),
        ("feeds.synthetic.symbols = []", "feeds.synthetic.symbols: wants at least one symbol"),
        ("feeds.binance.enabled = \"auto\"", "feeds.binance.enabled: wants one of off, on, got \"auto\""),
        (
            "feeds.binance.symbols = [\"btcusdt\"]",
            "feeds.binance.symbols: must be symbols such as \"BTCUSDT\", not \"btcusdt\"",
        ),
        (
            "feeds.binance.stream_url = \"https://h\"",
            "feeds.binance.stream_url: must be an address such as \"wss://example.com\"",
        ),
        (
            "feeds.binance.rest_url = \"https://h/api\"",
            "feeds.binance.rest_url: must be an address such as \"https://example.com\"",
        ),
        ("feeds.binance.symbols_max = 341", "feeds.binance.symbols_max: wants 1 to 340, got 341"),
        ("feeds.binance.linger = \"0s\"", "feeds.binance.linger: wants 1s to 1h"),
        ("feeds.binance.stale_after = \"1s\"", "feeds.binance.stale_after: wants 2s to 1m"),
        ("feeds.binance.symbols_refresh = \"16m\"", "feeds.binance.symbols_refresh: wants 1s to 15m"),
        ("feeds.binance.connection_age_max = \"24h\"", "feeds.binance.connection_age_max: wants 10s to 23h"),
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
            "feeds.synthetic.enabled = \"on\"\nfeeds.binance.enabled = \"on\"",
            "feeds.synthetic.symbols: must not share BTCUSDT with feeds.binance.symbols",
        ),
        (
            "feeds.binance.enabled = \"on\"\nfeeds.binance.symbols = []",
            "feeds.binance.symbols: requires at least one symbol",
        ),
        (
            "feeds.binance.enabled = \"on\"\nfeeds.binance.symbols_max = 1",
            "feeds.binance.symbols: must not name more symbols than feeds.binance.symbols_max",
        ),
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
fn wrong_protocols_are_told() {
    let cases = [
        ("/x", "dialect = \"sse\"", "dialect: \"sse\" is not a dialect: write transport = \"event-stream\" instead"),
        ("/x", "dialect = \"xml\"", "dialect: wants one of json, envelope, got \"xml\""),
        ("/x", "transport = \"sse\"", "transport: wants one of websocket, event-stream, got \"sse\""),
        ("/", "transport = \"event-stream\"", "path: must not be \"/\" for an event stream"),
        (
            "/x",
            "dialect = \"envelope\"\ntransport = \"event-stream\"",
            "dialect: \"envelope\" requires transport = \"websocket\"",
        ),
    ];
    for (path, protocol, wanted) in cases {
        let text = format!("[[profiles]]\nname = \"own\"\npath = \"{path}\"\ntoken = \"auto\"\n{protocol}");
        let told = problems_of(&text);
        assert!(told.len() == 1 && told[0].contains(&format!("profiles.own.{wanted}")), "{text}: {told:#?}");
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
        (topic("class = \"event\"\ndedupe_ttl = \"0s\""), "topics.x:*.dedupe_ttl: wants 1s to 24h, got 0s"),
        (topic("class = \"event\"\ndedupe_ttl = \"soon\""), "topics.x:*.dedupe_ttl: wants a time"),
        (topic("class = \"event\"\ndedupe_ttl = 5"), "topics.x:*: invalid type: integer `5`, expected a string"),
        (topic("class = \"event\"\nretain = 1"), "topics.x:*.retain: unknown key"),
        (
            "[[topics]]\npattern = \"a@b\"\nclass = \"event\"".into(),
            "topics.a@b.pattern: a pattern is a name in which `*` may stand, and this is not a name: it contains `@`",
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
            profile("path = \"/x\"\ntoken = \"ignored\"\nrefusals = \"http\""),
            "profiles.own.refusals: wants one of auto, close, got \"http\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\ntransport = \"event-stream\"\nrefusals = \"close\""),
            "profiles.own.refusals: \"close\" requires transport = \"websocket\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nconnections_max = 0"),
            "profiles.own.connections_max: wants 1 to 10000000, got 0",
        ),
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
            "profiles.own.channels.a: wants the name of a topic",
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
    assert!(
        problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", &three)]))[0]
            .contains("holds 3 secrets, not one or two")
    );
}

#[test]
fn a_wrong_secret_file_is_named_with_what_it_should_contain() {
    let files = [
        ("auth.hs256_secrets_file", "it should contain HS256 secrets of at least 32 bytes, one per line"),
        ("auth.api_keys_file", "it should contain API keys of at least 32 bytes, one per line"),
        ("redis.url_file", "it should contain one line with the Redis address"),
        ("redis.ca_file", "it should contain the certificate authority of Redis in PEM form"),
    ];
    for (key, expected) in files {
        for contents in ["", " \n", "hunter2\n", "hunter2\nhunter2\nhunter2\n"] {
            let secret = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(secret.path(), contents).unwrap();
            let path = secret.path().display().to_string();
            let told = problems_of(&format!("server.mode = \"production\"\n{key} = \"{path}\""));
            let one = told
                .iter()
                .find(|told| told.starts_with(&format!("{key}: ")))
                .unwrap_or_else(|| panic!("{key} {told:?}"));
            assert!(one.contains(&path) && one.contains(expected), "{one}");
            assert!(!one.contains("hunter2"), "{one}");
        }
    }
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
fn a_file_that_is_no_toml_names_the_line() {
    let told = problems_of("[server]\nlisten = \n");
    assert!(told[0].contains("line 2 is not TOML"), "{told:?}");
    let missing = Sources { file: Some("/no/such.toml".into()), ..Sources::default() };
    assert!(problems(&missing)[0].starts_with("/no/such.toml: can't be read"));
}

#[test]
fn variables_that_set_nothing_are_told_and_those_of_others_are_left_alone() {
    let told = problems(&environment(&[
        ("TICKGATE_SERVER__LISTEN", "0.0.0.0:8000"),
        ("TICKGATE_AUTH_API_KEYS", "x"),
        ("TICKGATE__SERVER__LISTN", ""),
        ("TICKGATE_LOG", "debug"),
        ("TICKGATE_BIN", "/usr/bin/tickgate"),
        ("TICKGATE_LOGIN_URL", "https://login.example"),
        ("TICKGATE_REDIS_SERVICE_HOST", "10.0.0.1"),
        ("TICKGATE_REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("TICKGATE_SERVICE_HOST", "10.0.0.1"),
        ("TICKGATE_PORT", "tcp://10.0.0.1:8000"),
    ]));
    assert_eq!(
        told,
        [
            "TICKGATE_SERVER__LISTEN: sets nothing, did you mean TICKGATE__SERVER__LISTEN?",
            "TICKGATE_AUTH_API_KEYS: sets nothing, did you mean TICKGATE__AUTH__API_KEYS?",
            "TICKGATE__SERVER__LISTN: unknown key, did you mean TICKGATE__SERVER__LISTEN?",
            "TICKGATE_LOG: sets nothing",
        ]
    );
}

#[test]
fn an_empty_secret_does_not_mean_development() {
    for name in ["HS256_SECRETS", "HS256_SECRETS_FILE", "API_KEYS", "API_KEYS_FILE"] {
        let name = format!("TICKGATE__AUTH__{name}");
        let told = problems(&environment(&[(&name, "")]));
        assert_eq!(told, [format!("{name}: is set but empty: give it a value, or do not set it")]);
    }
}

#[test]
fn a_problem_names_its_line() {
    let (file, _) =
        file("# settings\n\n[server]\nlisten = \"x\"\n\n[[topics]]\npattern = \"t\"\nclass = \"no\"\n[lmits]\n");
    let told = Config::load(&Sources { file: Some(file.path().into()), ..Sources::default() }).unwrap_err().to_string();
    let path = file.path().display();
    for at in ["server.listen", "topics.t", "lmits"] {
        let line = match at {
            "server.listen" => ":4",
            "topics.t" => ":8",
            _ => ":9",
        };
        let found = told.lines().find(|told| told.trim_start().starts_with(at)).expect("told");
        assert!(found.contains(&format!("({path}{line})")), "{at}: {told}");
    }
}

#[test]
fn production_in_memory_is_warned_of() {
    let secret = "auth.hs256_secrets = [\"0123456789abcdef0123456789abcdef\"]\nserver.mode = \"production\"\n";
    let (file, _) = file(secret);
    let config = load(&Sources { file: Some(file.path().into()), ..Sources::default() });
    assert!(config.warnings.iter().any(|warning| warning.contains("redis.url is not set")), "{:?}", config.warnings);
}
