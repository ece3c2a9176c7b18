//! See `mediasoup_exporter::fuzzing::web_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mediasoup_exporter::fuzzing::web_config(data));
