//! `tidegate run`: the gateway, in the foreground.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{FAILED, finish, refuse};
use crate::{app, config, log};

/// Runs the gateway in the foreground.
///
/// Logs to stderr. SIGTERM and SIGINT stop it in order, a second one at once; SIGHUP reads the configuration again and
/// applies users, access rules and certificates. Without any configuration file it is a broker
/// on 127.0.0.1:1883 that stores nothing.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Configuration file [default: /etc/tidegate/tidegate.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let config = match config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(refused) if refused.may_pass() => {
            // Not the exit code of a refusal, after which systemd would not try again.
            refuse(&refused);
            return ExitCode::from(FAILED);
        }
        Err(refused) => return refuse(&refused),
    };
    log::init(&config.log);
    for warning in &config.warnings {
        tracing::warn!(problem = %warning, "configuration: surely not meant");
    }
    let outcome = app::run(&config, arguments.config.as_deref());
    // In the form of the log, so that whoever reads that finds the end in it; where there is none, as any command says it.
    match outcome {
        Err(error) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!(error = format!("{error:#}"), "ended with a failure");
            log::finish();
            ExitCode::from(FAILED)
        }
        outcome => {
            log::finish();
            finish(outcome)
        }
    }
}
