//! `tickgate check-config`: prints the configuration in force, or all its problems.

use super::{CommandFailure, print, settings::SettingsSources};
use crate::{app, config::Problems};

const EXAMPLES: &str = r#"Examples:
  tickgate check-config                         the defaults and this environment
  tickgate check-config --config a.toml --json  {"ok":…,"problems":[…],"config":{…}}
  tickgate check-config --config a.toml --connect
                                                and try to connect

Exits with 0, or with 2 and all problems. What it accepts, serve accepts. Secrets
print as ***."#;

/// Print the settings in force as TOML, or all problems
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsSources,
    /// Also try Redis, the key set and both addresses, as serve would
    #[arg(long)]
    connect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let mut loaded = app::load(&args.settings.sources());
    if args.connect
        && let Ok((config, _)) = &loaded
        && let Err(problems) = app::connect(config).await
    {
        loaded = Err(problems);
    }
    match loaded {
        Ok((config, effective)) if args.json => {
            let mut shown = effective.to_json();
            shown["ok"] = true.into();
            shown["problems"] = serde_json::json!([]);
            shown["warnings"] = config.warnings.into();
            print(&shown.to_string())
        }
        Ok((config, effective)) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            print(effective.to_toml().trim_end())
        }
        Err(problems) => {
            if args.json {
                print(&as_json(&problems).to_string())?;
            }
            Err(problems.into())
        }
    }
}

fn as_json(problems: &Problems) -> serde_json::Value {
    let problems: Vec<_> = problems
        .iter()
        .map(|problem| serde_json::json!({ "key": problem.key, "origin": problem.origin, "text": problem.text }))
        .collect();
    serde_json::json!({ "ok": false, "problems": problems })
}
