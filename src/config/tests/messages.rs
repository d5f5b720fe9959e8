//! The messages about an invalid configuration, and what they never show.

use super::*;

#[test]
fn all_problems_are_reported_at_once_with_their_origins() {
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
        "limits.subscriptions_max (FILE:7): must be a whole number from 0, such as 200",
        "server.lisen (FILE:3): unknown key, did you mean server.listen?",
        "sesion (FILE:4): unknown key, did you mean session?",
        "limits.json_depth_max (TICKGATE__LIMITS__JSON_DEPTH_MAX): must be a whole number from 0, such as 32",
        "TICKGATE__LIMITS__JSON_DEPT_MAX: unknown key, did you mean TICKGATE__LIMITS__JSON_DEPTH_MAX?",
        "TICKGATE__SERVER: `server` is a section: name one of its keys",
        "TICKGATE__PROFILES: can be set only in a file",
        "server.listen (FILE:2): must be an IP address and a port, such as \"127.0.0.1:8000\", got \"nowhere\"",
        "log.filter (--log): must be levels (off, error, warn, info, debug, trace), such as \"info\" or \"info,tickgate::hub=debug\", not \"tickgate=loud\"",
        "log.format (FILE:10): must be one of text, json, got \"xml\"",
    ];
    assert_eq!(text, wanted.join("\n  "));
}

#[test]
fn invalid_values_are_reported() {
    let cases = [
        ("session.heartbeat_interval = 30", "session.heartbeat_interval: must be a string in quotes, such as \"30s\""),
        (
            "session.heartbeat_interval = \"30\"",
            "must be a time with a unit (ms, s, m, h, d), such as \"30s\", got \"30\"",
        ),
        ("session.heartbeat_interval = \"10ms\"", "session.heartbeat_interval: must be between 1s and 10m, got 10ms"),
        ("limits.subscriptions_max = -1", "limits.subscriptions_max: must be a whole number from 0, such as 200"),
        ("limits.over_limit = \"evict\"", "limits.over_limit: must be one of refuse, evict-oldest, got \"evict\""),
        ("log.filter = \"info, tickgate=debug\"", "log.filter: must be levels (off"),
        ("log.filter = \"\"", "log.filter: must be levels (off"),
        ("limits.messages_per_user = 5", "limits.messages_per_user: is a section"),
        ("limits.messages_per_user.burst = 0", "limits.messages_per_user.burst: must be between 1 and 10000000, got 0"),
        ("server.allowed_origins = \"*\"", "server.allowed_origins: must be a list of strings, such as [\"a\", \"b\"]"),
        ("server.allowed_origins = [\"a.example\"]", "server.allowed_origins: must be an origin as browsers send it"),
        (
            "server.allowed_origins = [\"*\", \"http://a\"]",
            "server.allowed_origins: \"*\" allows every origin: it must be the only entry",
        ),
        ("server.trusted_proxies = [\"10.0.0.0/99\"]", "server.trusted_proxies: must be an address range"),
        ("server.trusted_proxies = [\"0.0.0.0/0\"]", "server.trusted_proxies: must be the proxies' own addresses"),
        (
            "server.trusted_proxies = [\"10.0.0.1\"]\nserver.trusted_hops = 1",
            "server.trusted_hops: is set together with server.trusted_proxies",
        ),
        ("server.address_header = \"via\"", "server.address_header: must be one of x-forwarded-for, forwarded"),
        ("server.allowed_origins = [\"loopback\"]", "server.allowed_origins: must be an origin"),
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
        ("server.listen = 127.0.0.1:8000", "; strings require quotes: server.listen = \"…\""),
        ("log.filter = \"warning\"", "log.filter: must be levels (off, error, warn, info, debug, trace)"),
        ("log.filter = \"warning\"", "not \"warning\" (did you mean \"warn\"?)"),
        ("log.filter = \"info,tickgate\"", "log.filter: must be levels"),
        ("log.filter = \"info,tickgate::hub=verbose\"", "log.filter: must be levels"),
        ("server.mode = \"dev\"", "server.mode: must be one of auto, development, production, got \"dev\""),
        ("redis.url = \"localhost:6379\"", "redis.url: must be redis://host:port"),
        ("redis.prefix = \"a{b}\"", "redis.prefix: must be 1 to 32 characters"),
        ("redis.ca_file = \"/no/such.pem\"", "redis.ca_file: cannot read /no/such.pem"),
        ("redis.url_file = \"/no/such\"", "redis.url_file: cannot read /no/such"),
        ("auth.jwks_url = \"login.example.com\"", "auth.jwks_url: must be an address such as"),
        (
            "auth.user_claim = \"exp\"",
            "auth.user_claim: must be a claim that names the user, such as \"uid\", not \"exp\"",
        ),
        ("auth.lifetime_without_exp = \"31d\"", "auth.lifetime_without_exp: must be between 0s and 30d"),
        ("auth.anonymous = \"yes\"", "auth.anonymous: must be one of auto, always, never, got \"yes\""),
        ("user_stream.retain_max = 0", "user_stream.retain_max: must be between 1 and 10000000, got 0"),
        ("profiles = 5", "profiles: must be tables, each with the header [[profiles]]"),
        (
            "auth.public_keys = [{algorithm = \"HS256\", path = \"/no\"}]",
            "auth.public_keys[0].algorithm: must be one of RS256",
        ),
        ("auth.public_keys = [{path = \"/no\"}]", "auth.public_keys[0]: missing field `algorithm`"),
    ];
    for (text, wanted) in cases {
        let reported = problems_of(text);
        assert!(reported.iter().any(|reported| reported.contains(wanted)), "{text}: {reported:#?}");
    }
}

