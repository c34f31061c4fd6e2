//! Programs of the system that are asked something: bounded in time, and no failure of ours where they are missing.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a program may take.
pub(super) const PROGRAM_PATIENCE: Duration = Duration::from_secs(3);

/// Most that is read of what it says.
const OUTPUT_MAX_BYTES: u64 = 64 << 10;

/// What a program says, where it ends well and in time. Blocks.
pub(super) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.env("LC_ALL", "C").spawn().ok()?;
    let mut stdout = child.stdout.take()?.take(OUTPUT_MAX_BYTES);
    // Of its own, so that a program that says more than a pipe holds does not wait for us.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + PROGRAM_PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => break None,
        }
    };
    if status.is_none() {
        // Gone in between is as good.
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = reader.join().ok()?.ok()?;
    status?.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The value of a `KEY=value` line, as `systemctl show` and `timedatectl show` write them.
pub(super) fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_or_fails_says_nothing() {
        assert_eq!(ask("/nowhere/program", &[]), None);
        assert_eq!(ask("false", &[]), None);
        assert_eq!(ask("echo", &["A=1"]).as_deref(), Some("A=1\n"));
        assert_eq!(value("A=1\nAB=2=3\n", "AB"), Some("2=3"));
        assert_eq!(value("A=1", "B"), None);
    }
}
