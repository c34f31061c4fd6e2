//! Clients that are there and say nothing: connected, each subscribed to a topic of its own, alive by pings alone.

use std::{
    io,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::timeout};

use crate::{
    publish,
    wire::{self, Version},
};

/// Connections that are opened at the same time.
const AT_ONCE: u32 = 100;
/// How long one may take to be connected and subscribed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Their keep alive is 60 s.
const PING_EVERY: Duration = Duration::from_secs(45);

/// What all of them do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `host:port`.
    pub to: String,
    /// Protocol version.
    pub version: Version,
    /// How many.
    pub clients: u32,
    /// `{}` becomes the number of the client; without one they subscribe to nothing.
    pub filter: Option<String>,
}

/// What became of them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    clients: usize,
    /// Seconds until all were connected and subscribed.
    connected_s: f64,
    /// Connections that the server had closed before the end.
    closed: usize,
}

/// Connects all, calls `ready`, and holds them until told to stop.
pub(crate) async fn run(plan: Plan, ready: impl FnOnce(), mut stop: watch::Receiver<bool>) -> io::Result<Report> {
    let started = Instant::now();
    let mut streams = Vec::new();
    let mut opening = JoinSet::new();
    for client in 1..=plan.clients {
        opening.spawn(timeout(CONNECT_TIMEOUT, connect(plan.clone(), client)));
        if client % AT_ONCE == 0 || client == plan.clients {
            for opened in std::mem::take(&mut opening).join_all().await {
                streams.push(opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??);
            }
        }
    }
    let connected_s = started.elapsed().as_secs_f64();
    ready();
    while timeout(PING_EVERY, stop.wait_for(|stop| *stop)).await.is_err() {
        let mut ping = Vec::new();
        wire::put_ping(&mut ping);
        for stream in &streams {
            // Who is gone is counted at the end.
            let _ = stream.try_write(&ping);
        }
    }
    let closed = streams.iter().filter(|stream| is_closed(stream)).count();
    Ok(Report { clients: streams.len(), connected_s, closed })
}

async fn connect(plan: Plan, client: u32) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(&plan.to).await?;
    stream.set_nodelay(true)?;
    let (mut out, mut inbox) = (Vec::new(), Vec::new());
    wire::put_connect(&mut out, plan.version, &format!("idle-{client}"), true, None);
    publish::greet(&stream, plan.version, &mut out, &mut inbox).await?;
    if let Some(filter) = &plan.filter {
        wire::put_subscribe(&mut out, plan.version, &filter.replace("{}", &client.to_string()), 1);
        publish::flush(&stream, &mut out)?;
        while !matches!(wire::frame(&inbox)?, Some(frame) if frame.kind() == wire::SUBACK) {
            stream.readable().await?;
            publish::read(&stream, &mut inbox)?;
        }
    }
    Ok(stream)
}

/// Answers to pings are there to be read; after them comes the end, where it has come.
fn is_closed(stream: &TcpStream) -> bool {
    let mut answers = [0; 512];
    loop {
        match stream.try_read(&mut answers) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
