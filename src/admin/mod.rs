//! The admin room: the gateway over HTTP (health, metrics, figures), and the only room that knows HTTP.
//!
//! # What it answers
//!
//! | request | answer | token needed, where one is configured |
//! | --- | --- | --- |
//! | `GET /health/live`, `GET /health/ready` | 200 `{"reasons":[]}`, or 503 `{"reasons":[..]}` | no |
//! | `GET /metrics` | Prometheus text (0.0.4) | yes |
//! | `GET /` | the dashboard: a page without figures, and what it is made of (`/page/..`); see `page` | no |
//! | `GET /api/v1/events` | all that the dashboard shows, once a second, as server-sent events; see `events` | yes |
//! | `GET /api/v1/history?after=` | backlog and rates of every stream in the last hour; see `history` | yes |
//! | `GET /api/v1/status` | version, id, uptime, uplinks, store, listeners, clock | yes |
//! | `GET /api/v1/streams`, `GET /api/v1/streams/{name}` | the books, backlog, rates; also of streams that are not configured any more | yes |
//! | `POST /api/v1/streams/{name}/replay?since=&until=`, or `?stop=true` | the same; times are RFC 3339, or how long ago (`2h`) | yes |
//! | `POST /api/v1/streams/{name}/{pause,resume}`, `POST /api/v1/streams/{name}/purge?to=` | the stream as it is now, and how many messages it was about | yes |
//! | `POST /api/v1/reload` | what has changed, and what waits for a restart; 422 with all problems, and nothing has changed | yes |
//! | `GET /api/v1/streams/{name}/messages?from=&limit=&of=` | stored messages, page by page; see `messages` | yes |
//! | `POST /api/v1/streams/{name}/messages?again=` | lines of `export` become messages of the stream | yes |
//! | `GET /api/v1/dead?stream=&after=&limit=`, `GET /api/v1/dead/{id}` | dead letters, oldest first; one with its payload | yes |
//! | `POST /api/v1/dead/{id}/retry`, `DELETE /api/v1/dead/{id}`, `DELETE /api/v1/dead?stream=` or `?all=true` | how many it was about | yes |
//! | `GET /api/v1/clients?state=&after=&limit=`, `DELETE /api/v1/clients/{id}` | local clients; one disconnected (see `clients`) | yes |
//! | `POST /api/v1/publish?topic=&qos=&retain=` | the body becomes a message; 200 once it is accepted (see `publish`) | yes |
//! | `GET /api/v1/openapi.json` | all of this for programs (see `document`) | yes |
//!
//! Health stays open because those who ask (kubelet, load balancers, systemd units with curl) cannot be given a secret,
//! and the answer holds no figure of the plant. Prometheus can (`authorization.credentials_file`), so metrics need it.
//! What is wrong is answered with `{"error":{"code","message"}}`: `code` for programs, `message` for people.
//!
//! Paths are taken literally (no trailing slash, no second spelling), a query says only what `openapi.json` has for that request and says it
//! once (only health, whose answer restarts things, overlooks a query), a method that is not there is 405 with `Allow`, HEAD is GET without the body. An answer is JSON unless the table says otherwise,
//! never cached, never guessed at (`nosniff`), and never readable by pages of other sites (no CORS).
//!
//! # Bounds
//!
//! - [`MAX_CONNECTIONS`] connections. At the limit the one that has been idle longest makes room for the newcomer, so
//!   that ten thousand silent connections cannot keep a health check out; when all are busy the newcomer is closed.
//! - [`HEADER_TIMEOUT`] from the first moment of a connection (or the end of the last answer) to the end of the next
//!   request's headers, [`MAX_HEAD_BYTES`] bytes and [`MAX_HEADERS`] lines of them.
//! - [`ANSWER_TIMEOUT`] for the facts of one answer, [`MAX_GATHERING`] answers gathering facts at a time, on threads on
//!   which a slow disk holds up nobody else.
//! - Only `publish` and the import of messages read a body, within the bounds they say; any other request that comes with one is answered and then
//!   disconnected.
//! - Rates: one sample a second and stream, [`RATE_WINDOW`] of them.
//!
//! # Who is heard
//!
//! Whoever carries the token, where there is one, with a `Host` that no web page of another site can have, and for what changes
//! something such an `Origin` too; see `gate`. The right to use this room is the right to do everything in it: access rules are for MQTT clients.
//!
//! # Crash, stop, failure
//!
//! Nothing is stored here. A panic ends one connection. [`Admin::stop`] lets answers that are being made finish within
//! [`STOP_GRACE`]. [`Admin::ended`] tells when the room ended unasked, which must end the program.
//!
//! Architecture invariant: the room imports no other shore. Its facts come through [`Sources`], in the words of
//! [`crate::stats`].

