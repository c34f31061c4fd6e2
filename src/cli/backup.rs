//! `tidegate backup` and `tidegate restore`: copies of the store that can be put in its place.

use std::{
    fmt::Write as _,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    gateway::{Trouble, outcome},
    print,
    words::{printable, printable_json, size},
};
use crate::{
    config,
    store::{self, Copied},
};

/// Copies everything that is stored into one file, while the gateway runs or not.
///
/// The copy is one moment: backlogs, books, sessions, retained messages, dead letters. It is a file for `tidegate restore`, not a database: a
/// gateway that starts from it gives no sequence number a second time. Neither the configuration nor the quarantine is in it. Run it as root or
/// as the user of the gateway, and keep the file on another disk.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File to write; it appears when it is complete and on disk, and never replaces another
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Puts a backup in the place of the store of a stopped gateway.
///
/// What is there is set aside in `quarantine/`, not deleted. At its next start the gateway sends again what was forwarded since the backup was made,
/// with the same `tg-id`; new messages get numbers far above all that were ever used. Takes the `tidegate.db` of a copied data directory, too
/// (with its `-wal` beside it), and must be used for one that is older than the last start from it.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Which store.
#[derive(Debug, Args)]
struct Place {
    /// Configuration file of the gateway, which says where its data is [default: /etc/tidegate/tidegate.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory; the configuration is not read then
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

impl Place {
    fn data_dir(&self) -> Result<PathBuf, Trouble> {
        match &self.data_dir {
            Some(data_dir) => Ok(data_dir.clone()),
            None => Ok(config::load_beside(self.config.as_deref()).map_err(Trouble::Config)?.store.data_dir),
        }
    }

    fn show(&self, answer: &Value, words: &str) {
        print(&if self.json { printable_json(answer) + "\n" } else { words.to_owned() });
    }
}

/// `tidegate backup`.
pub(super) fn backup(arguments: &Backup) -> ExitCode {
    outcome(arguments.place.data_dir().and_then(|data_dir| Ok(make(arguments, &data_dir)?)))
}

fn make(arguments: &Backup, data_dir: &Path) -> anyhow::Result<()> {
    let name = arguments.file.display();
    if arguments.file.symlink_metadata().is_ok() {
        bail!("{name} is there already, and a backup replaces nothing: give it another name");
    }
    let folder = arguments.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary =
        NamedTempFile::new_in(folder).with_context(|| format!("cannot make a file in {}", folder.display()))?;
    let copied = store::backup(data_dir, temporary.path())?;
    let finish = || -> io::Result<()> {
        temporary.persist_noclobber(&arguments.file).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    finish().with_context(|| format!("cannot write {name}"))?;
    let words = format!("{} of {} are in {name}\n", contents(&copied), data_dir.display());
    arguments.place.show(&answer(&copied, &arguments.file, None), &words);
    Ok(())
}

/// `tidegate restore`.
pub(super) fn restore(arguments: &Restore) -> ExitCode {
    outcome(arguments.place.data_dir().and_then(|data_dir| Ok(put_back(arguments, &data_dir)?)))
}

fn put_back(arguments: &Restore, data_dir: &Path) -> anyhow::Result<()> {
    let (copied, aside) = store::restore(&arguments.file, data_dir).map_err(|error| anyhow!(error))?;
    let mut words = format!(
        "{} of {} are in {}; new numbers begin with the next start\n",
        contents(&copied),
        arguments.file.display(),
        data_dir.display()
    );
    if let Some(aside) = &aside {
        let _ = writeln!(words, "what was there is in {}: delete it when it is not needed any more", aside.display());
    }
    arguments.place.show(&answer(&copied, &arguments.file, aside.as_deref()), &words);
    Ok(())
}

/// `120 messages in 2 streams (1.4MiB)`.
fn contents(copied: &Copied) -> String {
    let messages: u64 = copied.streams.iter().map(|(_, backlog)| backlog).sum();
    let count = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let streams = count(copied.streams.len() as u64, "stream");
    format!("{} waiting in {streams} ({})", count(messages, "message"), size(&json!(copied.bytes)))
}

fn answer(copied: &Copied, file: &Path, aside: Option<&Path>) -> Value {
    let streams: Vec<Value> = copied
        .streams
        .iter()
        .map(|(name, backlog)| json!({ "name": printable(name), "backlog_messages": backlog }))
        .collect();
    json!({ "file": file, "bytes": copied.bytes, "streams": streams, "set_aside": aside })
}
