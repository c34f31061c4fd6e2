//! The configuration: its layers, its problems, and whether the gateway's user may read the files it names.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Config, Inputs, Problem, Severity},
    doctor::finding::{Check, Notebook},
};

/// A user, as far as it matters to whom a file is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    uid: u32,
    gids: Vec<u32>,
    name: String,
}

/// What decides who may read a file or go through a folder.
#[derive(Debug, Clone, Copy)]
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
}

pub(super) fn look(file: Option<&Path>) -> (Option<Config>, Notebook) {
    let mut notebook = Notebook::new(Check::Configuration);
    let inputs = Inputs::of_onlooker(file.map(Path::to_owned));
    let config = match config::load_from(&inputs) {
        Ok(config) => config,
        Err(refused) => {
            refused.0.iter().for_each(|problem| tell(&mut notebook, problem));
            return (None, notebook);
        }
    };
    if inputs.data_dir_of_unit.as_ref() == Some(&config.store.data_dir) {
        let folder = config.store.data_dir.display();
        let found = format!("that of the service, {folder}, unless the unit was changed ($STATE_DIRECTORY)");
        notebook.note("data folder", found);
    }
    if config.files.is_empty() {
        let nowhere = format!("there is no {}: built-in defaults, nothing is stored", config::DEFAULT_FILE);
        notebook.note("files", nowhere).advice = Some("name the file with -c if it is somewhere else".to_owned());
    }
    for file in &config.files {
        notebook.ok(&file.display().to_string(), "read");
    }
    layers_of_environment(&inputs, &mut notebook);
    config.warnings.iter().for_each(|problem| tell(&mut notebook, problem));
    if let Some(user) = service_user(&config.store.data_dir) {
        readable_by(&user, &config, &mut notebook);
    }
    (Some(config), notebook)
}

fn tell(notebook: &mut Notebook, problem: &Problem) {
    let subject = match (&problem.place, problem.key.as_str()) {
        (Some(place), "") => place.to_string(),
        (Some(place), key) => format!("{place} {key}"),
        (None, key) => key.to_owned(),
    };
    let said = problem.said.as_ref().map_or_else(String::new, |said| format!("{said}: "));
    let text = format!("{said}{}", problem.expected);
    let advice = match &problem.hint {
        Some(hint) => format!("perhaps meant: {hint}"),
        None if text.contains("/run/credentials/") => {
            "systemd makes this file while the service runs; start it, or ask `systemctl status tidegate`".to_owned()
        }
        None if text.contains("Permission denied") => "ask as root, or as the user of the service".to_owned(),
        None => "correct it, and see it gone with `tidegate check`".to_owned(),
    };
    match problem.severity {
        Severity::Error => notebook.fail(&subject, text, advice),
        Severity::Warning => notebook.warn(&subject, text, advice),
    };
}

fn layers_of_environment(inputs: &Inputs, notebook: &mut Notebook) {
    let names = inputs.environment.iter().filter_map(|(name, _)| name.to_str());
    let mut ours: Vec<&str> = names.filter(|name| name.starts_with("TIDEGATE__")).collect();
    ours.sort_unstable();
    if !ours.is_empty() {
        notebook.note("environment", format!("settings of this shell are on top: {}", ours.join(", "))).advice =
            Some("the service has an environment of its own (`systemctl show tidegate -p Environment`)".to_owned());
    }
}

/// Who the gateway runs as: the owner of its data, where that is somebody else than root, and we are root, who may read everything.
pub(super) fn service_user(data_dir: &Path) -> Option<User> {
    let owner = fs::metadata(data_dir).ok()?;
    (rustix::process::geteuid().is_root() && owner.uid() != 0).then(|| {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        user_of(owner.uid(), owner.gid(), &read("/etc/passwd"), &read("/etc/group"))
    })
}

