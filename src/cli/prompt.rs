//! Asks for a secret on a terminal, without showing it.
//!
//! The terminal is read key by key with its own line editing and its signals off: Ctrl-C then ends the question in order,
//! with the terminal as it was, where the signal would end the program and leave a terminal behind that shows nothing.

use std::{
    io::{self, BufRead, Write as _},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Longest secret that is taken in; more keys do nothing.
const SECRET_MAX: usize = 65_536;

/// A terminal that shows nothing, until this is dropped.
struct Hidden<'t> {
    terminal: BorrowedFd<'t>,
    before: Termios,
}

impl<'t> Hidden<'t> {
    fn new(terminal: BorrowedFd<'t>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        // Keys typed ahead were shown, so they are no part of a secret.
        tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Asks on stderr and reads what is typed on standard input, which is a terminal.
pub(super) fn secret(terminal: &io::Stdin, question: &str) -> io::Result<Vec<u8>> {
    let hidden = Hidden::new(terminal.as_fd())?;
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes())?;
    let line = read_line(terminal.lock());
    // The line end was not shown either.
    let written = stderr.write_all(b"\n");
    drop(hidden);
    line.and_then(|line| written.map(|()| line))
}

/// One line, with the keys that edit it.
fn read_line(input: impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    for key in input.bytes() {
        match key? {
            // Ctrl-C, Ctrl-\, Ctrl-Z
            0x03 | 0x1C | 0x1A => return Err(io::Error::other("interrupted")),
            // Ctrl-D
            0x04 if line.is_empty() => break,
            b'\r' | b'\n' | 0x04 => return Ok(line),
            // Backspace, in both of its forms: takes a whole character.
            0x7F | 0x08 => while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {},
            // Ctrl-U
            0x15 => line.clear(),
            key if line.len() < SECRET_MAX => line.push(key),
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_the_line_and_end_it() {
        let table: [(&[u8], Result<&str, &str>); 9] = [
            (b"secret\n", Ok("secret")),
            (b"secret\rmore", Ok("secret")),
            (b"sek\x7fcret\n", Ok("secret")),
            ("sä\x7fecret\n".as_bytes(), Ok("secret")),
            (b"\x7f\x08wrong\x15secret\n", Ok("secret")),
            (b"secret\x04", Ok("secret")),
            (b"\x04", Err("unexpected end of file")),
            (b"secret", Err("unexpected end of file")),
            (b"sec\x03ret\n", Err("interrupted")),
        ];
        for (keys, expected) in table {
            let line = read_line(keys).map_err(|error| error.to_string());
            assert_eq!(line.as_deref().map_err(String::as_str), expected.map(str::as_bytes), "{keys:?}");
        }
        assert_eq!(read_line(&[&vec![b'x'; 100_000][..], b"\n"].concat()[..]).unwrap().len(), SECRET_MAX);
    }
}
