//! `meshos_core::testing::fuzz::image` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::image(bytes));
