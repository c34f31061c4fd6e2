//! From a mosquitto.conf to a configuration of ours: listeners, users, rules, bridges; and a word on every line.
//!
//! ```text
//! files ──reader──▶ lines ──sections──▶ listeners, bridges, the rest ──▶ tidegate.toml, acl.toml, passwd, NAME.password
//!                     └──────────────── notes: carried, not needed, differs, lost ◀┘
//! ```
//!
//! Nothing is dropped in silence: a line of which nobody has a word to say is told of as lost. What could not be made as safe as it was (a
//! listener with pre-shared keys, or with users of its own) is written as a comment, with the reason. Secrets go into files of mode
//! 0600 and are shown nowhere. Nothing is overwritten unless that is asked for; nothing that Mosquitto uses is changed.
//!
//! Limits: a file has 4 MiB at most, a line 64 KiB, an `include_dir` 256 files. As with Mosquitto an `include_dir` counts in the main file only,
//! so there are no loops. A crash while writing leaves some of the files; the next run says that they are there.

mod acl;
mod bridges;
mod keys;
mod listeners;
mod notes;
mod reader;
mod render;
mod sections;
mod write;

use std::{fmt::Write as _, path::Path};

use self::{listeners::Listeners, notes::Book, sections::Sections};
pub use self::{
    notes::{Became, Note},
    reader::ReadError,
    write::{WriteError, write},
};
use crate::broker::access::Users;

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its name in the new folder.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// Its mode.
    pub mode: u32,
}

/// What became of a mosquitto.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// `tidegate.toml` first.
    pub files: Vec<NewFile>,
    /// A word on every line, in order.
    pub notes: Vec<Note>,
}

/// Name of the configuration among the new files.
pub const MAIN_FILE: &str = "tidegate.toml";

/// Reads a mosquitto.conf and all it names, and makes a configuration of ours of it. Writes nothing. `host_name` of this machine.
pub fn import(path: &Path, host_name: &str) -> Result<Import, ReadError> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut book = Book::new(reader::read(&path)?);
    let sections = sections::sort(&mut book);
    told_of_globals(&mut book, &sections);
    let listeners = listeners::convert(&mut book, &sections, &path);
    let bridges = bridges::convert(&mut book, &sections.bridges, &path, host_name);
    let mut files = Vec::new();
    let mut toml = head(&path);
    toml.push_str(&listeners.toml);
    toml.push_str(&auth(&mut book, &listeners, &path, &mut files));
    toml.push_str(&bridges.toml);
    let notes = book.notes();
    toml.push_str(&tail(&notes));
    let secrets = bridges.secrets.into_iter().map(|(name, text)| NewFile { name, text, mode: 0o600 });
    files.extend(secrets);
    files.insert(0, NewFile { name: MAIN_FILE.to_owned(), text: toml, mode: 0o644 });
    Ok(Import { files, notes })
}

fn head(path: &Path) -> String {
    format!(
        "# Made by `tidegate import-mosquitto` from {}.\n\
         # What could not be carried over is said at the end. See it checked with `tidegate check`, and this device with `tidegate doctor`.\n\n\
         [gateway]\n\
         #id = \"plant-7\"                   # default: the host name\n\
         #data_dir = \"/var/lib/tidegate\"   # default: $STATE_DIRECTORY (set by systemd), else ./tidegate-data\n",
        render::comment(&path.display().to_string())
    )
}

fn tail(notes: &[Note]) -> String {
    let mut out = String::new();
    let mut told: Vec<&Note> = notes.iter().filter(|note| note.became >= Became::Differs).collect();
    told.sort_by_key(|note| std::cmp::Reverse(note.became));
    if !told.is_empty() {
        out.push_str("\n# What is different, or could not be carried over:\n");
    }
    for note in told {
        let name = note.file.file_name().unwrap_or_default().to_string_lossy();
        let text = format!("{}: {name}:{}: {}: {}", note.became.word(), note.line, note.text, note.said);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# {}", render::comment(&text));
    }
    out
}

