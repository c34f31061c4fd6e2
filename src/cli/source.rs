//! Where commands that only look find what they show: the running gateway, or the data directory of a stopped one.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    complain,
    gateway::{Door, Gateway, Trouble, reachable},
    words::printable,
};
use crate::{
    admin::{self, Part},
    app::{dead_record, record},
    config::{self, Config},
    record::Line,
    store::{AtRest, AtRestError, DeadFilter},
};

/// Longest wait for a connection that is neither taken nor refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct Where {
    #[command(flatten)]
    pub(super) door: Door,
    /// Reads the data directory of a stopped gateway, and changes nothing in it [default: that of the configuration, where no gateway runs]
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    data_dir: Option<PathBuf>,
}

/// What is looked at.
pub(super) enum Source {
    Running(Gateway),
    Resting(Box<Resting>),
}

/// The data directory of a stopped gateway, and what its configuration says.
pub(super) struct Resting {
    store: AtRest,
    config: Option<Config>,
}

/// Which messages are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) part: Part,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Messages as lines, oldest first.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) head: u64,
    pub(super) end: u64,
    pub(super) count: Option<u64>,
    pub(super) messages: Vec<Line>,
    pub(super) next: Option<u64>,
    /// Those that should be between these and cannot be read.
    pub(super) unreadable: u64,
}

impl Where {
    /// Finds the gateway, or where none runs, what it left. Says on stderr where it is the latter.
    pub(super) fn open(&self) -> Result<Source, Trouble> {
        if let Some(data_dir) = &self.data_dir {
            // Of another machine perhaps: its configuration may be anywhere, and this machine's may be broken.
            let config = match &self.door.config {
                Some(file) => Some(config::load_beside(Some(file)).map_err(Trouble::Config)?),
                None => config::load_beside(None).ok().filter(|config| !config.files.is_empty()),
            };
            let store = AtRest::open(data_dir).map_err(|error| anyhow!(error))?;
            return Ok(resting(store, config));
        }
        if self.door.admin.is_some() {
            return Ok(Source::Running(self.door.open()?));
        }
        let config = config::load_beside(self.door.config.as_deref()).map_err(Trouble::Config)?;
        let bind = config.admin.bind.map(reachable);
        if bind.is_some_and(|bind| bind.port() != 0 && answers(bind)) {
            return Ok(Source::Running(self.door.open_with(config.admin)?));
        }
        let admin = match bind {
            None => "the configuration has `[admin] bind = \"off\"`".to_owned(),
            Some(bind) if bind.port() == 0 => {
                "`[admin] bind` leaves the port to the system; say which it is with --admin".to_owned()
            }
            Some(bind) => format!("nothing listens on {bind} (`[admin] bind`)"),
        };
        match AtRest::open(&config.store.data_dir) {
            Ok(store) => Ok(resting(store, Some(config))),
            Err(AtRestError::Held(held)) => Err(anyhow!("the gateway cannot be asked: {admin}; and {held}").into()),
            Err(error @ (AtRestError::Nothing(_) | AtRestError::Open(_) | AtRestError::Unreadable { .. })) => {
                Err(anyhow!("no gateway runs here: {admin}; and {error}").into())
            }
        }
    }
}

fn resting(store: AtRest, config: Option<Config>) -> Source {
    complain(&format!("tidegate: no gateway is asked: this is what {} holds\n", store.path().display()));
    if let Some(damage) = store.damage() {
        complain(&format!("tidegate: {}\n", damaged(damage)));
    }
    Source::Resting(Box::new(Resting { store, config }))
}

fn damaged(damage: &str) -> String {
    format!("the database is damaged ({}); what can be read is shown", printable(damage))
}

/// Whether somebody listens there. Who neither takes nor refuses the connection is asked, and its silence told.
fn answers(address: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::ConnectionRefused,
    }
}

