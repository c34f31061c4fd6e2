//! From `tracing` into the queue: which lines are equal, and what they say.

use std::{
    fmt::{self, Debug, Write as _},
    hash::{BuildHasher as _, Hash as _, Hasher, RandomState},
    sync::Arc,
    time::SystemTime,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::{
    line::Line,
    queue::Shared,
    storms::{Kind, STATE, THINGS},
};

/// The layer that takes every event which the filter lets through.
pub(super) struct Log {
    shared: Arc<Shared>,
    /// Keyed, so that nobody can make two kinds one.
    hashes: RandomState,
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, hashes: RandomState::new() }
    }

    /// What the event is equal to. Whoever asks for more than `info` wants all of it.
    fn kind(&self, event: &Event<'_>) -> Option<Kind> {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return None;
        }
        let mut line = self.hashes.build_hasher();
        metadata.callsite().hash(&mut line);
        let mut fact = self.hashes.build_hasher();
        metadata.target().hash(&mut fact);
        let mut things = Things { line, fact };
        event.record(&mut things);
        let is_fact = metadata.fields().field(STATE).is_some();
        Some(Kind { id: things.line.finish(), fact: is_fact.then(|| things.fact.finish()) })
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.shared.take(self.kind(event), || Line::of(event, SystemTime::now()));
    }
}

/// Hashes the values of the fields that tell kinds apart.
struct Things<H> {
    line: H,
    fact: H,
}

impl<H: Hasher> Visit for Things<H> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !THINGS.contains(&field.name()) {
            return;
        }
        let hash = |hasher: &mut H| {
            field.name().hash(hasher);
            // Hashing cannot fail.
            let _ = write!(Into(hasher), "{value:?}");
        };
        hash(&mut self.line);
        // A fact is told of a thing, whatever the reason.
        if !["reason", "url"].contains(&field.name()) {
            hash(&mut self.fact);
        }
    }
}

struct Into<'a, H>(&'a mut H);

impl<H: Hasher> fmt::Write for Into<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;
    use crate::log::{output::Stderr, render::Form};

    /// Keeps the kinds of what it hears.
    struct Heard(Log, Arc<Mutex<Vec<Kind>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.1.lock().unwrap().extend(self.0.kind(event));
        }
    }

    fn kinds(say: impl FnOnce()) -> Vec<Kind> {
        let kinds = Arc::default();
        let log = Log::new(Shared::start(Stderr(Form::Prefixed)).unwrap());
        tracing::subscriber::with_default(Registry::default().with(Heard(log, Arc::clone(&kinds))), say);
        kinds.lock().unwrap().clone()
    }

    #[test]
    fn the_step_that_fails_tells_kinds_apart_and_the_words_of_an_error_do_not() {
        let kinds = kinds(|| {
            for (step, error) in [("CONNECT", "a"), ("DNS", "a"), ("DNS", "b")] {
                tracing::warn!(uplink = "cloud", reason = "timeout", step, error, "uplink cannot connect");
            }
        });
        let [connect, dns, again] = kinds[..] else { panic!("{kinds:?}") };
        assert_ne!(connect, dns, "another step is another errand");
        assert_eq!(dns, again);
    }
}