#[test]
fn invalid_feed_settings_are_reported() {
    let cases = [
        ("feeds.synthetic.symbols = [\"a@b\"]", "feeds.synthetic.symbols: must be symbols such as \"BTCUSDT\""),
        ("feeds.synthetic.symbols = []", "feeds.synthetic.symbols: requires at least one symbol"),
        ("feeds.binance.enabled = \"auto\"", "feeds.binance.enabled: must be one of off, on, got \"auto\""),
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
        ("limits.payload_bytes_max = 1048576", "limits.payload_bytes_max: must be between 256 and 1047552"),
        ("limits.json_depth_max = 128", "limits.json_depth_max: must be between 2 and 127"),
        ("feeds.binance.symbols_max = 341", "feeds.binance.symbols_max: must be between 1 and 340, got 341"),
        ("feeds.binance.linger = \"0s\"", "feeds.binance.linger: must be between 1s and 1h"),
        ("feeds.binance.stale_after = \"1s\"", "feeds.binance.stale_after: must be between 2s and 1m"),
        ("feeds.binance.symbols_refresh = \"16m\"", "feeds.binance.symbols_refresh: must be between 1s and 15m"),
        ("feeds.binance.connection_age_max = \"24h\"", "feeds.binance.connection_age_max: must be between 10s and 23h"),
    ];
    for (text, wanted) in cases {
        let reported = problems_of(text);
        assert!(reported.iter().any(|reported| reported.contains(wanted)), "{text}: {reported:#?}");
    }
}

#[test]
fn contradicting_settings_are_reported() {
    let cases = [
        (
            "session.heartbeat_timeout = \"31s\"",
            "session.heartbeat_timeout: must not exceed session.heartbeat_interval (30s)",
        ),
        ("session.session_ttl = \"9s\"", "session.session_ttl: must be at least session.replica_ttl (10s)"),
        ("session.age_max = \"40s\"", "session.age_max: must be \"0s\" (never) or at least two heartbeat intervals"),
        ("redis.canary_timeout = \"1s\"", "redis.canary_timeout: must be greater than redis.canary_interval (1s)"),
        ("limits.outbox_bytes_max = 2048", "limits.payload_bytes_max: must not exceed limits.outbox_bytes_max (2048)"),
        ("limits.body_bytes_max = 2048", "limits.payload_bytes_max: must not exceed limits.body_bytes_max (2048)"),
        ("limits.messages_per_user.per_second = 5", "must be at least limits.messages_per_connection.per_second (100)"),
        ("auth.token_bytes_max = 20000", "auth.token_bytes_max: must be less than server.header_bytes_max (16384)"),
        ("user_stream.retain_ttl = \"30s\"", "user_stream.retain_ttl: must be at least session.resume_ttl"),
        (
            "redis.url = \"redis://h\"\nreadiness.redis_grace = \"1s\"",
            "readiness.redis_grace: must be at least redis.canary_timeout",
        ),
        ("server.ops_listen = \"127.0.0.1:8000\"", "server.ops_listen: must use a different port from server.listen"),
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
            "redis.url_file: is set together with redis.url: set only one of them",
        ),
        (
            "auth.api_keys = [\"k\"]\nauth.api_keys_file = \"/f\"",
            "auth.api_keys_file: is set together with auth.api_keys",
        ),
    ];
    for (text, wanted) in cases {
        let reported = problems_of(text);
        assert!(reported.len() == 1 && reported[0].contains(wanted), "{text}: {reported:#?}");
    }
}

