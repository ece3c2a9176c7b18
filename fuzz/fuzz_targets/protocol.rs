//! See `mediasoup_exporter::fuzzing::protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mediasoup_exporter::fuzzing::protocol(data));