mod alarms;
pub mod at_rest;
mod clients;
mod dead;
mod document;
mod events;
mod gate;
mod guests;
mod history;
mod latency;
mod messages;
mod metrics;
mod orders;
mod page;
mod publish;
mod rates;
mod reload;
mod routes;
mod server;
mod settings;
mod token;
mod views;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use settings::*;

use crate::{
    message::Message,
    stats::{
        ClientPage, ClientQuestion, DeadLetter, DeadStats, DownlinkStats, ListenerStats, Published, StoreStats,
        StreamStats, UplinkStats,
    },
};
pub use dead::DeadQuestion;
pub use messages::{IMPORT_BYTES_MAX, Messages, MessagesQuestion, PAGE_MESSAGES_MAX, Part, Taken};
pub use orders::{Answer, Order, Refused, Why};
pub use publish::{
    ALL_BODIES_BYTES, BODY_BYTES_MIN, BODY_TIMEOUT, CLIENT_ID as PUBLISHER_ID, MAX_BODY_BYTES, PUBLISH_TIMEOUT,
};
pub use rates::RATE_WINDOW;
pub use reload::{Changed, NotReloaded, Problem, Reloaded, Reloading};

/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 128;
/// Longest time in which a client may be silent or trickle the headers of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of request line and headers.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most header lines of a request.
pub const MAX_HEADERS: usize = 64;
/// Longest time that gathering the facts of one answer may take; after it the answer is 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most answers whose facts are gathered at the same time.
pub const MAX_GATHERING: usize = 4;
/// Longest time that [`Admin::stop`] waits for answers that are being made.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// Connections that the system may hold for us until they are accepted.
const ACCEPT_BACKLOG: u32 = 1024;

/// Where the facts come from. The app, which knows all rooms, implements it.
///
/// `not_live` and `not_ready` are asked on the async threads and must not block. The others may take a while (a lock,
/// a call to the file system): they are asked on threads of their own, at most [`MAX_GATHERING`] at a time.
pub trait Sources: Send + Sync + 'static {
    /// The gateway's id.
    fn gateway_id(&self) -> String;
    /// How long the gateway has been running.
    fn uptime(&self) -> Duration;
    /// Whether the system's clock has been set (`clock` of the status).
    fn clock_synced(&self) -> bool;
    /// The books of all configured streams, in configuration order, `to` filled in; then of those not configured any more.
    fn streams(&self) -> Vec<StreamStats>;
    /// Carries out what an operator asks for; answers once it is on disk. Dropping the answer does not undo it.
    fn operate(&self, order: Order) -> Answer<u64>;
    /// Dead letters.
    fn dead(&self, question: DeadQuestion) -> Answer<Vec<DeadLetter>>;
    /// A page of stored messages.
    fn messages(&self, question: MessagesQuestion) -> Answer<Messages>;
    /// Stores messages in a stream, in one commit; answers once it is on disk.
    fn import(&self, stream: String, messages: Vec<Message>, again: bool) -> Answer<Taken>;
    /// The figures of all dead letters. Does not block.
    fn dead_stats(&self) -> DeadStats;
    /// Publishes a message; answers once it is accepted. Dropping the answer does not call it back.
    fn publish(&self, message: Message) -> Answer<Published>;
    /// The largest payload that can be published, in bytes. Does not block.
    fn publish_max_bytes(&self) -> usize;
    /// Local clients.
    fn clients(&self, question: &ClientQuestion) -> ClientPage;
    /// Ends the connection of a client; answers once it has ended.
    fn disconnect(&self, client_id: String) -> Answer<()>;
    /// Has the configuration read again.
    fn reload(&self) -> Reloading {
        Box::pin(std::future::ready(Err(NotReloaded::NotNow("this gateway has no configuration to read again"))))
    }
    /// Keys of the configuration that have changed and wait for a restart.
    fn restart_required(&self) -> Vec<String> {
        Vec::new()
    }
    /// The store at a glance.
    fn store(&self) -> StoreStats;
    /// All uplinks, in configuration order.
    fn uplinks(&self) -> Vec<UplinkStats>;
    /// All downlinks, in configuration order.
    fn downlinks(&self) -> Vec<DownlinkStats> {
        Vec::new()
    }
    /// All listeners, in configuration order.
    fn listeners(&self) -> Vec<ListenerStats>;
    /// Why the gateway should get no traffic at the moment, one line each; empty when it should.
    ///
    /// An upstream that is away is no reason: taking messages while it is away is what the gateway is for.
    fn not_ready(&self) -> Vec<String>;
    /// Why the process should be killed and started again (a heartbeat that stopped), one line each; empty when healthy.
    fn not_live(&self) -> Vec<String>;
}

