//! `tickgate healthcheck`: queries the health of a replica on this machine, for containers without curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tickgate_client::http::HttpRequest;

use super::{CommandFailure, print, settings::SettingsSources};
use crate::config::{Config, parse_duration};

const EXAMPLES: &str = r#"Examples:
  tickgate healthcheck                  is the replica of this machine ready?
  tickgate healthcheck --live           is its process alive?
  tickgate healthcheck http://10.0.0.7:8000/readyz

Exits with 0 or 1. In a Dockerfile:
  HEALTHCHECK CMD ["tickgate", "healthcheck", "--live"]"#;

/// Query whether a replica is ready, for containers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Query /livez (only the process) instead of /readyz
    #[arg(long)]
    live: bool,
    /// The URL to query; default: the public listener of the settings
    #[arg(conflicts_with = "live")]
    url: Option<String>,
    /// Timeout
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    settings: SettingsSources,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let (url, certificate) = match args.url {
        Some(url) => (url, None),
        None => {
            let (config, _) = Config::load(&args.settings.sources())?;
            let path = if args.live { "/livez" } else { "/readyz" };
            // The check is about the replica's health, not about the name or validity period of its certificate.
            let certificate = config.server.tls.map(|tls| tls.identity.certificate.as_bytes().to_vec());
            let scheme = if certificate.is_some() { "https" } else { "http" };
            (format!("{scheme}://{}{path}", reachable(config.server.listen)), certificate)
        }
    };
    let failed = |error: tickgate_client::Error| CommandFailure::new(format!("{url}: {error}"));
    let request = HttpRequest::get(&url).timeout(args.timeout);
    let request = match certificate {
        Some(certificate) => request.pinned(certificate),
        None => request,
    };
    let answer = request.send().await.map_err(failed)?;
    let body = answer.body.trim();
    if !answer.status.is_success() {
        return Err(CommandFailure::new(format!("{url}: {} {body}", answer.status).trim_end()));
    }
    print(if body.is_empty() { "ok" } else { body })
}

/// A listener can bind the unspecified address, but a client cannot connect to it.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_queried_on_loopback() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(asked("[::]:8000"), "[::1]:8000");
        assert_eq!(asked("10.0.0.1:80"), "10.0.0.1:80");
    }
}
