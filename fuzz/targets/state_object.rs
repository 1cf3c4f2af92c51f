#![no_main]
#![allow(dead_code)]

#[path = "../entries/state.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::state_object(bytes));
