//! The running gateway: whether there is one, whether it is this program, and what it says of itself.

use std::fs;

use serde_json::Value;

use super::Ask;
use crate::{
    config::Config,
    doctor::finding::{Check, Notebook},
    store::{self, Held},
};

/// What is known of the running gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    /// Its process.
    pub(super) pid: Option<u32>,
    /// What `/api/v1/status` says.
    pub(super) status: Option<Value>,
}

impl Running {
    /// Whether there is one.
    pub(super) fn is_up(&self) -> bool {
        self.pid.is_some() || self.status.is_some()
    }

    /// What it says of one of its uplinks.
    pub(super) fn uplink(&self, name: &str) -> Option<&Value> {
        self.named("uplinks", name)
    }

    /// What it says of one of its listeners.
    pub(super) fn listener(&self, name: &str) -> Option<&Value> {
        self.named("listeners", name)
    }

    fn named(&self, list: &str, name: &str) -> Option<&Value> {
        self.status.as_ref()?[list].as_array()?.iter().find(|item| item["name"] == name)
    }
}

pub(super) fn look(config: &Config, ask: &Ask) -> (Running, Notebook) {
    let mut notebook = Notebook::new(Check::Gateway);
    let mut running = Running::default();
    let data_dir = &config.store.data_dir;
    let lock = store::inspect(data_dir).map(|inspection| inspection.lock);
    let lock_file = data_dir.join("tidegate.lock").display().to_string();
    match lock {
        Ok(Held::By(pid)) => {
            running.pid = Some(pid);
            notebook.ok(&lock_file, format!("a gateway runs on this data folder, process {pid}"));
            same_program(pid, &mut notebook);
        }
        Ok(Held::Unknown(why)) => {
            notebook.note(&lock_file, format!("whether a gateway runs cannot be seen from the lock: {why}"));
        }
        // What is the matter with the folder is for the check of the data.
        Ok(Held::Free) | Err(_) => {}
    }
    let Some(bind) = config.admin.bind else {
        notebook.note("[admin]", "is off: the gateway cannot be asked how it is");
        return (running, notebook);
    };
    let subject = format!("[admin] {bind}");
    match ask(config, "/api/v1/status") {
        Ok((200, status)) => {
            of_status(&subject, config, &status, &running, &mut notebook);
            running.status = Some(status);
        }
        Ok((code, answer)) => {
            let said = answer["error"]["message"].as_str().unwrap_or("without a word").to_owned();
            notebook.warn(
                &subject,
                format!("answers {code}: {said}"),
                "is `token_file` the one of the running gateway?",
            );
        }
        Err(why) if running.pid.is_some() => {
            let advice = "restart the gateway if it stays so; look into its log for the cause";
            notebook.fail(&subject, format!("a gateway runs, but does not answer here: {why}"), advice);
        }
        // Said by whoever connects there.
        Err(why) if !why.contains("nothing listens") => {
            let advice = "if a gateway should run here: `systemctl status tidegate`, and its log";
            notebook.warn(&subject, format!("whether a gateway runs cannot be told: {why}"), advice);
        }
        Err(_) => {
            let advice = "start it: `systemctl start tidegate`, or `tidegate run`";
            notebook.note("process", "no gateway runs on this configuration").advice = Some(advice.to_owned());
        }
    }
    if running.status.is_some() {
        of_health(&subject, config, ask, &mut notebook);
        of_streams(config, ask, &mut notebook);
    }
    (running, notebook)
}

/// The program of a running gateway may have been replaced since it was started.
fn same_program(pid: u32, notebook: &mut Notebook) {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return };
    if program.to_string_lossy().ends_with(" (deleted)") {
        notebook.warn(
            &format!("process {pid}"),
            "its program was replaced after it was started: it runs the old one",
            "restart the gateway; what is stored stays",
        );
    }
}

