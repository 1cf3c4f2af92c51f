#![no_main]
#![allow(dead_code)]

#[path = "../entries/repository.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::lock(bytes));
