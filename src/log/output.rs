//! Where lines go: stderr, or the journal by its own protocol, in which every field is a field.
//!
//! # The journal
//!
//! A line is one datagram to `SOCKET` (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): `MESSAGE` is what a person reads, message and
//! fields together, for `journalctl` shows nothing else; `PRIORITY`, `SYSLOG_IDENTIFIER=tidegate`, `CODE_FILE`, `CODE_LINE` are the journal's
//! own names; `TIDEGATE_EVENT` is the constant message alone, `TIDEGATE_TARGET` the module, and every field `client` is
//! `TIDEGATE_CLIENT`: so `journalctl TIDEGATE_UPLINK=cloud` finds all that concerns one uplink. The prefix is there because names
//! without one are the journal's (`PRIORITY`) or other programs'.
//!
//! Not `tracing-journald`: it sends from the thread that logs, which waits for as long as journald does not read, and forgets
//! the line where sending fails. Here the log's own thread waits (`RETRY_EVERY` at a time, for as long as the socket is full), and what cannot be
//! sent goes to stderr with its priority in front (`<4>`), which systemd reads too. While journald restarts the socket stays, and
//! keeps what was sent.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    line::{Line, Value},
    queue::Output,
    render::{Form, escape, priority, saying},
};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long one try waits for a reader that is behind.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// The same where stderr was made non-blocking by whoever shares it.
const STDERR_PAUSE: Duration = Duration::from_millis(20);

/// Lines on stderr.
pub(super) struct Stderr(pub(super) Form);

impl Output for Stderr {
    fn write(&mut self, lines: &[Line]) -> u64 {
        let mut text = String::new();
        for line in lines {
            self.0.append(line, &mut text);
        }
        // Nobody can be told that stderr is closed.
        write_all(text.as_bytes()).map_or(lines.len() as u64, |()| 0)
    }
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match io::stderr().lock().write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(STDERR_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lines as entries of the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    fallback: Stderr,
}

impl Journal {
    /// An error means that nobody listens there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(RETRY_EVERY))?;
        // journald ignores an empty datagram, and where nobody listens it fails.
        match socket.send_to(&[], path) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => Ok(Self { socket, path: path.to_owned(), fallback: Stderr(Form::Prefixed) }),
        }
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send_to(entry, &self.path) {
                Ok(_) => return Ok(()),
                // It reads on some time; what comes meanwhile waits in the queue.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Output for Journal {
    fn write(&mut self, lines: &[Line]) -> u64 {
        let mut lost = 0;
        for line in lines {
            if self.send(&entry(line)).is_err() {
                lost += self.fallback.write(std::slice::from_ref(line));
            }
        }
        lost
    }
}

/// An entry in the journal's protocol.
fn entry(line: &Line) -> Vec<u8> {
    let (mut out, mut message) = (Vec::with_capacity(512), String::new());
    saying(line, &mut message);
    put("MESSAGE", &message, &mut out);
    put("PRIORITY", &priority(line.level).to_string(), &mut out);
    put("SYSLOG_IDENTIFIER", "tidegate", &mut out);
    if let Some((file, number)) = line.source {
        put("CODE_FILE", file, &mut out);
        put("CODE_LINE", &number.to_string(), &mut out);
    }
    put("TIDEGATE_TARGET", line.target, &mut out);
    put("TIDEGATE_EVENT", &line.message, &mut out);
    for (name, value) in &line.fields {
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Signed(number) => number.to_string(),
            Value::Unsigned(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(word) => word.to_string(),
        };
        put(&format!("TIDEGATE_{}", name.to_ascii_uppercase()), &text, &mut out);
    }
    if let Some(repeated) = line.repeated {
        put("TIDEGATE_REPEATED", &repeated.times.to_string(), &mut out);
        put("TIDEGATE_OVER_S", &repeated.over_s.to_string(), &mut out);
    }
    out
}

/// `NAME=value`: what would need the protocol's other form, a line end in the value, is escaped like everything that rules a terminal.
fn put(name: &str, value: &str, out: &mut Vec<u8>) {
    let mut text = format!("{name}=");
    escape(value, &mut text);
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::SystemTime};

    use tracing::Level;

    use super::*;

    fn line(message: &str) -> Line {
        Line {
            time: SystemTime::UNIX_EPOCH,
            level: Level::WARN,
            target: "tidegate::broker",
            source: Some(("src/x.rs", 7)),
            message: message.to_owned(),
            fields: vec![("client", Value::Text("a\nPRIORITY=0\u{1b}".to_owned())), ("users", Value::Unsigned(3))],
            repeated: None,
        }
    }

    #[test]
    fn every_field_is_a_field_and_strangers_add_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journal::open(&path).is_err(), "nobody listens yet");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.write(&[line("client refused")]), 0);
        let mut buffer = [0; 4096];
        assert_eq!(reader.recv(&mut buffer).unwrap(), 0);
        let length = reader.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let fields: BTreeMap<&str, &str> = text.lines().map(|line| line.split_once('=').unwrap()).collect();
        let expected = [
            ("CODE_FILE", "src/x.rs"),
            ("CODE_LINE", "7"),
            ("MESSAGE", r#"client refused client="a\nPRIORITY=0\u{1b}" users=3"#),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "tidegate"),
            ("TIDEGATE_CLIENT", r"a\nPRIORITY=0\u{1b}"),
            ("TIDEGATE_EVENT", "client refused"),
            ("TIDEGATE_TARGET", "tidegate::broker"),
            ("TIDEGATE_USERS", "3"),
        ];
        assert_eq!(fields, BTreeMap::from(expected));
    }

    #[test]
    fn a_journal_that_is_behind_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        // More than a socket holds (net.unix.max_dgram_qlen is 10 on old kernels, 512 on new ones).
        let writer = thread::spawn(move || {
            let lines: Vec<Line> = (0..2_000).map(|number| line(&number.to_string())).collect();
            journal.write(&lines)
        });
        let mut buffer = [0; 4096];
        reader.recv(&mut buffer).unwrap();
        for number in 0..2_000 {
            let length = reader.recv(&mut buffer).unwrap();
            let expected = format!("MESSAGE={number} ");
            assert!(buffer[..length].starts_with(expected.as_bytes()), "{number}");
        }
        assert_eq!(writer.join().unwrap(), 0);
    }
}
