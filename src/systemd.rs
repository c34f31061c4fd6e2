//! What systemd is told: ready, stopping, status, watchdog.