fn of_status(subject: &str, config: &Config, status: &Value, running: &Running, notebook: &mut Notebook) {
    let version = status["version"].as_str().unwrap_or("?");
    if version == env!("CARGO_PKG_VERSION") {
        let uptime = super::disk::whole_seconds(&status["uptime_seconds"]);
        notebook.ok(subject, format!("answers: version {version}, up for {uptime}"));
    } else {
        let found = format!("the running gateway is version {version}, this program is {}", env!("CARGO_PKG_VERSION"));
        notebook.warn(subject, found, "restart the gateway after an update; what is stored stays");
    }
    if status["gateway_id"] != config.gateway_id.as_str() {
        let found = format!(
            "the gateway that answers calls itself {}, this configuration says {:?}",
            status["gateway_id"], config.gateway_id
        );
        let advice = if running.pid.is_some() {
            "the configuration was changed after the start; restart the gateway"
        } else {
            "it is another gateway's: is this the right configuration (-c)?"
        };
        notebook.warn(subject, found, advice);
    }
    let alarms = status["store"]["alarms"].as_array().map_or(&[][..], Vec::as_slice);
    for alarm in alarms.iter().filter_map(Value::as_str) {
        notebook.warn(
            "alarm of the store",
            alarm,
            "see `tidegate status` and the log; the README says what each means",
        );
    }
    if let Some(why) = status["store"]["refusing"].as_str() {
        notebook.fail(
            "store",
            format!("messages are refused: {why}"),
            "make room, or let the backlog drain; what was acknowledged is safe",
        );
    }
    let uplinks = status["uplinks"].as_array().map_or(&[][..], Vec::as_slice);
    for uplink in uplinks {
        of_uplink(uplink, notebook);
    }
}

fn of_uplink(uplink: &Value, notebook: &mut Notebook) {
    let subject = format!("uplink {}", uplink["name"].as_str().unwrap_or("?"));
    let since = super::disk::whole_seconds(&uplink["since_seconds"]);
    let state = uplink["state"].as_str().unwrap_or("?");
    let last = uplink["last_error"].as_str();
    if state == "connected" {
        let before = last.map_or_else(String::new, |last| format!("; the last trouble before: {last}"));
        notebook.ok(&subject, format!("the gateway is connected for {since}{before}"));
    } else {
        let why = last.map_or_else(String::new, |last| format!(": {last}"));
        let found = format!("the gateway is not connected ({state} for {since}){why}");
        notebook.fail(&subject, found, "see what `uplinks` found, step by step; meanwhile everything is stored");
    }
}

fn of_health(subject: &str, config: &Config, ask: &Ask, notebook: &mut Notebook) {
    match ask(config, "/health/ready") {
        Ok((200, _)) => {
            notebook.ok(subject, "ready: it accepts messages");
        }
        Ok((_, answer)) => {
            let reasons = answer["reasons"].as_array().map_or(&[][..], Vec::as_slice);
            let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
            notebook.fail(
                subject,
                format!(
                    "not ready: {}",
                    if reasons.is_empty() { "no reason given".to_owned() } else { reasons.join("; ") }
                ),
                "each reason names the part; its log says more",
            );
        }
        Err(why) => {
            notebook.fail(subject, format!("does not answer /health/ready: {why}"), "look into the gateway's log");
        }
    }
}

fn of_streams(config: &Config, ask: &Ask, notebook: &mut Notebook) {
    let Ok((200, answer)) = ask(config, "/api/v1/streams") else { return };
    for stream in answer["streams"].as_array().map_or(&[][..], Vec::as_slice) {
        let subject = format!("stream {}", stream["name"].as_str().unwrap_or("?"));
        let waiting = stream["backlog"]["messages"].as_u64().unwrap_or(0);
        let dead = stream["dead"].as_u64().unwrap_or(0);
        let age = super::disk::whole_seconds(&stream["backlog"]["oldest_age_seconds"]);
        let (paused, configured) = (stream["paused"] == true, stream["configured"] != false);
        if !configured && waiting > 0 {
            let found = format!("{waiting} messages of a stream that is not configured any more");
            notebook.warn(&subject, found, "configure it again, or `tidegate purge` it");
        } else if paused {
            notebook.warn(&subject, format!("paused, {waiting} messages wait"), "`tidegate resume` lets it go on");
        } else if waiting > 0 && !stream["to"].is_null() {
            notebook.note(&subject, format!("{waiting} messages wait, the oldest for {age}"));
        } else {
            notebook.ok(&subject, format!("{waiting} messages stored"));
        }
        if dead > 0 {
            notebook.warn(
                &subject,
                format!("{dead} messages became dead letters so far: the upstream would never take them"),
                "`tidegate dead list` says why each; retry them when the cause is gone",
            );
        }
    }
}