#[test]
fn invalid_dialects_and_transports_are_reported() {
    let cases = [
        ("/x", "dialect = \"sse\"", "dialect: \"sse\" is not a dialect: write transport = \"event-stream\" instead"),
        ("/x", "dialect = \"xml\"", "dialect: must be one of json, envelope, got \"xml\""),
        ("/x", "transport = \"sse\"", "transport: must be one of websocket, event-stream, got \"sse\""),
        ("/", "transport = \"event-stream\"", "path: must not be \"/\" for an event stream"),
        (
            "/x",
            "dialect = \"envelope\"\ntransport = \"event-stream\"",
            "dialect: \"envelope\" requires transport = \"websocket\"",
        ),
    ];
    for (path, protocol, wanted) in cases {
        let text = format!("[[profiles]]\nname = \"own\"\npath = \"{path}\"\ntoken = \"auto\"\n{protocol}");
        let reported = problems_of(&text);
        assert!(
            reported.len() == 1 && reported[0].contains(&format!("profiles.own.{wanted}")),
            "{text}: {reported:#?}"
        );
    }
}

#[test]
fn invalid_topics_are_reported() {
    let topic = |rest: &str| format!("[[topics]]\npattern = \"x:*\"\n{rest}");
    let cases = [
        (topic("class = \"fast\""), "topics.x:*.class: must be one of state, event, reliable, got \"fast\""),
        (topic("class = \"state\"\nretain_max = 5"), "topics.x:*.retain_max: must be 0 or 1"),
        (topic("class = \"reliable\"\nretain_max = 0"), "topics.x:*.retain_max: must be at least 1"),
        (topic("class = \"event\"\ndedupe_ttl = \"0s\""), "topics.x:*.dedupe_ttl: must be between 1s and 24h, got 0s"),
        (topic("class = \"event\"\ndedupe_ttl = \"soon\""), "topics.x:*.dedupe_ttl: must be a time"),
        (topic("class = \"event\"\ndedupe_ttl = 5"), "topics.x:*: invalid type: integer `5`, expected a string"),
        (topic("class = \"event\"\nretain = 1"), "topics.x:*.retain: unknown key"),
        (
            "[[topics]]\npattern = \"a@b\"\nclass = \"event\"".into(),
            "topics.a@b.pattern: a pattern is a name that may contain `*`, and this is not a name: it contains `@`",
        ),
    ];
    assert_reported(&cases);
}

/// Each text has exactly one problem, which contains the words listed next to it.
fn assert_reported(cases: &[(String, &str)]) {
    for (text, wanted) in cases {
        let reported = problems_of(text);
        assert!(reported.len() == 1 && reported[0].contains(wanted), "{text}: {reported:#?}");
    }
}

#[test]
fn invalid_profiles_are_reported() {
    let profile = |rest: &str| format!("[[profiles]]\nname = \"own\"\n{rest}");
    let cases = [
        (profile("path = \"ws\"\ntoken = \"ignored\""), "profiles.own.path: must be a path such as"),
        (profile("path = \"/health\"\ntoken = \"ignored\""), "profiles.own.path: /health is reserved by the gateway"),
        (
            profile("path = \"/ws\"\ntoken = \"ignored\""),
            "profiles.own.path: /ws and /ws of profile events cannot be distinguished",
        ),
        (profile("path = \"/x\""), "profiles.own.token: must be one of required, optional, ignored, publisher, auto"),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nrefusals = \"http\""),
            "profiles.own.refusals: must be one of auto, close, got \"http\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\ntransport = \"event-stream\"\nrefusals = \"close\""),
            "profiles.own.refusals: \"close\" requires transport = \"websocket\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nconnections_max = 0"),
            "profiles.own.connections_max: must be between 1 and 10000000, got 0",
        ),
        (
            profile("path = \"/x\"\ntoken = \"required\"\nconnections_per_user_max = 0"),
            "profiles.own.connections_per_user_max: must be between 1 and 100000, got 0",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nconnections_per_user_max = 3"),
            "profiles.own.connections_per_user_max: requires token = \"required\", \"optional\" or \"auto\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nrefusal_code = 4003"),
            "profiles.own.refusal_code: must be 4001 or 1008",
        ),
        (
            profile("path = \"/x\"\ntoken = \"ignored\"\nchannels = [{name = \"orders\", scope = \"private\"}]"),
            "profiles.own.channels.orders: is private, which requires a profile with token",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a*\", on_connect = true}]"),
            "profiles.own.channels.a*: cannot be subscribed on connect",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a\", topic = \"run:{id}\"}]"),
            "profiles.own.channels.a: must be the name of a topic",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nchannels = [{name = \"a\"}, {name = \"a\"}]"),
            "profiles.own.channels.a: appears twice",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\nsymbol_verbs = {ticker = \"ticker:\"}"),
            "profiles.own.symbol_verbs.ticker: requires a channel such as \"ticker:*\"",
        ),
        (
            profile("path = \"/x\"\ntoken = \"auto\"\n[[profiles]]\nname = \"own\"\npath = \"/y\"\ntoken = \"auto\""),
            "profiles.own: appears twice",
        ),
        ("profiles = [{name = \"Own\", path = \"/x\", token = \"auto\"}]".into(), "must be 1 to 32 characters of a-z"),
    ];
    assert_reported(&cases);
}

