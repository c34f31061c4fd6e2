//! Configuration: what the user wrote, checked into what the program may use.
//!
//! ```text
//! files ──toml──▶ layers ──config crate──▶ one tree ──section by section──▶ Config
//! environment ───────────▶   (every value knows its file and line)   └────▶ Problems
//! ```
//!
//! Layers, later wins: the defaults (a constant in the module of each section), the file, `conf.d/*.toml` beside it in name
//! order, the environment. Tables are merged key by key; `[[listener]]`, `[[uplink]]`, `[[stream]]` and `[[downlink]]` of `conf.d` are added
//! to those before, and a name used twice is a problem that names both places; any other list replaces the one before.
//! An entry of a list can be changed from the environment only (see `environment.rs`). Relative paths begin in the folder of the
//! file that names them; from the environment, in the working directory.
//!
//! Every problem is found in one go: a getter that finds one notes it and goes on with the default. Only syntax errors
//! stop that, for half a file would bring a heap of false problems. That is also why the tree is not read by `serde`, which
//! ends at the first error and knows no lines.
//!
//! Keys of the contract that this version does not have yet are refused like unknown ones, but in words that say so.
//!
//! Limits: a file is at most 1 MiB (a password file 4 MiB), at most 256 files are read from `conf.d`, a list has at most 1000 entries. Nothing but the configuration and the
//! files it names is opened; nothing is written. Names of hosts to listen on are resolved here; those of upstreams are not.

mod access;
mod client_limits;
mod cross;
mod downlink;
mod environment;
mod file;
mod gateway;
mod layers;
mod listener;
mod listener_tls;
mod nearest;
mod origin;
mod problem;
mod section;
mod show;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
mod unit;
mod uplink;
mod url;
mod values;

use std::{
    cell::RefCell,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

pub use self::{
    access::reread_access, downlink::DEFAULT_DOWNLINK_TTL, gateway::*, listener::*, problem::*, stream::*, uplink::*,
    url::default_port,
};
use self::{
    layers::Layers,
    section::{Checks, Section},
};
use crate::{admin, broker, log, store};

/// The file that is read where none is given; it may be missing.
pub const DEFAULT_FILE: &str = "/etc/tidegate/tidegate.toml";

const ROOT_KEYS: &[&str] = &["gateway", "store", "listener", "auth", "uplink", "stream", "downlink", "admin", "log"];
const LOG_KEYS: &[&str] = &["level", "format"];

/// All keys there are, by section.
const SECTIONS: &[(&str, &[&str])] = &[
    ("[gateway]", GATEWAY_KEYS),
    ("[store]", STORE_KEYS),
    ("[[listener]]", LISTENER_KEYS),
    ("tls", listener_tls::TLS_KEYS),
    ("[auth]", access::AUTH_KEYS),
    ("[[uplink]]", uplink::KEYS),
    ("backoff", uplink::BACKOFF_KEYS),
    ("rate", uplink::RATE_KEYS),
    ("[[stream]]", stream::KEYS),
    ("[[downlink]]", downlink::KEYS),
    ("[admin]", ADMIN_KEYS),
    ("[log]", LOG_KEYS),
];

/// Keys of the contract that this version does not have yet.
const LATER_KEYS: &[(&str, &str)] = &[];

/// A configuration that the program may use.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this gateway is: `[A-Za-z0-9_.-]{1,64}`.
    pub gateway_id: String,
    /// The store.
    pub store: store::Settings,
    /// The broker; it has at least one listener.
    pub broker: broker::Settings,
    /// Any number.
    pub uplinks: Vec<crate::uplink::Settings>,
    /// Any number; a stream's [`StreamId`](store::StreamId) is its place here.
    pub streams: Vec<Stream>,
    /// Any number.
    pub downlinks: Vec<crate::downlink::Settings>,
    /// The HTTP interface.
    pub admin: admin::Settings,
    /// The log.
    pub log: log::Settings,
    /// The files it was read from, in the order of the layers; none at all is possible.
    pub files: Vec<PathBuf>,
    /// What is allowed, but surely a mistake.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// What the store needs to know of the streams, in order.
    pub fn stream_settings(&self) -> Vec<store::StreamSettings> {
        self.streams.iter().map(Stream::store_settings).collect()
    }
}

/// Everything that a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The file that was asked for; it must be there.
    pub file: Option<PathBuf>,
    /// The file to read where none was asked for; it may be missing. `None` for none.
    pub default_file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The name of this machine.
    pub host_name: String,
    /// Who reads it.
    pub reader: Reader,
    /// The data folder where neither the file nor `$STATE_DIRECTORY` says one.
    pub data_dir_of_unit: Option<PathBuf>,
}

/// Who reads a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reader {
    /// The gateway, which needs all of it.
    #[default]
    Gateway,
    /// Somebody beside the gateway: an operator's shell, or systemd before a reload. It has neither the environment that the units make
    /// nor their credentials.
    Onlooker,
}

impl Inputs {
    /// The inputs of this process.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            file,
            default_file: Some(PathBuf::from(DEFAULT_FILE)),
            environment: env::vars_os().collect(),
            host_name: host_name.trim().to_owned(),
            ..Self::default()
        }
    }

    /// The inputs of a process beside the gateway.
    pub fn of_onlooker(file: Option<PathBuf>) -> Self {
        // Also where it is not there yet: a new device to which a backup is restored before the first start.
        let data_dir_of_unit = unit::data_dir(file.as_deref());
        Self { reader: Reader::Onlooker, data_dir_of_unit, ..Self::of_process(file) }
    }
}

