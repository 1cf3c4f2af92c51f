//! When an operation is due: cron syntax, a time zone, and a jitter that stays the same for a host.
