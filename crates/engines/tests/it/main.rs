//! Tests of the engines against the real things they drive.

mod command;
mod control;
mod support;
