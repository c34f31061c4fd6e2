//! What one client of a listener may have.

use super::*;

const LISTENER: &str = "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n";

#[test]
fn wrong_limits_are_told_with_what_would_be_right() {
    let table = [
        ("max_subscriptions = 0", "max_subscriptions (l): 0: expected a whole number from 1 to 500000"),
        ("max_queued_messages = -1", "max_queued_messages (l): -1: expected a whole number, 0 or more"),
        (
            "max_queued_bytes = \"8M\"",
            "max_queued_bytes (l): \"8M\": has the unit `M`, which can mean two things: \
             write `MiB` (1024) or `MB` (1000)",
        ),
        (
            "queue_when_full = \"drop\"",
            "queue_when_full (l): \"drop\": expected \"reject\" or \"drop-oldest\" or \"drop-newest\"",
        ),
        ("max_publish_rate = 1.5", "max_publish_rate (l): 1.5: expected a whole number from 0 to 10000000"),
        (
            "max_keep_alive = 60",
            "max_keep_alive (l): 60: expected a duration with its unit, such as \"60s\" or \"60ms\"",
        ),
        (
            "max_keep_alive = \"90500ms\"",
            "max_keep_alive (l): \"90500ms\": expected whole seconds from \"1s\" to \"18h12m15s\", or \"0s\" for no limit",
        ),
    ];
    for (line, problem) in table {
        check(&format!("{LISTENER}{line}\n"), &[&format!("error: tidegate.toml:4: listener[0].{problem}")]);
    }
}

#[test]
fn limits_of_clients_are_taken_as_they_were_said() {
    let text = "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\nmax_subscriptions = 7\nmax_queued_messages = 8\n\
                max_queued_bytes = \"9KiB\"\nqueue_when_full = \"reject\"\nmax_publish_rate = 10\nmax_keep_alive = \"11s\"\n";
    let listener = load(text).broker.listeners.remove(0);
    assert_eq!((listener.max_subscriptions, listener.max_queued_messages, listener.max_queued_bytes), (7, 8, 9 << 10));
    assert_eq!((listener.queue_when_full, listener.max_publish_rate), (WhenFull::Reject, 10));
    assert_eq!(listener.max_keep_alive_s, 11);
}
