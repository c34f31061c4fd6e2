//! Settings of Mosquitto that are not carried over as such, and what to say of each.

use super::notes::Became::{self, Differs, Lost, NotNeeded};

/// What is said of settings that the rest of the importer does not look at.
pub(super) const SAID: &[(&str, Became, &str)] = &[
    ("allow_duplicate_messages", NotNeeded, "every subscription is served once"),
    ("auto_id_prefix", Differs, "client ids that Tidegate makes have a form of their own"),
    ("autosave_interval", NotNeeded, "every acknowledged message is on disk at once"),
    ("autosave_on_changes", NotNeeded, "every acknowledged message is on disk at once"),
    ("check_retain_source", NotNeeded, "rules are asked for retained messages too"),
    ("connection_messages", NotNeeded, "connections are always logged"),
    ("include_dir", NotNeeded, "its files were read; Tidegate has `conf.d/` beside its file for that"),
    ("log_dest", Differs, "the log goes to standard error, under systemd into the journal"),
    ("log_facility", NotNeeded, "the log goes to standard error, under systemd into the journal"),
    ("log_timestamp", NotNeeded, "lines have their time"),
    ("log_timestamp_format", NotNeeded, "lines have their time"),
    ("max_inflight_bytes", NotNeeded, "`max_queued_bytes` bounds what waits for a client"),
    ("memory_limit", NotNeeded, "memory does not grow with what is stored; every queue has a bound"),
    ("persistence", NotNeeded, "sessions, queues and retained messages are always on disk"),
    ("persistence_file", NotNeeded, "the database has a name of its own"),
    (
        "persistence_location",
        Differs,
        "the data folder is `[gateway] data_dir`; what Mosquitto has stored is not taken over",
    ),
    ("pid_file", NotNeeded, "systemd knows the process"),
    ("queue_qos0_messages", Differs, "QoS 0 messages are never queued for a client that is away"),
    ("retry_interval", NotNeeded, "nothing is sent again within a connection, as the standard has it"),
    ("set_tcp_nodelay", NotNeeded, "it always is"),
    ("store_clean_interval", NotNeeded, "room is given back at once"),
    ("sys_interval", Differs, "`$SYS` is told every 10 s while somebody is subscribed to it"),
    ("upgrade_outgoing_qos", Differs, "messages go out at the lower QoS of publication and subscription"),
    ("user", NotNeeded, "the systemd unit runs the gateway as a user of its own"),
    ("websockets_headers_size", NotNeeded, "headers have a fixed bound"),
    ("websockets_log_level", NotNeeded, "see `[log]`"),
    // Listeners.
    ("bind_interface", Lost, "bind the listener to an address of that interface"),
    ("capath", Lost, "put the certificates of that folder into one file and name it as `client_ca` in `tls`"),
    ("ciphers", Differs, "TLS 1.2 and 1.3 with modern ciphers only; there is nothing to choose"),
    ("ciphers_tls1.3", Differs, "TLS 1.2 and 1.3 with modern ciphers only; there is nothing to choose"),
    ("dhparamfile", NotNeeded, "elliptic curves are used"),
    ("tls_version", Differs, "TLS 1.2 and 1.3 are spoken, nothing older"),
    ("tls_engine", Lost, "keys are read from files only"),
    ("tls_engine_kpass_sha1", Lost, "keys are read from files only"),
    ("tls_keyform", Lost, "keys are read from PEM files only"),
    ("crlfile", Lost, "revoked certificates are NOT refused; sign the others by a new authority"),
    ("http_dir", Lost, "no files are served over HTTP; use a web server"),
    ("max_topic_alias", NotNeeded, "aliases are bounded by themselves"),
    ("max_qos", Lost, "listeners take every QoS"),
    (
        "mount_point",
        Lost,
        "topics of a listener get no prefix; let clients publish with it, and keep them to it by rules",
    ),
    ("use_username_as_clientid", Lost, "client ids are what clients say; keep users apart by rules with %u"),
    ("clientid_prefixes", Lost, "client ids are NOT restricted; give clients passwords, and rules with %u"),
    ("allow_zero_length_clientid", Differs, "clients without an id are always given one"),
    ("retain_available", Lost, "retained messages are always kept"),
    (
        "persistent_client_expiration",
        Lost,
        "sessions of MQTT 3.1.1 clients do not expire by age; the longest away go first when there are too many",
    ),
    ("psk_file", Lost, "there are no pre-shared keys; use certificates or passwords over TLS"),
    ("psk_hint", Lost, "there are no pre-shared keys; use certificates or passwords over TLS"),
    // Plugins.
    ("plugin", Lost, "there are no plugins; users and rules are in files"),
    ("auth_plugin", Lost, "there are no plugins; users and rules are in files"),
    ("auth_plugin_deny_special_chars", NotNeeded, "names with wildcards in them never widen a rule"),
    // Bridges.
    ("bridge_attempt_unsubscribe", NotNeeded, "nothing is unsubscribed"),
    ("bridge_bind_address", Lost, "the system chooses the way; use its routing"),
    ("bridge_ciphers", Differs, "TLS 1.2 and 1.3 with modern ciphers only; there is nothing to choose"),
    ("bridge_max_packet_size", NotNeeded, "the upstream's limit is asked for; what is larger becomes a dead letter"),
    ("bridge_max_topic_alias", NotNeeded, "uplinks use no topic aliases"),
    ("bridge_outgoing_retain", Lost, "the retain flag is kept on the way upstream"),
    ("bridge_reload_type", NotNeeded, "an uplink is made anew where it changed"),
    ("bridge_require_ocsp", Lost, "OCSP is not asked for"),
    ("bridge_tls_version", Differs, "TLS 1.2 and 1.3 are spoken, nothing older"),
    ("idle_timeout", Differs, "an uplink is always connected; `start_type lazy` is not known"),
    ("local_clientid", NotNeeded, "uplinks are no clients of the broker"),
    ("local_cleansession", NotNeeded, "uplinks are no clients of the broker"),
    ("local_password", NotNeeded, "uplinks are no clients of the broker"),
    ("local_username", NotNeeded, "uplinks are no clients of the broker: rules do not apply to them"),
    (
        "notification_topic",
        Lost,
        "the state of an uplink is in `$SYS/broker/connection/NAME/state` here and in the metrics, not upstream",
    ),
    ("notifications_local_only", NotNeeded, "the state of an uplink is told here only"),
    ("start_type", Differs, "an uplink is always connected, from the start on"),
    ("threshold", Differs, "an uplink is always connected"),
    ("try_private", NotNeeded, "what came down is never sent up again"),
    (
        "cleansession",
        NotNeeded,
        "what is not acknowledged is on disk here; sessions upstream are kept where there are downlinks",
    ),
    (
        "clean_session",
        NotNeeded,
        "what is not acknowledged is on disk here; sessions upstream are kept where there are downlinks",
    ),
];

/// What is said of a setting of no section; `None`: the importer knows it, or nobody does.
pub(super) fn said(key: &str) -> Option<(Became, &'static str)> {
    if key.starts_with("auth_opt_") || key.starts_with("plugin_opt_") {
        return Some((Lost, "belongs to a plugin, and there are none"));
    }
    SAID.iter().find(|(known, ..)| *known == key).map(|(_, became, text)| (*became, *text))
}
