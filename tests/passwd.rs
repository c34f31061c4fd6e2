//! `tidegate passwd` as people and scripts meet it: on a terminal, in a pipe, with what can go wrong.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tidegate::broker::access::Credential;

const DEADLINE: Duration = Duration::from_secs(30);

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `tidegate passwd` with this on standard input.
fn passwd(arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("passwd").args(arguments).env_clear();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have ended already, without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Whether the file has this user with this password.
#[track_caller]
fn has(file: &Path, user: &str, password: &[u8]) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(user)?.strip_prefix(':'));
    lines.next().is_some_and(|hash| Credential::parse(hash).unwrap().verify(password))
}

#[test]
fn a_script_gives_the_password_on_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwd");
    let path = file.to_str().unwrap();
    let ran = passwd(&[path, "probe"], b"secret\n");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.stdout, format!("probe added to {path}\n"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(has(&file, "probe", b"secret") && !has(&file, "probe", b"secret\n"));
    for (input, password) in [
        (&b"other"[..], &b"other"[..]),
        (b"windows\r\n", b"windows"),
        (b"first\nsecond\n", b"first"),
        (b"\xFF\x00\n", b"\xFF\x00"),
    ] {
        let ran = passwd(&[path, "probe"], input);
        assert_eq!((ran.code, ran.stdout), (Some(0), format!("probe has a new password in {path}\n")));
        assert!(has(&file, "probe", password), "{input:?}");
    }
    passwd(&[path, "second"], b"x\n");
    let ran = passwd(&["-D", path, "probe"], b"");
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("probe deleted from {path}\n")));
    assert!(!has(&file, "probe", b"first") && has(&file, "second", b"x"));
}

#[test]
fn what_goes_wrong_is_said_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwd");
    let path = file.to_str().unwrap();
    passwd(&[path, "probe"], b"secret\n");
    let before = fs::read(&file).unwrap();
    let long = vec![b'x'; 70_000];
    let missing = folder.path().join("missing/passwd");
    let table: [(&[&str], &[u8], i32, &str); 9] = [
        (&[path, "probe"], b"", 1, "empty password"),
        (&[path, "probe"], b"\nx\n", 1, "empty password"),
        (&[path, "probe"], &long, 1, "longer than 65535 bytes"),
        (&["-D", path, "nobody"], b"", 1, "has no user \"nobody\""),
        (&[missing.to_str().unwrap(), "probe"], b"x\n", 1, "No such file"),
        (&[folder.path().to_str().unwrap(), "probe"], b"x\n", 1, "no regular file"),
        (&[path, "a:b"], b"x\n", 2, "no colon"),
        (&[path, "anonymous"], b"x\n", 2, "meaning of their own"),
        (&[path], b"x\n", 2, "<USER>"),
    ];
    for (arguments, input, code, said) in table {
        let ran = passwd(arguments, input);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn wrong_lines_of_others_are_told_and_names_that_rules_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwd");
    fs::write(&file, "# mine\nprobe:hunter2\n").unwrap();
    let ran = passwd(&[file.to_str().unwrap(), "a/b"], b"x\n");
    assert_eq!(ran.code, Some(0));
    assert!(ran.stderr.contains("passwd:2: ") && ran.stderr.contains("%u"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hunter2"));
}

/// A terminal with `tidegate passwd` on it.
struct Terminal {
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
    child: std::process::Child,
}

impl Terminal {
    fn run(arguments: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let other = || {
            let end = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
            Stdio::from(end)
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("passwd").args(arguments).env_clear();
        let child = command.stdin(other()).stdout(other()).stderr(other()).spawn().unwrap();
        let keyboard = File::from(keyboard);
        let mut eyes = keyboard.try_clone().unwrap();
        let (seen, screen) = mpsc::sync_channel(100);
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            // Ends with an error when the program has gone.
            while let Ok(count @ 1..) = eyes.read(&mut buffer) {
                let _ = seen.send(buffer[..count].to_vec());
            }
        });
        Self { keyboard, screen, seen: String::new(), child }
    }

    /// Waits for a text after everything that was waited for before.
    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = self.screen.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{text:?} in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8(more).unwrap());
        }
        let (_, rest) = self.seen.split_once(text).unwrap();
        self.seen = rest.to_owned();
    }

    fn shows_keys(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// The exit code, and what was shown since.
    fn end(mut self) -> (Option<i32>, String, bool) {
        let code = self.child.wait().unwrap().code();
        let echoes = self.shows_keys();
        let Self { keyboard, screen, mut seen, .. } = self;
        drop(keyboard);
        while let Ok(more) = screen.recv_timeout(DEADLINE) {
            seen.push_str(&String::from_utf8(more).unwrap());
        }
        (code, seen, echoes)
    }
}

#[test]
fn on_a_terminal_the_password_is_asked_for_twice_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwd");
    let path = file.to_str().unwrap();
    let mut terminal = Terminal::run(&[path, "probe"]);
    terminal.wait_for("Password for probe: ");
    assert!(!terminal.shows_keys());
    terminal.types("sekrte\x7f\x7fet\n");
    terminal.wait_for("Again: ");
    terminal.types("sekret\n");
    terminal.wait_for("probe added to");
    let (code, seen, echoes) = terminal.end();
    assert_eq!((code, echoes), (Some(0), true), "{seen}");
    assert!(!seen.contains("sekret"));
    assert!(has(&file, "probe", b"sekret"));
}

#[test]
fn two_different_passwords_and_an_interruption_change_nothing_and_leave_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwd");
    let path = file.to_str().unwrap();
    for (second, said) in [("other\n", "differ"), ("\x03", "interrupted"), ("\x04", "end of file")] {
        let mut terminal = Terminal::run(&[path, "probe"]);
        terminal.wait_for("Password for probe: ");
        terminal.types("secret\n");
        terminal.wait_for("Again: ");
        terminal.types(second);
        terminal.wait_for(said);
        let (code, _, echoes) = terminal.end();
        assert_eq!((code, echoes), (Some(1), true), "{said}");
        assert!(!file.exists());
    }
}