#[test]
fn outside_development_mode_secrets_are_strong_and_listeners_protected() {
    let reported = problems(&environment(&[
        ("TICKGATE__AUTH__HS256_SECRETS", &format!("{SECRET},short")),
        ("TICKGATE__SERVER__OPS_LISTEN", "0.0.0.0:8001"),
    ]));
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert!(
        reported[0]
            .starts_with("server.ops_listen: 0.0.0.0:8001 is reachable from other machines, and no API key is set")
    );
    assert!(reported[1].starts_with("auth.hs256_secrets: must be at least 32 bytes each"));

    let reported = problems(&environment(&[("TICKGATE__SERVER__MODE", "production")]));
    assert!(
        reported[0].starts_with("server.mode: this is not development mode, and no key to verify tokens is set"),
        "{reported:?}"
    );
    let three = format!("{SECRET},{SECRET},{SECRET}");
    assert!(
        problems(&environment(&[("TICKGATE__AUTH__HS256_SECRETS", &three)]))[0]
            .contains("holds 3 secrets, not one or two")
    );
}

#[test]
fn an_invalid_secret_file_is_named_with_its_expected_content() {
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
            let reported = problems_of(&format!("server.mode = \"production\"\n{key} = \"{path}\""));
            let one = reported
                .iter()
                .find(|reported| reported.starts_with(&format!("{key}: ")))
                .unwrap_or_else(|| panic!("{key} {reported:?}"));
            assert!(one.contains(&path) && one.contains(expected), "{one}");
            assert!(!one.contains("hunter2"), "{one}");
        }
    }
}

#[test]
fn secrets_are_never_shown() {
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
        let reported = problems_of(text);
        assert!(!reported.is_empty() && !reported.concat().contains("hunter2"), "{text}: {reported:?}");
    }
}

#[test]
fn a_syntax_error_names_the_line() {
    let reported = problems_of("[server]\nlisten = \n");
    assert!(reported[0].contains("line 2 is not TOML"), "{reported:?}");
    let missing = ConfigSources { file: Some("/no/such.toml".into()), ..ConfigSources::default() };
    assert!(problems(&missing)[0].starts_with("/no/such.toml: cannot be read"));
}

#[test]
fn unused_variables_are_reported_and_those_of_other_programs_ignored() {
    let reported = problems(&environment(&[
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
        reported,
        [
            "TICKGATE_SERVER__LISTEN: sets nothing, did you mean TICKGATE__SERVER__LISTEN?",
            "TICKGATE_AUTH_API_KEYS: sets nothing, did you mean TICKGATE__AUTH__API_KEYS?",
            "TICKGATE__SERVER__LISTN: unknown key, did you mean TICKGATE__SERVER__LISTEN?",
            "TICKGATE_LOG: sets nothing",
        ]
    );
}

#[test]
fn an_empty_secret_does_not_turn_on_development_mode() {
    for name in ["HS256_SECRETS", "HS256_SECRETS_FILE", "API_KEYS", "API_KEYS_FILE"] {
        let name = format!("TICKGATE__AUTH__{name}");
        let reported = problems(&environment(&[(&name, "")]));
        assert_eq!(reported, [format!("{name}: is set but empty: set a value or remove it")]);
    }
}

#[test]
fn a_problem_names_its_line() {
    let (file, _) =
        file("# settings\n\n[server]\nlisten = \"x\"\n\n[[topics]]\npattern = \"t\"\nclass = \"no\"\n[lmits]\n");
    let reported = Config::load(&ConfigSources { file: Some(file.path().into()), ..ConfigSources::default() })
        .unwrap_err()
        .to_string();
    let path = file.path().display();
    for at in ["server.listen", "topics.t", "lmits"] {
        let line = match at {
            "server.listen" => ":4",
            "topics.t" => ":8",
            _ => ":9",
        };
        let found = reported.lines().find(|reported| reported.trim_start().starts_with(at)).expect("reported");
        assert!(found.contains(&format!("({path}{line})")), "{at}: {reported}");
    }
}

#[test]
fn production_without_redis_causes_a_warning() {
    let secret = "auth.hs256_secrets = [\"0123456789abcdef0123456789abcdef\"]\nserver.mode = \"production\"\n";
    let (file, _) = file(secret);
    let config = load(&ConfigSources { file: Some(file.path().into()), ..ConfigSources::default() });
    assert!(config.warnings.iter().any(|warning| warning.contains("redis.url is not set")), "{:?}", config.warnings);
}
