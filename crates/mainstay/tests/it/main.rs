//! Drives the real binary, as a shell or a script would.

mod command_line;
mod configuration;
mod rig;
