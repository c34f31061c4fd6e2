//! Opening: lock the directory, recover and migrate the database, load the books, start the threads.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, mpsc::sync_channel},
    thread,
    time::Duration,
};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{Semaphore, watch};

use super::{
    alarms::{self, Alarms},
    api::{Settings, StreamSettings},
    backup::{self, BACKUP_ID},
    books::Books,
    clock::{self, Boots, Now},
    dead,
    disk::DiskWait,
    doors::{Door, Doors},
    failure::Failure,
    handle::{Handle, OpenError, Store},
    lock::DirectoryLock,
    log,
    metrics::Metrics,
    queue::{self, Counts, Ledger, QueueBooks},
    reader, recovery,
    schema::{self, Role, StreamSql},
    sessions::{QueueLimits, SessionId, is_reserved},
    shared::{ASKED_PLACES, CONTROLS_MAX, Glance, QUEUE_BYTES_MAX, QUEUE_PLACES, QueueDoor, READS_MAX, Shared, State},
    writer,
};
use crate::stats::DeadStats;

/// Name of the database in the data directory.
pub(super) const DATABASE: &str = "tidegate.db";

/// Name of the lock in the data directory.
pub(super) const LOCK: &str = "tidegate.lock";

/// Waits between the tries to open what cannot be opened, before it is given up, and what cannot be read is taken for damage.
const OPENING_WAITS: [Duration; 3] = {
    let second = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
    [second, second.saturating_mul(2), second.saturating_mul(4)]
};

/// What was found in, or made of, a sound database.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) connection: Connection,
    pub(super) boots: Boots,
    /// The current boot is new or corrected. The writer's first transaction writes it: a full disk keeps nothing from opening.
    pub(super) boot_unsaved: bool,
    /// Durable id and books of each configured stream, in configuration order; then of the others.
    pub(super) streams: Vec<(i64, Books)>,
    /// Settings of the others.
    pub(super) others: Vec<StreamSettings>,
    pub(super) sessions: LoadedSessions,
    pub(super) dead: DeadStats,
    pub(super) alarms: Alarms,
    /// The last run ended in order.
    pub(super) was_clean: bool,
}

/// What was found of sessions, their queues and retained messages.
#[derive(Debug)]
pub(super) struct LoadedSessions {
    /// All queues; without a session where that has ended and rows are left to be deleted.
    pub(super) queues: Vec<(SessionId, QueueBooks, Option<LoadedSession>)>,
    pub(super) ledger: Ledger,
}

/// What the writer needs of a session.
#[derive(Debug)]
pub(super) struct LoadedSession {
    pub(super) client_id: ByteString,
    pub(super) limits: QueueLimits,
}

/// Opens the store: locks the directory, opens or makes the database, migrates, recovers, starts the threads.
///
/// `streams` in configuration order; the [`StreamId`](super::StreamId)s are the indexes into it. Blocks; call it before the runtime is busy.
pub fn open(
    settings: &Settings,
    streams: &[StreamSettings],
    registry: &prometheus::Registry,
) -> Result<(Store, Handle), OpenError> {
    if let Some(twice) = streams.iter().enumerate().find(|(at, s)| streams[..*at].iter().any(|t| t.name == s.name)) {
        return Err(OpenError::TwoStreams(twice.1.name.clone()));
    }
    make_directory(&settings.data_dir)?;
    let lock = DirectoryLock::take(&settings.data_dir.join(LOCK))?;
    let path = settings.data_dir.join(DATABASE);
    let had = lock.had_database();
    let loaded =
        patiently(|known| recovery::sound(&settings.data_dir, had, known, || load(&path, settings, streams, &[])));
    let loaded = loaded.map_err(|error| error.into_open(path))?;
    lock.has_database();
    start(settings, streams, lock, loaded, Metrics::register(registry)?)
}

/// Tries again what may pass, before what cannot be read is taken for damage, and what cannot be written ends the start.
fn patiently<T>(open: impl Fn(Option<String>) -> Result<T, LoadError>) -> Result<T, LoadError> {
    for wait in OPENING_WAITS {
        match open(None) {
            Err(LoadError::Unreadable(cause) | LoadError::Sqlite { cause, .. }) => {
                tracing::warn!(error = cause, "the database cannot be opened at this moment, it is tried again");
                thread::sleep(wait);
            }
            other => return other,
        }
    }
    match open(None) {
        Err(LoadError::Unreadable(cause)) => open(Some(cause)),
        other => other,
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), OpenError> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    // A new folder survives a power cut only once the one above it is synced; SQLite sees to what is in it.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| {
        missing.iter().try_for_each(|made| {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
        })
    });
    made.map_err(|source| OpenError::Directory { step: "make the data directory", path: path.to_owned(), source })
}