/// Reads the configuration of this process: `file` if one was asked for, else the default file if there is one.
pub fn load(file: Option<&Path>) -> Result<Config, Refused> {
    load_from(&Inputs::of_process(file.map(Path::to_owned)))
}

/// Reads the same configuration as the gateway, for a process beside it.
pub fn load_beside(file: Option<&Path>) -> Result<Config, Refused> {
    load_from(&Inputs::of_onlooker(file.map(Path::to_owned)))
}

/// Reads a configuration. On refusal, all problems.
pub fn load_from(inputs: &Inputs) -> Result<Config, Refused> {
    let mut layers = layers::read(inputs)?;
    let problems = RefCell::new(std::mem::take(&mut layers.problems));
    let checks =
        Checks { origins: &layers.origins, problems, sections: SECTIONS, reader: inputs.reader, later: LATER_KEYS };
    let config = check(&checks, &layers, inputs);
    let mut problems = checks.problems.into_inner();
    problems.sort_by(Problem::order);
    match config {
        Some(config) if problems.iter().all(|problem| problem.severity == Severity::Warning) => {
            Ok(Config { warnings: problems, ..config })
        }
        _ => Err(Refused(problems)),
    }
}

fn check(checks: &Checks<'_>, layers: &Layers, inputs: &Inputs) -> Option<Config> {
    let root = Section::root(checks, &layers.root);
    root.check_keys(ROOT_KEYS);
    let gateway = root.section("gateway", GATEWAY_KEYS);
    let gateway_id = read_id(&gateway, &inputs.host_name);
    let state_directory = inputs.environment.iter().find(|(name, _)| name == "STATE_DIRECTORY");
    let state_directory = state_directory.and_then(|(_, value)| value.to_str());
    let data_dir = read_data_dir(&gateway, state_directory, inputs.data_dir_of_unit.as_deref());
    let store = read_store(&root.section("store", STORE_KEYS), data_dir);
    let admin_section = root.section("admin", ADMIN_KEYS);
    let admin = read_admin(&admin_section);
    let log = read_log(&root.section("log", LOG_KEYS));

    let listener_sections = root.entries("listener", LISTENER_KEYS);
    let listeners: Vec<_> = listener_sections.iter().filter_map(|s| Some((s, read_listener(s)?))).collect();
    cross::unique_names("listener", &listener_sections);
    cross::unique_addresses(&listeners, (&admin_section, &admin));
    let access = access::read_access(&root.section("auth", access::AUTH_KEYS));
    access::reachable_listeners(&listeners, &access);
    let mut listeners: Vec<_> = listeners.into_iter().map(|(_, listener)| listener).collect();
    if !root.has("listener") {
        listeners.push(listener::default_listener());
    }

    let uplink_sections = root.entries("uplink", uplink::KEYS);
    let uplinks: Vec<_> = uplink_sections.iter().filter_map(|s| Some((s, uplink::read(s, &gateway_id)?))).collect();
    cross::unique_names("uplink", &uplink_sections);
    cross::no_loops(&uplinks, &listeners);
    cross::distinct_client_ids(&uplinks);

    let uplink_names: Vec<String> =
        uplink_sections.iter().map(|section| section.name().unwrap_or_default().to_owned()).collect();
    let stream_sections = root.entries("stream", stream::KEYS);
    let streams: Vec<Stream> =
        stream_sections.iter().map(|section| stream::read(section, &gateway_id, &uplink_names)).collect();
    cross::unique_names("stream", &stream_sections);
    for (section, stream) in stream_sections.iter().zip(&streams) {
        cross::stream_limits(section, stream, &store, &listeners);
    }
    let downlink_sections = root.entries("downlink", downlink::KEYS);
    let downlinks: Vec<_> =
        downlink_sections.iter().map(|section| downlink::read(section, &gateway_id, &uplink_names)).collect();
    cross::unique_names("downlink", &downlink_sections);
    downlink::overlaps(&downlink_sections, &downlinks);
    let downlinks: Vec<_> = downlinks.into_iter().flatten().map(|downlink| downlink.settings).collect();
    let used = streams.iter().filter_map(|stream| stream.to).chain(downlinks.iter().map(|downlink| downlink.from));
    let used: Vec<String> = used.filter_map(|place| uplink_names.get(place).cloned()).collect();
    cross::used_uplinks(&uplinks, &used);

    // An uplink that could not be read is missing here; then there is an error, and the indexes are of no use to anybody.
    let uplinks = uplinks.into_iter().map(|(_, uplink)| uplink).collect();
    let files = layers.files.clone();
    (!listeners.is_empty()).then_some(Config {
        gateway_id,
        store,
        broker: broker::Settings { listeners, access },
        uplinks,
        streams,
        downlinks,
        admin,
        log,
        files,
        warnings: Vec::new(),
    })
}

fn read_log(section: &Section<'_>) -> log::Settings {
    let expected = "a level (error, warn, info, debug, trace) or directives such as \"info,tidegate::uplink=debug\"";
    let level = section.text("level", expected).map(|text| text.value);
    if let Some(Err(error)) = level.as_deref().map(log::check_level) {
        section.refuse("level", format!("{error}; expected {expected}"));
    }
    log::Settings {
        level: level.unwrap_or_else(|| log::DEFAULT_LEVEL.to_owned()),
        format: section.choice("format", log::DEFAULT_FORMAT, &log::FORMATS),
    }
}
