//! Takeovers decided: gate by gate, sentence by sentence, and a million moves long.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // A test says what is wrong.

mod gates;
mod loss;
mod plan;
mod simulation;
mod support;