/// Opens the database and reads the structures that everything else hangs on. Fails with the step that failed.
///
/// `ids`: the durable ids by which this process knows the streams already, in the order of `streams`; one that is lost is made anew under its own.
pub(super) fn load(
    path: &Path,
    settings: &Settings,
    streams: &[StreamSettings],
    ids: &[i64],
) -> Result<Loaded, LoadError> {
    let at = |step: &'static str| move |error: rusqlite::Error| LoadError::from_sqlite(step, error);
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map_err(|source| OpenError::Directory { step: "make", path: path.to_owned(), source })?;
    backup::set_strange_log_aside(&settings.data_dir)?;
    refuse_strangers(path)?;
    log::make_durable(path, settings.durability)?;
    let connection = schema::connect(path, Role::Writer, settings.durability).map_err(at("open"))?;
    schema::migrate(&connection).map_err(at("migrate"))?;
    log::forget_unsynced(&connection, path, settings.durability);
    // A version that is new must be in the file itself: a newer log beside an old file confuses older programs.
    let transaction = connection.unchecked_transaction().map_err(at("begin in"))?;
    if backup::is_backup(&transaction).map_err(at("look at"))? {
        backup::begin_anew(&transaction).map_err(LoadError::from_failure("restore"))?;
    }
    let (known_boots, boot_unsaved) = this_start(&transaction).map_err(at("read the starts in"))?;
    let known = schema::load_streams(&transaction).map_err(LoadError::from_failure("read the streams of"))?;
    let mut loaded = Vec::with_capacity(streams.len());
    for stream in &known {
        // Also for those that are not configured any more: damage is found now, not when they come back.
        let mut books = stream.books.clone();
        let sql = StreamSql::new(stream.id);
        sql.catch_up(&transaction, &mut books).map_err(LoadError::from_failure("read the rows of"))?;
        check_head(&transaction, &sql, &books).map_err(LoadError::from_failure("read the rows of"))?;
        if books.force_balance() {
            tracing::error!(
                stream = stream.name,
                accepted = books.accepted,
                "the books did not balance; `accepted` was set anew"
            );
        }
        loaded.push((stream.name.clone(), stream.id, books));
    }
    let mut found = Vec::with_capacity(streams.len());
    for (place, settings) in streams.iter().enumerate() {
        if let Some((_, id, books)) = loaded.iter().find(|(name, ..)| *name == settings.name) {
            found.push((*id, books.clone()));
        } else {
            let own = ids.get(place).copied().filter(|id| known.iter().all(|stream| stream.id != *id));
            let id = schema::create_stream(&transaction, own, &settings.name).map_err(at("add a stream to"))?;
            let made = schema::load_streams(&transaction).map_err(LoadError::from_failure("read the streams of"))?;
            let books = made.into_iter().find(|stream| stream.id == id).map(|stream| stream.books);
            found.push((id, books.unwrap_or_default()));
        }
    }
    let others = not_configured(loaded, streams, &mut found);
    let sessions = load_sessions(&transaction).map_err(LoadError::from_failure("read the sessions of"))?;
    let dead = dead::load(&transaction).map_err(LoadError::from_failure("read the dead letters of"))?;
    let quarantine = settings.data_dir.join(recovery::QUARANTINE);
    let alarms = alarms::load(&transaction, &quarantine).map_err(LoadError::from_failure("read the alarms of"))?;
    let was_clean = alarms::ended_in_order(&transaction).map_err(LoadError::from_failure("read the last stop of"))?;
    transaction.commit().map_err(at("commit to"))?;
    check_free_pages(&connection).map_err(LoadError::from_failure("count the pages of"))?;
    let boots = known_boots;
    Ok(Loaded { connection, boots, boot_unsaved, streams: found, others, sessions, dead, alarms, was_clean })
}

/// Adds the streams that are not configured any more to what was found: they take nothing and go nowhere, but their books are shown, and they
/// can be purged.
fn not_configured(
    loaded: Vec<(String, i64, Books)>,
    configured: &[StreamSettings],
    found: &mut Vec<(i64, Books)>,
) -> Vec<StreamSettings> {
    let mut others = Vec::new();
    for (name, id, books) in loaded {
        if configured.iter().any(|settings| settings.name == name) {
            continue;
        }
        let backlog = books.backlog_messages();
        if backlog > 0 {
            tracing::warn!(
                stream = name,
                backlog,
                "a stream that is not configured has messages; they stay until they are purged"
            );
        }
        found.push((id, books));
        others.push(StreamSettings::not_configured(&name));
    }
    others
}

