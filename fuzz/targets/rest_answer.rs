#![no_main]
#![allow(dead_code)]

#[path = "../entries/requests.rs"]
mod entries;

use ::storage;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::rest_answer(bytes));