/// `passwd` and `group` as in `/etc`. A user that is not there is one of systemd's.
fn user_of(uid: u32, gid: u32, passwd: &str, group: &str) -> User {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = passwd.lines().map(fields).find(|entry| entry.get(2).is_some_and(|id| *id == uid.to_string()));
    let name = entry.as_ref().and_then(|entry| entry.first()).cloned();
    let own_gid = entry.and_then(|entry| entry.get(3)?.parse().ok());
    let has = |members: &str| name.as_ref().is_some_and(|name| members.split(',').any(|member| member == name));
    let groups = group.lines().map(fields).filter(|entry| entry.get(3).is_some_and(|members| has(members)));
    let more = groups.filter_map(|entry| entry.get(2)?.parse().ok());
    let gids = std::iter::once(gid).chain(own_gid).chain(more).collect();
    User { uid, gids, name: name.unwrap_or_else(|| format!("user {uid}")) }
}

/// The files that the configuration names.
fn named_files(config: &Config) -> Vec<PathBuf> {
    let mut files = config.files.clone();
    let access = &config.broker.access;
    files.extend(access.password_file.iter().chain(&access.acl_file).chain(&config.admin.token_file).cloned());
    for tls in config.broker.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        files.extend([&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).cloned());
    }
    for uplink in &config.uplinks {
        files.extend(uplink.password_file.iter().chain(&uplink.ca).cloned());
        files.extend(uplink.identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]));
    }
    files.sort();
    files.dedup();
    files
}

fn readable_by(user: &User, config: &Config, notebook: &mut Notebook) {
    let files = named_files(config);
    let mut closed = 0;
    // What systemd hands over is the service's own.
    for file in files.iter().filter(|file| !file.starts_with("/run/credentials")) {
        let Some(at) = closed_at(user, file) else { continue };
        closed += 1;
        let found =
            format!("{}, who owns the data folder, cannot read it: {} is closed to it", user.name, at.display());
        notebook.warn(
            &file.display().to_string(),
            found,
            "let its group read it (chgrp, chmod g+r), or hand it over with LoadCredential= in the unit",
        );
    }
    if closed == 0 {
        notebook.ok("files", format!("all {} that are named can be read by {}", files.len(), user.name));
    }
}

/// The file, or the folder above it, that keeps a user out.
fn closed_at(user: &User, file: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(file).ok()?;
    let access = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Access { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() })
    };
    let folders: Vec<PathBuf> = real.ancestors().skip(1).map(Path::to_owned).collect();
    let closed = |path: &Path, bit| access(path).is_some_and(|access| !may(user, access, bit));
    let folder = folders.into_iter().rev().find(|folder| closed(folder, 0o1));
    folder.or_else(|| closed(&real, 0o4).then_some(real))
}

/// Whether the mode lets a user read (`0o4`) or go through (`0o1`).
fn may(user: &User, access: Access, bit: u32) -> bool {
    let shift = if access.uid == user.uid {
        6
    } else if user.gids.contains(&access.gid) {
        3
    } else {
        0
    };
    user.uid == 0 || access.mode & (bit << shift) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_what_etc_says() {
        let passwd = "root:x:0:0::/root:/bin/sh\ntide:x:77:78::/:/bin/false\n";
        let group = "root:x:0:\nssl-cert:x:110:postgres,tide\nother:x:5:tidegate\n";
        assert_eq!(user_of(77, 79, passwd, group), User { uid: 77, gids: vec![79, 78, 110], name: "tide".to_owned() });
        assert_eq!(user_of(61_000, 61_000, passwd, "x:::\n\n").name, "user 61000");
    }

    #[test]
    fn the_first_of_owner_group_and_others_that_fits_decides() {
        let user = User { uid: 7, gids: vec![8], name: String::new() };
        let table = [
            (7, 8, 0o400, true),
            (7, 8, 0o044, false),
            (1, 8, 0o040, true),
            (1, 8, 0o404, false),
            (1, 1, 0o004, true),
            (1, 1, 0o440, false),
        ];
        for (uid, gid, mode, readable) in table {
            assert_eq!(may(&user, Access { uid, gid, mode }, 0o4), readable, "{uid} {gid} {mode:o}");
        }
    }
}