impl Source {
    /// In words, for the end of a sentence.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Running(gateway) => format!("the gateway at {}", gateway.address()),
            Self::Resting(resting) => resting.store.path().display().to_string(),
        }
    }

    /// Fails where the ids of messages are not known, for want of the gateway's.
    pub(super) fn must_know_ids(&self) -> anyhow::Result<()> {
        match self {
            Self::Resting(resting) if resting.config.is_none() => Err(anyhow!(
                "whose messages are these? Give the gateway's configuration with -c: its id is part of theirs"
            )),
            Self::Running(_) | Self::Resting(_) => Ok(()),
        }
    }

    /// All streams, as `GET /api/v1/streams` has them.
    pub(super) fn streams(&self) -> anyhow::Result<Value> {
        match self {
            Self::Running(gateway) => gateway.get("/api/v1/streams"),
            Self::Resting(resting) => Ok(admin::at_rest::streams(resting.streams())),
        }
    }

    /// A page of the dead letters, as `GET /api/v1/dead` has them.
    pub(super) fn dead(&mut self, stream: Option<&str>, after: u64, limit: usize) -> anyhow::Result<Value> {
        match self {
            Self::Running(gateway) => {
                let of = stream.map_or(String::new(), |stream| format!("&stream={stream}"));
                gateway.get(&format!("/api/v1/dead?limit={limit}&after={after}{of}"))
            }
            Self::Resting(resting) => {
                if let Some(name) = stream {
                    resting.must_have(name)?;
                }
                let stats = resting.store.dead_stats().map_err(unreadable_letters)?;
                let filter = DeadFilter { after, limit, ..DeadFilter::default() };
                let letters = resting.store.dead(&filter, stream).map_err(unreadable_letters)?;
                let next = letters.last().filter(|_| letters.len() >= limit).map(|last| last.id);
                Ok(admin::at_rest::dead(stats, letters, next))
            }
        }
    }

    /// One dead letter, as `GET /api/v1/dead/{id}` has it.
    pub(super) fn dead_letter(&mut self, id: u64) -> anyhow::Result<Value> {
        match self {
            Self::Running(gateway) => gateway.get(&format!("/api/v1/dead/{id}")),
            Self::Resting(resting) => {
                let filter = DeadFilter { id: Some(id), limit: 1, ..DeadFilter::default() };
                let letter = resting.store.dead(&filter, None).map_err(unreadable_letters)?.pop();
                let letter = letter.ok_or_else(|| anyhow!("there is no dead letter {id}"))?;
                Ok(admin::at_rest::dead_letter(letter))
            }
        }
    }

    /// A page of messages, at most `limit`.
    pub(super) fn messages(&mut self, stream: &str, range: Range, limit: usize) -> anyhow::Result<Page> {
        match self {
            Self::Running(gateway) => {
                let of = match range.part {
                    Part::Backlog => "backlog",
                    Part::Kept => "kept",
                    Part::Dead => "dead",
                };
                let Range { from, to, .. } = range;
                let path = format!("/api/v1/streams/{stream}/messages?of={of}&from={from}&to={to}&limit={limit}");
                let page = gateway.get_bytes(&path)?;
                serde_json::from_slice(&page).context("the gateway's answer cannot be read")
            }
            Self::Resting(resting) => resting.messages(stream, range, limit),
        }
    }
}

fn unreadable_letters(cause: impl AsRef<str>) -> anyhow::Error {
    anyhow!("the dead letters cannot be read: {}", printable(cause.as_ref()))
}

impl Resting {
    fn streams(&self) -> Vec<crate::stats::StreamStats> {
        let mut streams = self.store.streams();
        if let Some(config) = &self.config {
            for stream in &mut streams {
                let known = config.streams.iter().find(|known| known.name == stream.name);
                stream.configured = known.is_some();
                let limits = known.map(crate::config::Stream::store_settings);
                stream.limit_messages = limits.as_ref().and_then(|limits| limits.max_messages);
                stream.limit_bytes = limits.and_then(|limits| limits.max_bytes);
                stream.to = known.and_then(|known| Some(config.uplinks.get(known.to?)?.name.clone()));
            }
        }
        streams
    }

    fn must_have(&self, stream: &str) -> anyhow::Result<(u64, u64)> {
        self.store.position(stream).ok_or_else(|| {
            let names: Vec<String> = self.store.streams().into_iter().map(|known| known.name).collect();
            anyhow!(
                "there is no stream called `{stream}` in {}; there are: {}",
                show(self.store.path()),
                names.join(", ")
            )
        })
    }

    fn messages(&mut self, stream: &str, range: Range, limit: usize) -> anyhow::Result<Page> {
        let (head, end) = self.must_have(stream)?;
        let gateway = self.config.as_ref().map(|config| config.gateway_id.as_str());
        let own = format!("{}/{stream}", gateway.unwrap_or_default());
        // Without the configuration nobody knows whose they are.
        let named = |line: Line| Line { id: line.id.filter(|id| gateway.is_some() || !id.starts_with('/')), ..line };
        let now_unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let now_unix_ms = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
        let mut page = Page { head, end, count: None, messages: Vec::new(), next: None, unreadable: 0 };
        if range.part == Part::Dead {
            let after = range.from.saturating_sub(1);
            // Each is read whole, by itself.
            let heads = self
                .store
                .dead(&DeadFilter { after, limit: limit.min(256), ..DeadFilter::default() }, Some(stream))
                .map_err(unreadable_letters)?;
            page.next = heads.last().filter(|_| heads.len() >= limit.min(256)).map(|last| last.id + 1);
            for head in heads {
                let whole = DeadFilter { id: Some(head.id), limit: 1, ..DeadFilter::default() };
                let letter = self.store.dead(&whole, None).map_err(unreadable_letters)?.pop();
                match letter.and_then(dead_record) {
                    Some((record, dead)) => {
                        page.messages.push(named(Line { dead, ..Line::new(&record, &own, now_unix_ms) }));
                    }
                    None => page.unreadable += 1,
                }
            }
            return Ok(page);
        }
        let read =
            self.store.read(stream, range.part == Part::Kept, range.from, limit).context("the stream is gone")?;
        let rows = read.messages.into_iter().filter(|row| row.seq <= range.to);
        page.messages = rows.map(|row| named(Line::new(&record(row), &own, now_unix_ms))).collect();
        page.next = read.next.filter(|next| *next <= range.to);
        page.unreadable = read.lost;
        if range.part == Part::Backlog && range.from <= head && range.to >= end {
            let known = self.store.streams().into_iter().find(|known| known.name == stream);
            page.count = known.map(|known| known.backlog_messages);
        }
        if read.lost > 0 {
            complain(&format!("tidegate: {} messages here cannot be read: the database is damaged\n", read.lost));
        }
        Ok(page)
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
