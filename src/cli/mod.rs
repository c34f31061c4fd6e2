//! The command line: one file per command.
//!
//! Results go to stdout; help, problems and errors to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong command
//! line, 78 configuration refused (`EX_CONFIG` of sysexits.h).

mod backup;
mod check;
mod dead;
mod demo;
mod doctor;
mod export;
mod gateway;
mod generate;
mod import;
mod import_mosquitto;
mod operate;
mod passwd;
mod peek;
mod progress;
mod prompt;
mod reload;
mod run;
mod source;
mod status;
mod table;
mod terminal;
mod words;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{config::Refused, log};

/// Exit code: something failed while running.
pub const FAILED: u8 = 1;
/// Exit code: wrong command line.
pub const USAGE: u8 = 2;
/// Exit code: configuration refused.
pub const CONFIG: u8 = 78;

/// Whether a result could not be written.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "An MQTT edge gateway: every acknowledged message is on disk, goes upstream in order, and can be seen.",
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed while running, 2 wrong command line, 78 configuration refused."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Demo(demo::Arguments),
    Passwd(passwd::Arguments),
    Status(status::Status),
    Streams(status::Streams),
    Pause(operate::Pause),
    Resume(operate::Resume),
    Purge(operate::Purge),
    Replay(operate::Replay),
    Dead(dead::Arguments),
    Reload(reload::Reload),
    Peek(peek::Arguments),
    Export(export::Arguments),
    Import(import::Arguments),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Completions(generate::Completions),
    Man(generate::Manual),
    Doctor(doctor::Arguments),
    ImportMosquitto(import_mosquitto::Arguments),
}

/// Runs the program with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = obey(arguments);
    // Of a result that is not there nobody may think that it is.
    if UNWRITTEN.load(Ordering::Relaxed) && code == ExitCode::SUCCESS { ExitCode::from(FAILED) } else { code }
}

fn obey(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { command: Command::Run(arguments) }) => run::main(&arguments),
        Ok(Arguments { command: Command::Check(arguments) }) => check::main(&arguments),
        Ok(Arguments { command: Command::Demo(arguments) }) => demo::main(&arguments),
        Ok(Arguments { command: Command::Passwd(arguments) }) => passwd::main(&arguments),
        Ok(Arguments { command: Command::Status(arguments) }) => status::status(&arguments),
        Ok(Arguments { command: Command::Streams(arguments) }) => status::streams(&arguments),
        Ok(Arguments { command: Command::Pause(arguments) }) => operate::pause(&arguments),
        Ok(Arguments { command: Command::Resume(arguments) }) => operate::resume(&arguments),
        Ok(Arguments { command: Command::Purge(arguments) }) => operate::purge(&arguments),
        Ok(Arguments { command: Command::Replay(arguments) }) => operate::replay(&arguments),
        Ok(Arguments { command: Command::Dead(arguments) }) => dead::main(&arguments),
        Ok(Arguments { command: Command::Reload(arguments) }) => reload::main(&arguments),
        Ok(Arguments { command: Command::Peek(arguments) }) => peek::main(&arguments),
        Ok(Arguments { command: Command::Export(arguments) }) => export::main(&arguments),
        Ok(Arguments { command: Command::Import(arguments) }) => import::main(&arguments),
        Ok(Arguments { command: Command::Backup(arguments) }) => backup::backup(&arguments),
        Ok(Arguments { command: Command::Restore(arguments) }) => backup::restore(&arguments),
        Ok(Arguments { command: Command::Completions(arguments) }) => {
            generate::completions(&arguments, Arguments::command())
        }
        Ok(Arguments { command: Command::Man(arguments) }) => generate::manual(&arguments, Arguments::command()),
        Ok(Arguments { command: Command::Doctor(arguments) }) => doctor::main(&arguments),
        Ok(Arguments { command: Command::ImportMosquitto(arguments) }) => import_mosquitto::main(&arguments),
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            print(&error.to_string());
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            complain(&error.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(USAGE)
        }
    }
}

/// Writes a result. Nobody reading any more (`tidegate check | head -1`) is no failure of ours; a full disk is.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            if !UNWRITTEN.swap(true, Ordering::Relaxed) {
                complain(&format!("tidegate: cannot write to stdout: {error}\n"));
            }
        }
        Ok(()) | Err(_) => {}
    }
}

/// Writes for the person in front of the terminal, who may have closed it.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn refuse(refused: &Refused) -> ExitCode {
    let text = refused.to_string();
    let priority = |line: &str| if line.starts_with("warning: ") { "<4>" } else { "<3>" };
    for line in text.lines() {
        complain(&format!("{}{line}\n", for_journal(priority(line))));
    }
    ExitCode::from(CONFIG)
}

/// What makes the journal take a line on stderr for a warning or an error; nothing where stderr goes elsewhere (sd-daemon(3)).
fn for_journal(priority: &str) -> &str {
    if log::stderr_is_journal() { priority } else { "" }
}

/// The exit code of what may have failed, the whole chain of causes told.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{}tidegate: {error:#}\n", for_journal("<3>")));
            ExitCode::from(FAILED)
        }
    }
}