/// Free pages beyond all pages would be handed out without end.
fn check_free_pages(connection: &Connection) -> Result<(), Failure> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    if !(0..=all).contains(&free) {
        return Err(Failure::Damaged(format!("{free} of {all} pages are said to be free")));
    }
    Ok(())
}

/// Reads the books of all queues and the first and last row of each.
fn load_sessions(connection: &Connection) -> Result<LoadedSessions, Failure> {
    let mut sessions = HashMap::new();
    let mut statement = connection.prepare("SELECT id, client_id, max_messages, max_bytes, when_full FROM session")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let client_id = ByteString::from(row.get::<_, String>(1)?);
        sessions.insert(SessionId(row.get(0)?), LoadedSession { client_id, limits: queue::limits_of(row, 2) });
    }
    let ledger = queue::load_ledger(connection)?;
    let mut queues = Vec::with_capacity(sessions.len());
    for (id, mut books) in queue::load_queues(connection)? {
        let session = sessions.remove(&id);
        if session.is_some() {
            queue::catch_up(connection, id, &mut books)?;
            if books.counts.force_balance() {
                tracing::error!(session = id.0, ?books, "the books of a queue did not balance; `queued` was set anew");
            }
        } else if books.counts != Counts::default() {
            return Err(Failure::Damaged(format!("the session of the queue {} is missing", id.0)));
        }
        queues.push((id, books, session));
    }
    if let Some(id) = sessions.keys().next() {
        return Err(Failure::Damaged(format!("the queue of the session {} is missing", id.0)));
    }
    Ok(LoadedSessions { queues, ledger })
}

/// What is not ours, or newer than us, is left as it is.
fn refuse_strangers(path: &Path) -> Result<(), LoadError> {
    let (application, version) = schema::identity(path).map_err(|error| LoadError::from_sqlite("open", error))?;
    let path = path.to_owned();
    match (application, version) {
        (0, 0) => Ok(()),
        (schema::APPLICATION_ID | BACKUP_ID, found) if found > schema::VERSION => {
            Err(OpenError::Newer { path, found, known: schema::VERSION }.into())
        }
        (schema::APPLICATION_ID | BACKUP_ID, _) => Ok(()),
        (found, _) => Err(OpenError::Foreign { path, found }.into()),
    }
}

/// The head must be where the books say, and the books must balance.
fn check_head(connection: &Connection, sql: &StreamSql, books: &Books) -> Result<(), Failure> {
    if !books.make_sense() {
        return Err(Failure::Damaged(format!("the books make no sense: {books:?}")));
    }
    if books.backlog_messages() > 0 {
        let head = (books.head.cast_signed(), 1);
        let seq: i64 = connection.query_row(&sql.walk, head, |row| row.get(0)).optional()?.unwrap_or(0);
        if seq.cast_unsigned() != books.head {
            return Err(Failure::Damaged(format!("the oldest message should be {}, but is {seq}", books.head)));
        }
    }
    Ok(())
}

/// The boots with the current one last, and whether that is to be written.
pub(super) fn this_start(connection: &Connection) -> Result<(Boots, bool), rusqlite::Error> {
    let mut boots = schema::load_boots(connection)?;
    let kernel_id = clock::kernel_boot_id();
    let known = boots.iter().position(|boot| boot.kernel_id == kernel_id);
    let now = Now::read();
    let last = boots.iter().map(|boot| boot.id).max().unwrap_or(0);
    let current = match known {
        Some(at) => boots.remove(at),
        None => clock::this_boot(last + 1, kernel_id, now),
    };
    boots.push(current);
    let mut boots = Boots::new(boots);
    let correction = boots.correction(now);
    let unsaved = known.is_none() || correction.is_some();
    if let Some(corrected) = correction {
        boots.correct(corrected);
    }
    Ok((boots, unsaved))
}

