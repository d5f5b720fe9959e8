//! `tickgate token`: makes a JWT for development and tests, or explains whether a gateway accepts one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tickgate_wire::{
    model::{IssuedAt, Pattern, UserId},
    time::Timestamp,
};

use super::{CommandFailure, print, settings::SettingsSources};
use crate::{
    auth::{NewToken, Rights, TokenIdentity, Verifier, mint},
    config::{Auth, Config, Secret, parse_duration, without_marks},
};

const EXAMPLES: &str = r#"Examples:
  tickgate token --user alice --config a.toml
  tickgate token --user engine --publish 'run:*,commands' --ttl 12h --config a.toml
  tickgate token --user alice --runs 'bt-alice-*' --commands --config a.toml
  tickgate token --user alice --channels 'orders,ticker:*' --secret "$SECRET"
  tickgate token --check - --config a.toml < token.jwt

A gateway in development mode generates a secret at each start and prints a token.
To make tokens for it yourself, give both the same secret:
  export TICKGATE__AUTH__HS256_SECRETS=dev
  tickgate serve --development
  tickgate token --development --user alice"#;

/// Make a token (JWT, HS256) for development and tests
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The user
    #[arg(long, required_unless_present = "check")]
    user: Option<String>,
    /// Show whether the gateway with this configuration accepts a token, and why not; -: read it from standard input
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["user", "ttl", "channels", "publish", "commands", "runs"])]
    check: Option<String>,
    /// Lifetime, such as 30m, 12h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// Channels it may subscribe to; default: all but restricted ones
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    channels: Option<Vec<String>>,
    /// Topics it may publish to; default: none
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    publish: Vec<String>,
    /// Allow commands to runs
    #[arg(long)]
    commands: bool,
    /// Runs it may watch and, with --commands, command; default: all in development, none in production where a token
    /// is required
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    runs: Option<Vec<String>>,
    /// HS256 secret; default: the first configured one
    #[arg(long)]
    secret: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsSources,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    match &args.check {
        Some(token) => check(token, &args).await,
        None => make(&args),
    }
}

/// Explains whether the gateway with this configuration accepts a token.
async fn check(token: &str, args: &Args) -> Result<(), CommandFailure> {
    let token = match token {
        "-" => {
            let read = std::io::read_to_string(std::io::stdin());
            without_marks(read.map_err(|error| CommandFailure::new(format!("cannot read standard input: {error}")))?)
        }
        token => token.to_owned(),
    };
    let mut auth = Config::load(&args.settings.sources())?.0;
    if let Some(secret) = &args.secret {
        auth.auth.hs256_secrets = vec![Secret::new(secret)];
    } else if auth.secret_generated {
        return Err(no_secret());
    }
    let verifier = Verifier::new(&auth.auth)?;
    verifier.probe().await.map_err(CommandFailure::new)?;
    // As it is in a header.
    let token = token.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    let verified = verifier.verify(token, SystemTime::now()).await;
    if args.json {
        let said = match &verified {
            Ok(TokenIdentity { user, expires_at, rights, .. }) => json!({
                "valid": true, "user": user, "expires_at": expires_at,
                "channels": rights.channels.as_deref().map(shown),
                "publish": shown(&rights.publish), "commands": rights.commands,
                "runs": rights.runs.as_deref().map(shown),
            }),
            Err(error) => json!({"valid": false, "reason": error.reason().as_str(), "error": error.to_string()}),
        };
        print(&said.to_string())?;
    }
    let TokenIdentity { user, expires_at, rights, .. } =
        verified.map_err(|error| CommandFailure::new(format!("refused ({}): {error}", error.reason().as_str())))?;
    if args.json {
        return Ok(());
    }
    let channels =
        rights.channels.as_deref().map_or_else(|| "all but restricted ones".into(), |all| shown(all).join(", "));
    let publish = if rights.publish.is_empty() { "nothing".into() } else { shown(&rights.publish).join(", ") };
    let until = Timestamp::from_s(expires_at);
    let commands = if rights.commands { "yes" } else { "no" };
    let runs = rights.runs.as_deref().map_or_else(
        || "all in development, none in production where a token is required".into(),
        |all| if all.is_empty() { "none".into() } else { shown(all).join(", ") },
    );
    print(&format!(
        "accepted: user {user}, until {until}\n  channels: {channels}\n  publish:  {publish}\n  commands: {commands}\n  runs:     {runs}"
    ))
}

