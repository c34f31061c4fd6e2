//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads.