/// Why the room could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on. Trying again helps when something else holds the port.
    #[error("admin cannot listen on {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Everybody on the network could read the figures. A mistake in the configuration.
    #[error("admin listens on {0}, which is not loopback, and so needs a `token_file`")]
    TokenRequired(SocketAddr),
    /// The token file cannot be read.
    #[error("the admin token file {} cannot be read: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The first line of the token file cannot be a bearer token (RFC 6750, section 2.1).
    #[error("the first line of the admin token file {} {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The process metrics could not be set up.
    #[error("the admin metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The running room. Dropping it without [`Admin::stop`] stops it at once.
#[derive(Debug)]
pub struct Admin {
    address: Option<SocketAddr>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// Starts the room: when this returns, the port is bound and connections are taken. Call it within a tokio runtime.
///
/// `registry` holds the metrics of the other rooms. The streams' metrics and `process_*` are added here at every scrape
/// and never registered in it, so that a second start with the same registry (a reload) works.
/// With `bind = None` nothing listens, and the other functions still work.
pub fn start(
    settings: &Settings,
    sources: Arc<dyn Sources>,
    registry: prometheus::Registry,
) -> Result<Admin, StartError> {
    let stop = CancellationToken::new();
    let Some(asked) = settings.bind else {
        let stopped = stop.clone();
        let server = tokio::spawn(async move { stopped.cancelled().await });
        return Ok(Admin { address: None, stop, server });
    };
    if settings.token_file.is_none() && !asked.ip().is_loopback() {
        return Err(StartError::TokenRequired(asked));
    }
    let token = settings.token_file.as_deref().map(token::Token::read).transpose()?;
    let metrics = metrics::Metrics::new(registry, Arc::clone(&sources))?;
    let (listener, address) = listen(asked).map_err(|source| StartError::Bind { address: asked, source })?;
    let state = routes::State::new(sources, metrics, token, gate::Gate::new(address, &settings.hosts));
    tracing::info!(%address, token = settings.token_file.is_some(), "admin listens");
    let server = tokio::spawn(run(listener, state, stop.clone()));
    Ok(Admin { address: Some(address), stop, server })
}

/// Binds and listens at once, with `SO_REUSEADDR`, so that a restart does not wait for old connections to be forgotten.
fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(ACCEPT_BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// The server and the sampler: one task, so that the end of either is seen.
async fn run(listener: TcpListener, state: routes::State, stop: CancellationToken) {
    let (_until_the_end, stopping) = mpsc::sync_channel::<Infallible>(0);
    let (sampling, sampled) = oneshot::channel::<Infallible>();
    let its = state.clone();
    let thread = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
        let _sampling = sampling;
        sample(&its, &stopping);
    });
    if let Err(error) = thread {
        tracing::error!(%error, "no thread for the samples of the books");
        return;
    }
    tokio::select! {
        () = server::serve(listener, routes::router(state.clone()), server::Limits::default(), stop.clone()) => {}
        () = events::tell(state, stop) => {}
        _ended = sampled => {}
    }
}

/// Takes a sample of the books every second, for the rates and the history, until the other end of `stopping` is gone.
///
/// A thread of its own: readings may block, and an idle gateway wakes up once for it instead of once for the timer, once for the thread that
/// may block, and once for its result.
fn sample(state: &routes::State, stopping: &mpsc::Receiver<Infallible>) {
    loop {
        let gather = AssertUnwindSafe(|| (Instant::now(), state.sources().streams(), state.sources().uplinks()));
        // A reading that fails is one point less on the curve; whoever asks for figures gets the 503.
        if let Ok((now, streams, uplinks)) = panic::catch_unwind(gather) {
            state.record(now, &streams);
            state.history().record(now, &streams, &uplinks);
        }
        match stopping.recv_timeout(rates::SAMPLE_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(never) => match never {},
        }
    }
}

impl Admin {
    /// The address it really listens on (the port the system gave, where 0 was asked for); `None` with `bind = "off"`.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits until the room has ended. Before [`Admin::stop`] that is a fault, and must end the program. Cancel safe.
    pub async fn ended(&mut self) {
        // A panic of the task and its return mean the same to the caller: nobody answers any more.
        let _ = (&mut self.server).await;
    }

    /// Closes the port, lets answers that are being made finish (at most [`STOP_GRACE`]), and ends the room.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if !self.server.is_finished() {
            let _ = (&mut self.server).await;
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.server.abort();
    }
}
