//! Parse, attach, drop privileges, serve.
fn main() {}
