//! Load generator and verifier for the interop tests and the benchmark: plain MQTT to and from any broker.
//!
//! `loadgen publish` plays sensors and writes down what was acknowledged; `loadgen verify` subscribes and says what was
//! lost, out of order or repeated; `loadgen idle` is connected and says nothing. All print one JSON object at the end and take orders, one a line, on standard input:
//! `stop` (publish, idle), `expect FILE`, `count N`, `status` (verify).

mod books;
mod histogram;
mod idle;
mod publish;
mod sink;
mod verify;
mod wire;

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Plays sensors, or checks what arrives.
#[derive(Debug, Parser)]
enum Command {
    /// Plays sensors.
    Publish(PublishArgs),
    /// Subscribes and keeps the books.
    Verify(VerifyArgs),
    /// Plays an upstream that is never the limit, and says how fast the messages came.
    Sink(SinkArgs),
    /// Plays clients that are connected and say nothing; prints `ready`, and the result after `stop`.
    Idle(IdleArgs),
}

#[derive(Debug, clap::Args)]
struct PublishArgs {
    /// Broker, host:port
    #[arg(long)]
    to: String,
    /// Number of sensors, each a connection
    #[arg(long, default_value_t = 1)]
    sensors: u32,
    /// Number of the first sensor
    #[arg(long, default_value_t = 1)]
    first_sensor: u32,
    /// Messages per sensor; without it, until `stop`
    #[arg(long)]
    count: Option<u64>,
    /// Sequence number of the first message
    #[arg(long, default_value_t = 1)]
    first_seq: u64,
    /// Messages a second, all sensors together
    #[arg(long)]
    rate: Option<f64>,
    /// Payload bytes (at least 24)
    #[arg(long, default_value_t = 128)]
    size: usize,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// 4 (MQTT 3.1.1) or 5
    #[arg(long, default_value_t = 4)]
    mqtt: u8,
    /// Most unacknowledged messages per sensor
    #[arg(long, default_value_t = 1000)]
    window: u16,
    /// Topic; {} becomes the number of the sensor
    #[arg(long, default_value = "sensors/{}/data")]
    topic: String,
    #[arg(long, default_value = "sensor-")]
    client_prefix: String,
    #[arg(long, requires = "password")]
    user: Option<String>,
    #[arg(long)]
    password: Option<String>,
    /// Keep the session across reconnects (always with QoS 2)
    #[arg(long)]
    keep_session: bool,
    /// Seconds that acknowledgements may take after `stop`
    #[arg(long, default_value_t = 60.0)]
    grace: f64,
    /// Where to write what was acknowledged: lines `sensor first last`
    #[arg(long)]
    journal: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Broker, host:port
    #[arg(long)]
    from: String,
    #[arg(long, default_value = "#")]
    filter: String,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// 4 (MQTT 3.1.1) or 5
    #[arg(long, default_value_t = 5)]
    mqtt: u8,
    #[arg(long, default_value = "verifier")]
    client_id: String,
    #[arg(long, requires = "password")]
    user: Option<String>,
    #[arg(long)]
    password: Option<String>,
    /// Keep the session across reconnects
    #[arg(long)]
    keep_session: bool,
    /// Seconds without any arrival after which the rest counts as lost
    #[arg(long, default_value_t = 20.0)]
    idle: f64,
    /// Seconds to listen for repetitions when all is there
    #[arg(long, default_value_t = 0.3)]
    linger: f64,
}

#[derive(Debug, clap::Args)]
struct SinkArgs {
    /// Where to listen
    #[arg(long)]
    listen: std::net::SocketAddr,
    /// Messages to take
    #[arg(long)]
    count: u64,
}

