//! Takeovers decided: gate by gate, sentence by sentence, and a million moves long.

#![allow(clippy::unwrap_used, clippy::panic)] // A test says what is wrong by panicking.

mod gates;
mod loss;
mod plan;
mod support;
