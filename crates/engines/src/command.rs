//! Runs the commands that a configuration names.
