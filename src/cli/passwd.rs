//! `tidegate passwd`: adds, changes or deletes a user of a password file.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{complain, finish, print, prompt};
use crate::broker::access::{Credential, Edited, check_name, delete_user, set_password};

/// Longest password in bytes: what a CONNECT can carry (MQTT 5, section 3.1.3.6).
const PASSWORD_MAX: usize = 65_535;

/// Adds a user to a password file, or gives it another password.
///
/// The password is asked for twice on a terminal, and is the first line of standard input otherwise. It is stored as an
/// Argon2id hash. The file is replaced whole, keeping its owner and mode (a new one gets 0600); a running gateway takes the
/// change up within half a minute, or at once with SIGHUP.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Deletes the user instead
    #[arg(short = 'D', long)]
    delete: bool,
    /// The password file (`password_file` of `[auth]`); made where there is none
    file: PathBuf,
    /// Name of the user
    #[arg(value_parser = name)]
    user: String,
}

fn name(text: &str) -> Result<String, &'static str> {
    check_name(text).map(|()| text.to_owned())
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    finish(change(arguments))
}

fn change(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { delete, file, user } = arguments;
    let (edited, done) = if *delete {
        (delete_user(file, user)?, "deleted from")
    } else {
        let credential = Credential::of(&password(user)?)?;
        let edited = set_password(file, user, &credential)?;
        let done = if edited.was_there { "has a new password in" } else { "added to" };
        (edited, done)
    };
    print(&format!("{user} {done} {}\n", file.display()));
    warn_of(arguments, &edited);
    Ok(())
}

fn warn_of(arguments: &Arguments, edited: &Edited) {
    let file = arguments.file.display();
    for wrong in &edited.wrong {
        complain(&format!(
            "warning: {file}:{}: {}; left as it is, and the gateway will refuse it\n",
            wrong.line, wrong.cause
        ));
    }
    if !arguments.delete && arguments.user.contains(['+', '#', '/']) {
        complain("warning: access rules with %u give nothing to a user with + # or / in its name\n");
    }
}

/// The password, from whoever or whatever is there.
fn password(user: &str) -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let first = prompt::secret(&stdin, &format!("Password for {user}: ")).context("no password was given")?;
        check(&first)?;
        if prompt::secret(&stdin, "Again: ").context("no password was given")? != first {
            bail!("the two passwords differ; nothing was changed");
        }
        return Ok(first);
    } else {
        first_line(stdin.lock()).context("the password cannot be read from standard input")?
    };
    check(&password)?;
    Ok(password)
}

fn check(password: &[u8]) -> anyhow::Result<()> {
    match password.len() {
        0 => bail!("an empty password is none; nothing was changed"),
        1..=PASSWORD_MAX => Ok(()),
        _ => bail!("the password is longer than {PASSWORD_MAX} bytes, which MQTT cannot carry; nothing was changed"),
    }
}

/// Everything before the first line end.
fn first_line(input: impl io::BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    // Two more than can be: for the line end, and to see that it is too long.
    input.take(PASSWORD_MAX as u64 + 2).read_until(b'\n', &mut line)?;
    for end in [b'\n', b'\r'] {
        if line.last() == Some(&end) {
            line.pop();
        }
    }
    Ok(line)
}
