//! `tidegate import-mosquitto`: a mosquitto.conf into a folder of ours, with a word on every line.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{
    FAILED, finish, print,
    words::{printable, printable_json},
};
use crate::{
    config::{self, Inputs, Problem, Severity},
    mosquitto::{self, Became, Import, MAIN_FILE, Note},
};

/// Turns a mosquitto.conf (listeners, users, access rules, bridges) into a configuration of Tidegate, and says of every line what became of it.
///
/// Writes tidegate.toml and, where they are needed, acl.toml, passwd and a file for each bridge's password (mode 0600). Nothing that Mosquitto
/// uses is changed; what it has stored is not taken over.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done (whatever could not be carried over), 1 could not be read or written, or the result would be refused \
    by `tidegate check`, 2 wrong command line."
)]
pub(super) struct Arguments {
    /// The configuration of Mosquitto, such as /etc/mosquitto/mosquitto.conf
    file: PathBuf,
    /// Folder for the new files
    #[arg(short, long, value_name = "FOLDER", default_value = "tidegate-from-mosquitto")]
    output: PathBuf,
    /// Overwrites files in that folder
    #[arg(long)]
    force: bool,
    /// Prints one JSON object: {"folder", "files", "notes", "check"}
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    match import(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => finish(Err(error)),
    }
}

/// Whether the result would be taken.
fn import(arguments: &Arguments) -> anyhow::Result<bool> {
    let host_name = Inputs::of_process(None).host_name;
    let import = mosquitto::import(&arguments.file, &host_name).context("cannot be imported")?;
    let folder = &arguments.output;
    mosquitto::write(folder, &import.files, arguments.force)?;
    let problems = check(folder, host_name);
    let is_good = problems.iter().all(|problem| problem.severity == Severity::Warning);
    if arguments.json {
        let files: Vec<PathBuf> = import.files.iter().map(|file| folder.join(&file.name)).collect();
        let object = json!({ "folder": folder, "files": files, "notes": import.notes, "check": problems });
        print(&(printable_json(&object) + "\n"));
    } else {
        print(&words(&import, folder, &problems, is_good));
    }
    Ok(is_good)
}

/// What `tidegate check` says of it, without the environment of this shell.
fn check(folder: &Path, host_name: String) -> Vec<Problem> {
    let inputs = Inputs { file: Some(folder.join(MAIN_FILE)), host_name, ..Inputs::default() };
    match config::load_from(&inputs) {
        Ok(config) => config.warnings,
        Err(refused) => refused.0,
    }
}

fn words(import: &Import, folder: &Path, problems: &[Problem], is_good: bool) -> String {
    let mut out = String::new();
    for note in &import.notes {
        out.push_str(&note_words(note));
    }
    let count = |became| import.notes.iter().filter(|note| note.became == became).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\n{} lines: {} carried over, {} not needed, {} different, {} lost",
        import.notes.len(),
        count(Became::Carried),
        count(Became::NotNeeded),
        count(Became::Differs),
        count(Became::Lost)
    );
    let names: Vec<&str> = import.files.iter().map(|file| file.name.as_str()).collect();
    let folder = printable(&folder.display().to_string());
    let _ = writeln!(out, "written to {folder}: {}", printable(&names.join(", ")));
    if !problems.is_empty() {
        out.push_str(if is_good {
            "`tidegate check` warns of:\n"
        } else {
            "`tidegate check` refuses it as it is here:\n"
        });
    }
    for problem in problems {
        let _ = writeln!(out, "  {}", printable(&problem.to_string()));
    }
    out
}

fn note_words(note: &Note) -> String {
    let name = note.file.file_name().unwrap_or_default().to_string_lossy();
    let place = printable(&format!("{name}:{}", note.line));
    format!("{:10}  {place}  {}\n{:12}{}\n", note.became.word(), printable(&note.text), "", printable(&note.said))
}
