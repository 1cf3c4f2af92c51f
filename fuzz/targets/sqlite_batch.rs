#![no_main]
#![allow(dead_code)]

#[path = "../entries/engines.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::sqlite_batch(bytes));