/// What there is to say of settings that stand for themselves.
fn told_of_globals(book: &mut Book, sections: &Sections) {
    let global = &sections.global;
    let per_listener = "users and rules of all listeners are one `[auth]`; where they differ the listener is left out";
    if sections.per_listener {
        global.say(book, "per_listener_settings", Became::Differs, per_listener);
    } else {
        global.say(
            book,
            "per_listener_settings",
            Became::NotNeeded,
            "users and rules of all listeners are one `[auth]`",
        );
    }
    for line in global.all(book, "log_type") {
        book.say(
            line,
            Became::Differs,
            "`[log] level` is one for all: \"info\" by default, \"debug\" tells of every packet",
        );
    }
    // Of several lines the last one counts.
    for key in [
        "allow_anonymous",
        "password_file",
        "acl_file",
        "max_queued_messages",
        "max_queued_bytes",
        "max_keepalive",
        "max_packet_size",
        "message_size_limit",
        "max_inflight_messages",
        "per_listener_settings",
    ] {
        let lines = global.all(book, key);
        for line in lines.iter().rev().skip(1) {
            book.say(*line, Became::NotNeeded, "is overruled by a later line");
        }
    }
}

/// `[auth]`, with its files.
fn auth(book: &mut Book, listeners: &Listeners, config: &Path, files: &mut Vec<NewFile>) -> String {
    let mut out = String::new();
    let security = &listeners.security;
    if let Some(line) = security.password_file {
        let path = reader::beside(config, Path::new(book.value(line)));
        let (text, became, said) = match reader::text(&path) {
            Ok(text) => users(&text),
            Err(error) => (String::new(), Became::Lost, format!("{error}; add the users with `tidegate passwd`")),
        };
        book.say(line, became, said);
        files.push(NewFile { name: "passwd".to_owned(), text, mode: 0o600 });
        out.push_str("password_file = \"passwd\"\n");
    }
    if let Some(line) = security.acl_file {
        let path = reader::beside(config, Path::new(book.value(line)));
        match reader::text(&path) {
            Ok(text) => {
                let acl = acl::read(&text, listeners.certificates);
                if acl.lost.is_empty() {
                    book.say(line, Became::Carried, format!("{} rules in acl.toml", acl.len()));
                }
                for (number, why) in &acl.lost {
                    book.say(line, Became::Lost, format!("line {number} of {}: {why}", path.display()));
                }
                files.push(NewFile {
                    name: "acl.toml".to_owned(),
                    text: acl.to_toml(&path.display().to_string()),
                    mode: 0o600,
                });
            }
            Err(error) => {
                let text = "# The rules could not be read, so nobody may anything.\n".to_owned();
                files.push(NewFile { name: "acl.toml".to_owned(), text, mode: 0o600 });
                book.say(line, Became::Lost, format!("{error}; nobody may anything until acl.toml has rules"));
            }
        }
        out.push_str("acl_file = \"acl.toml\"\n");
    }
    if out.is_empty() { out } else { format!("\n[auth]\n{out}") }
}

/// The users of a password file that we can check, and what became of the others.
fn users(text: &str) -> (String, Became, String) {
    let Err(wrong) = Users::parse(text) else {
        return (
            text.to_owned(),
            Became::Carried,
            "copied to passwd; a password that is changed with `tidegate passwd` is kept as Argon2id".to_owned(),
        );
    };
    let is_wrong = |number: u32| wrong.iter().any(|wrong| wrong.line == number);
    let lines = (1..).zip(text.lines());
    let kept: Vec<&str> = lines.clone().filter(|(number, _)| !is_wrong(*number)).map(|(_, line)| line).collect();
    let kept = kept.join(
        "
",
    ) + "
";
    let names = lines.filter(|(number, _)| is_wrong(*number)).map(|(number, line)| {
        let name: String =
            line.split(':').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(40).collect();
        let cause = wrong.iter().find(|wrong| wrong.line == number).map_or("", |wrong| wrong.cause.as_str());
        // A line without a colon may be a password.
        if line.contains(':') { format!("{name} (line {number}): {cause}") } else { format!("line {number}: {cause}") }
    });
    let names: Vec<String> = names.collect();
    let said = format!("copied to passwd without {}; set their passwords with `tidegate passwd`", names.join(", "));
    (kept, Became::Lost, said)
}