#[derive(Debug, clap::Args)]
struct IdleArgs {
    /// Broker, host:port
    #[arg(long)]
    to: String,
    /// Number of clients
    #[arg(long)]
    clients: u32,
    /// 4 (MQTT 3.1.1) or 5
    #[arg(long, default_value_t = 4)]
    mqtt: u8,
    /// What each subscribes to; {} becomes its number
    #[arg(long)]
    filter: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Publish(args) => runtime.block_on(publish(args)),
        Command::Verify(args) => runtime.block_on(verify(args)),
        Command::Sink(args) => runtime.block_on(sink(&args)),
        Command::Idle(args) => runtime.block_on(idle(args)),
    }
}

fn version(number: u8) -> anyhow::Result<wire::Version> {
    match number {
        4 => Ok(wire::Version::V311),
        5 => Ok(wire::Version::V5),
        _ => anyhow::bail!("--mqtt is 4 or 5"),
    }
}

#[allow(clippy::print_stdout, reason = "the result")]
async fn publish(args: PublishArgs) -> anyhow::Result<()> {
    let plan = publish::Plan {
        to: args.to,
        version: version(args.mqtt)?,
        topic: args.topic,
        client_prefix: args.client_prefix,
        login: args.user.zip(args.password),
        qos: args.qos,
        size: args.size,
        window: args.window.max(1),
        count: args.count,
        rate: args.rate.map(|rate| rate / f64::from(args.sensors)),
        first_seq: args.first_seq,
        keep_session: args.keep_session || args.qos == 2,
        grace: Duration::from_secs_f64(args.grace),
    };
    let stopped = on_stop();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for sensor in args.first_sensor..args.first_sensor + args.sensors {
        tasks.spawn(publish::run(plan.clone(), sensor, stopped.clone()));
    }
    let sensors = tasks.join_all().await;
    let elapsed = started.elapsed();
    if let Some(path) = &args.journal {
        let mut journal = String::new();
        for sensor in &sensors {
            for (first, last) in sensor.acked.ranges() {
                let _ = writeln!(journal, "{} {first} {last}", sensor.sensor);
            }
        }
        fs::write(path, journal).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{}", serde_json::to_string(&publish::Report::new(&sensors, elapsed))?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the result")]
async fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let plan = verify::Plan {
        from: args.from,
        version: version(args.mqtt)?,
        filter: args.filter,
        qos: args.qos,
        client_id: args.client_id,
        login: args.user.zip(args.password),
        keep_session: args.keep_session,
        idle: Duration::from_secs_f64(args.idle),
        linger: Duration::from_secs_f64(args.linger),
    };
    let (orders, received) = mpsc::channel(16);
    on_lines(move |line| {
        if let Some(order) = order(line) {
            let _ = orders.blocking_send(order);
        }
    });
    println!("{}", serde_json::to_string(&verify::run(plan, received).await)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the result")]
async fn sink(args: &SinkArgs) -> anyhow::Result<()> {
    let report = sink::run(args.listen, args.count).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the result")]
async fn idle(args: IdleArgs) -> anyhow::Result<()> {
    let plan = idle::Plan { to: args.to, version: version(args.mqtt)?, clients: args.clients, filter: args.filter };
    let report = idle::run(plan, || println!("ready"), on_stop()).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn order(line: &str) -> Option<verify::Order> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "expect" => {
            let journal = fs::read_to_string(rest).ok().and_then(|text| books::Acknowledged::parse(&text));
            // A journal that cannot be read must not look like nothing to expect.
            Some(journal.map_or(verify::Order::Count(u64::MAX), verify::Order::Expect))
        }
        "count" => rest.parse().ok().map(verify::Order::Count),
        "status" => Some(verify::Order::Status),
        _ => None,
    }
}

/// Becomes true with the order to stop.
fn on_stop() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    on_lines(move |line| {
        if line == "stop" {
            stop.send_replace(true);
        }
    });
    stopped
}

/// Calls back for every line of standard input, on a thread of its own: the process does not wait for it at the end.
fn on_lines(mut obey: impl FnMut(&str) + Send + 'static) {
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            obey(line.trim());
        }
    });
}
