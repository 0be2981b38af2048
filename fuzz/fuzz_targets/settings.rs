#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| settee::fuzzing::settings(data));
