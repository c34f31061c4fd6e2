//! Where the gateway listens: free for it, or held by it; and whether strangers could come in.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::Path,
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

use super::{configuration::service_user, gateway::Running, ports, programs};
use crate::{
    broker::{Bind, ListenerSettings},
    config::Config,
    doctor::finding::{Check, Notebook},
};

pub(super) fn look(config: &Config, running: &Running) -> Notebook {
    let mut notebook = Notebook::new(Check::Listeners);
    for listener in &config.broker.listeners {
        let subject = format!("listener {}", listener.name);
        match &listener.bind {
            Bind::Tcp(address) => {
                let held = running.listener(&listener.name).and_then(|it| it["bind"].as_str().map(str::to_owned));
                let held = held.filter(|bound| is_at(bound, *address));
                tcp(&format!("{subject}, {address}"), *address, held.is_some(), (config, running), &mut notebook);
            }
            Bind::Unix(path) => unix(&format!("{subject}, {}", path.display()), path, running, &mut notebook),
        }
        open_to(&subject, listener, &mut notebook);
    }
    if let Some(bind) = config.admin.bind {
        let subject = format!("[admin], {bind}");
        tcp(&subject, bind, running.status.is_some(), (config, running), &mut notebook);
        if !bind.ip().is_loopback() {
            let found = "reachable from other machines, in plain text: the token can be read on the way";
            let advice = "bind it to 127.0.0.1 and use an SSH tunnel, or put a proxy with TLS before it";
            notebook.warn(&subject, found, advice);
        }
    }
    notebook
}

/// Whether a running gateway's address is the configured one; port 0 is any.
fn is_at(bound: &str, configured: SocketAddr) -> bool {
    bound.parse::<SocketAddr>().is_ok_and(|bound| {
        bound.ip() == configured.ip() && (configured.port() == 0 || bound.port() == configured.port())
    })
}

fn tcp(subject: &str, address: SocketAddr, held: bool, of: (&Config, &Running), notebook: &mut Notebook) {
    let (config, running) = of;
    if held {
        notebook.ok(subject, "held by the running gateway");
        return;
    }
    if running.is_up() {
        match ports::listener_on(address.port()) {
            Some(owner) if running.pid.is_some_and(|pid| owner.ends_with(&format!(", process {pid}"))) => {
                notebook.ok(subject, "held by the running gateway");
            }
            Some(owner) => {
                notebook.note(subject, format!("held by {owner}, whether that is the gateway or not cannot be seen"));
            }
            None => {
                let found = "the running gateway does not listen here";
                notebook.warn(
                    subject,
                    found,
                    "the configuration was changed after the start: reload or restart the gateway",
                );
            }
        }
        return;
    }
    match try_bind(address) {
        Ok(()) => {
            notebook.ok(subject, "free");
            privileged(subject, address.port(), config, notebook);
        }
        Err(error) => refused(subject, address, &error, notebook),
    }
}

/// Binds as the gateway does, and does not listen: a gateway that starts in this moment is not in the way of it, nor it in its.
fn try_bind(address: SocketAddr) -> io::Result<()> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of ours keeps its own")]
fn refused(subject: &str, address: SocketAddr, error: &io::Error, notebook: &mut Notebook) {
    let (found, advice) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = ports::listener_on(address.port()).unwrap_or_else(|| "another program".to_owned());
            (format!("in use by {owner}"), "stop that program, or choose another port in `bind`")
        }
        io::ErrorKind::AddrNotAvailable => (
            format!("this machine has no address {} at this moment", address.ip()),
            "correct `bind` (`ip address` shows what there is), or bind 0.0.0.0 where the address comes later",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("port {} needs a right that this user does not have", address.port()),
            "choose a port from 1024 on, or give the unit CAP_NET_BIND_SERVICE (its comments say how)",
        ),
        _ => (format!("cannot be bound: {error}"), "correct `bind`"),
    };
    notebook.fail(subject, found, advice);
}

/// Root may bind every port; the service may not.
fn privileged(subject: &str, port: u16, config: &Config, notebook: &mut Notebook) {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if port == 0 || port >= first || !geteuid().is_root() || service_user(&config.store.data_dir).is_none() {
        return;
    }
    let unit = programs::ask("systemctl", &["show", "tidegate.service", "-p", "AmbientCapabilities"]);
    if !unit.is_some_and(|unit| unit.to_lowercase().contains("cap_net_bind_service")) {
        let advice = "choose a port from 1024 on, or give the unit CAP_NET_BIND_SERVICE (its comments say how)";
        notebook.warn(
            subject,
            format!("free for root, but the gateway is another user, and port {port} needs a right"),
            advice,
        );
    }
}

fn unix(subject: &str, path: &Path, running: &Running, notebook: &mut Notebook) {
    let file = fs::symlink_metadata(path);
    match file {
        Ok(file) if !file.file_type().is_socket() => {
            notebook.fail(subject, "something else than a socket is there", "move it away, or choose another path");
        }
        Ok(_) if running.is_up() => {
            notebook.ok(subject, "held by the running gateway");
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => {
                notebook.fail(subject, "another program listens here", "stop that program, or choose another path");
            }
            Err(_) => {
                notebook.ok(subject, "left by a crash; the gateway replaces it");
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => unix_folder(subject, path, running, notebook),
        Err(error) => {
            notebook.fail(
                subject,
                format!("cannot be looked at: {error}"),
                "open the folders above to the gateway's user",
            );
        }
    }
}

fn unix_folder(subject: &str, path: &Path, running: &Running, notebook: &mut Notebook) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if running.is_up() {
        let found = "the running gateway does not listen here";
        notebook.warn(subject, found, "the configuration was changed after the start: reload or restart the gateway");
    } else if !folder.is_dir() {
        let advice = "make it; systemd makes /run/tidegate while the service runs (RuntimeDirectory=)";
        if folder == Path::new("/run/tidegate") {
            notebook.note(subject, "its folder is not there while the service is stopped").advice =
                Some(advice.to_owned());
        } else {
            notebook.fail(subject, format!("the folder {} is not there", folder.display()), advice);
        }
    } else if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let found = format!("this user cannot make a socket in {}", folder.display());
        notebook.warn(subject, found, "give the folder to the gateway's user, or choose another path");
    } else {
        notebook.ok(subject, "free");
    }
}

fn open_to(subject: &str, listener: &ListenerSettings, notebook: &mut Notebook) {
    let Bind::Tcp(address) = &listener.bind else { return };
    if address.ip().is_loopback() {
        return;
    }
    if listener.anonymous {
        let found = "anybody who reaches this machine may connect (`anonymous = true`)";
        notebook.warn(
            subject,
            found,
            "give clients passwords (`tidegate passwd`) or certificates, and set `anonymous = false`",
        );
    } else if listener.tls.is_none() {
        notebook.note(subject, "passwords and messages travel in plain text; `tls` on the listener hides them");
    }
}