fn start(
    settings: &Settings,
    configured: &[StreamSettings],
    lock: DirectoryLock,
    loaded: Loaded,
    metrics: Metrics,
) -> Result<(Store, Handle), OpenError> {
    let path = settings.data_dir.join(DATABASE);
    let Loaded { boots, streams: found, others, sessions, dead, alarms, was_clean, .. } = &loaded;
    let streams: Vec<StreamSettings> = configured.iter().chain(others).cloned().collect();
    let reading = schema::connect(&path, Role::Reader, settings.durability).map_err(|error| OpenError::Database {
        step: "open for reading",
        path,
        cause: error.to_string(),
    })?;
    let (queue, works) = sync_channel(QUEUE_PLACES);
    let (queries, questions) = sync_channel(ASKED_PLACES);
    let is_configured = (0..).map(|at| at < configured.len());
    let door = |(((id, books), settings), is): ((&(i64, Books), &StreamSettings), bool)| {
        Arc::new(Door::new(*id, books, settings, is))
    };
    let doors = found.iter().zip(&streams).zip(is_configured).map(door).collect();
    let (totals, queues) = queue_doors(sessions);
    metrics.queues.show(&totals);
    metrics.alarms.show(alarms);
    metrics.dead.show(dead);
    let shared = Arc::new(Shared {
        queue,
        queries,
        bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
        controls: Arc::new(Semaphore::new(CONTROLS_MAX)),
        reads: Arc::new(Semaphore::new(READS_MAX)),
        doors: Doors::new(doors, configured.len()),
        queues: RwLock::new(queues),
        queue_totals: Mutex::new(totals),
        dead: Mutex::new(*dead),
        boots: RwLock::new(boots.clone()),
        glance: Mutex::new(Glance { alarms: *alarms, ..Glance::default() }),
        state: watch::Sender::new(State::Open),
        room: watch::Sender::new(0),
        heartbeat: Arc::default(),
        disk: DiskWait::new(),
        salvages: watch::Sender::new(0),
        #[cfg(test)]
        fault: Mutex::default(),
    });
    let reader = reader::Start {
        connection: reading,
        queries: questions,
        shared: Arc::clone(&shared),
        metrics: metrics.alarms.clone(),
        check: !was_clean,
    };
    let writer = writer::Start {
        loaded,
        queue: works,
        shared: Arc::clone(&shared),
        metrics,
        settings: settings.clone(),
        streams,
    };
    let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
    let reader = spawn("store-reader").spawn(move || reader::run(reader)).map_err(OpenError::Threads)?;
    let writer = spawn("store-writer").spawn(move || writer::run(writer)).map_err(OpenError::Threads)?;
    let handle = Handle { shared: Arc::clone(&shared) };
    Ok((Store { shared, writer: Some(writer), reader: Some(reader), _lock: lock }, handle))
}

/// The sum of all queues of clients, and what is published of each queue.
fn queue_doors(sessions: &LoadedSessions) -> (Counts, HashMap<SessionId, Arc<QueueDoor>>) {
    let mut totals = sessions.ledger.ended;
    let mut queues = HashMap::with_capacity(sessions.queues.len());
    for (id, books, session) in &sessions.queues {
        if !session.as_ref().is_some_and(|session| is_reserved(&session.client_id)) {
            totals.add(books.counts);
        }
        if let Some(session) = session {
            queues.insert(*id, Arc::new(QueueDoor::new(*books, session.limits)));
        }
    }
    (totals, queues)
}

/// Why a database could not be loaded.
#[derive(Debug)]
pub(super) enum LoadError {
    /// It is damaged: to be salvaged.
    Damaged(String),
    /// It could not be read, which may pass.
    Unreadable(String),
    /// It is not to be touched, or trying again may help.
    Open(OpenError),
    /// SQLite failed for another reason than damage.
    Sqlite { step: &'static str, cause: String },
}

impl LoadError {
    fn from_sqlite(step: &'static str, error: rusqlite::Error) -> Self {
        Self::from_failure(step)(Failure::from(error))
    }

    pub(super) fn from_failure(step: &'static str) -> impl FnOnce(Failure) -> Self {
        move |failure| match failure {
            Failure::Damaged(cause) => Self::Damaged(format!("cannot {step} it: {cause}")),
            Failure::Unreadable(cause) => Self::Unreadable(format!("cannot {step} it: {cause}")),
            failure @ (Failure::Full(_) | Failure::Trouble(_) | Failure::Fatal(_)) => {
                Self::Sqlite { step, cause: failure.to_string() }
            }
        }
    }

    /// Whether the database is not ours any more: nothing of what is known of it holds.
    pub(super) fn is_strange(&self) -> bool {
        matches!(self, Self::Open(OpenError::Newer { .. } | OpenError::Foreign { .. }))
    }

    /// The error for the operator.
    pub(super) fn into_open(self, path: PathBuf) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Damaged(cause) => OpenError::Database { step: "repair", path, cause },
            Self::Unreadable(cause) => OpenError::Database { step: "read", path, cause },
            Self::Sqlite { step, cause } => OpenError::Database { step, path, cause },
        }
    }
}

impl From<OpenError> for LoadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
