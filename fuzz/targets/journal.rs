#![no_main]
#![allow(dead_code)]

#[path = "../entries/operations.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::journal(bytes));
