//! `tidegate completions` and `tidegate man`: made from the definitions of the commands themselves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum};
use clap_mangen::Man;

use super::{finish, print};

/// Prints completions for a shell.
///
/// For bash: tidegate completions bash > /usr/share/bash-completion/completions/tidegate
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the manual page, or writes those of all commands into a directory.
///
/// For all: tidegate man /usr/local/share/man/man1
#[derive(Debug, Args)]
pub(super) struct Manual {
    /// The directory; made where it is missing
    directory: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions, mut command: Command) -> ExitCode {
    use clap_complete::shells;
    let mut out = Vec::new();
    let name = command.get_name().to_owned();
    match arguments.shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, &mut out),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut out),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut out),
    }
    print(&String::from_utf8_lossy(&out));
    ExitCode::SUCCESS
}

pub(super) fn manual(arguments: &Manual, command: Command) -> ExitCode {
    let Some(directory) = &arguments.directory else {
        let mut out = Vec::new();
        let rendered = Man::new(command).render(&mut out).context("cannot make the manual page");
        print(&String::from_utf8_lossy(&out));
        return finish(rendered);
    };
    finish(write_pages(directory, command))
}

/// One page for the program and one for each command, however deep.
fn write_pages(directory: &Path, command: Command) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
        .with_context(|| format!("cannot write manual pages into {}", directory.display()))
}