fn shown(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}

fn make(args: &Args) -> Result<(), CommandFailure> {
    let signer = Signer::of(args)?;
    let user = UserId::new(args.user.as_deref().unwrap_or_default())
        .map_err(|error| CommandFailure::usage(error.to_string()))?;
    let rights = Rights {
        channels: args.channels.as_deref().map(patterns).transpose()?,
        publish: patterns(&args.publish)?,
        commands: args.commands,
        runs: args.runs.as_deref().map(patterns).transpose()?,
    };
    let (token, expires_at) = signer.sign(&user, &rights, args.ttl, SystemTime::now())?;
    if args.json {
        return print(&serde_json::json!({ "token": token, "user": user, "expires_at": expires_at }).to_string());
    }
    print(&token)
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, CommandFailure> {
    texts.iter().map(|text| Pattern::new(text).map_err(|error| CommandFailure::usage(error.to_string()))).collect()
}

fn no_secret() -> CommandFailure {
    CommandFailure::usage(
        "no secret: set --secret, --config or TICKGATE__AUTH__HS256_SECRETS (a gateway in development mode without \
         one generates its own at each start, and prints a token)",
    )
}

/// A secret, and the settings that apply to every token.
pub(super) struct Signer {
    secret: Secret,
    issuer: Option<String>,
    audience: Option<String>,
    user_claim: Option<String>,
}

impl Signer {
    /// The settings that the gateway with this configuration accepts; `None` without an HS256 secret.
    pub(super) fn of_config(config: &Config) -> Option<Self> {
        let secret = config.auth.hs256_secrets.first()?.clone();
        let Auth { issuer, audience, user_claim, .. } = config.auth.clone();
        Some(Self { secret, issuer, audience, user_claim })
    }

    fn of(args: &Args) -> Result<Self, CommandFailure> {
        match &args.secret {
            Some(secret) => Ok(Self::of_secret(secret)),
            None => Self::of_configured(&Config::load(&args.settings.sources())?.0),
        }
    }

    /// A secret given by a flag.
    pub(super) fn of_secret(secret: &str) -> Self {
        Self { secret: Secret::new(secret), issuer: None, audience: None, user_claim: None }
    }

    /// The settings of a gateway with this configured secret; a secret generated by this process would be useless.
    pub(super) fn of_configured(config: &Config) -> Result<Self, CommandFailure> {
        if config.secret_generated {
            return Err(no_secret());
        }
        Self::of_config(config).ok_or_else(|| {
            CommandFailure::usage("no HS256 secret is configured: tokens can be made only with the private key")
        })
    }

    /// A token, and its expiry in seconds since 1970.
    pub(super) fn sign(
        &self,
        user: &UserId,
        rights: &Rights,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(String, u64), CommandFailure> {
        let issued_at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires_at = issued_at.saturating_add(ttl.as_secs());
        let (issuer, audience) = (self.issuer.as_deref(), self.audience.as_deref());
        let user_claim = self.user_claim.as_deref();
        let issued_at = IssuedAt::in_second(issued_at);
        let token = NewToken { user, issued_at, expires_at, issuer, audience, user_claim, rights };
        let token = mint(&self.secret, &token).map_err(|error| CommandFailure::new(error.to_string()))?;
        Ok((token, expires_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_gateway_with_the_same_configuration_accepts_the_token() {
        let mut config = Config::development();
        config.auth.issuer = Some("https://login.example.com".into());
        config.auth.audience = Some("tickgate".into());
        config.auth.user_claim = Some("uid".into());
        let now = SystemTime::now();
        let (orders, runs) = (vec![Pattern::new("orders").unwrap()], vec![Pattern::new("bt-*").unwrap()]);
        let rights = Rights { channels: Some(orders), publish: Vec::new(), commands: true, runs: Some(runs) };
        let user = UserId::new("alice").unwrap();
        let (token, expires_at) =
            Signer::of_config(&config).unwrap().sign(&user, &rights, Duration::from_secs(60), now).unwrap();
        let identity = Verifier::new(&config.auth).unwrap().verify(&token, now).await.unwrap();
        assert_eq!((identity.user, identity.expires_at), (user, expires_at));
        assert_eq!(*identity.rights, rights);
    }

    #[test]
    fn patterns_are_validated() {
        assert!(patterns(&["ticker:*".into()]).is_ok());
        assert_eq!(patterns(&["a,b".into()]).unwrap_err().code, 2);
    }
}
