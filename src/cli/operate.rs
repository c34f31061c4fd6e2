//! `tidegate pause`, `resume`, `purge`: what an operator does to a stream.

use std::process::ExitCode;

use clap::Args;

use super::{
    gateway::{Door, Trouble, outcome, stream_name},
    status::stream_line,
    words::text,
};

/// Forwards nothing new of a stream until `resume`, also across restarts; it goes on taking messages.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    #[command(flatten)]
    door: Door,
}

/// Lets a paused stream forward again.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    #[command(flatten)]
    door: Door,
}

/// Removes everything that waits in a stream now, for good, and counts it as purged.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// The stream
    #[arg(value_parser = stream_name)]
    stream: String,
    #[command(flatten)]
    door: Door,
}

pub(super) fn pause(arguments: &Pause) -> ExitCode {
    outcome(order(&arguments.door, &arguments.stream, "pause"))
}

pub(super) fn resume(arguments: &Resume) -> ExitCode {
    outcome(order(&arguments.door, &arguments.stream, "resume"))
}

pub(super) fn purge(arguments: &Purge) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let answer = arguments.door.open()?.post(&format!("/api/v1/streams/{}/purge", arguments.stream))?;
        arguments
            .door
            .show(&answer, |answer| format!("{} messages purged\n{}", text(&answer["messages"]), stream_line(answer)));
        Ok(())
    };
    outcome(run())
}

fn order(door: &Door, stream: &str, what: &str) -> Result<(), Trouble> {
    let answer = door.open()?.post(&format!("/api/v1/streams/{stream}/{what}"))?;
    door.show(&answer, stream_line);
    Ok(())
}
