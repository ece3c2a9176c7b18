//! See `mediasoup_exporter::fuzzing::view`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mediasoup_exporter::fuzzing::view(data));
