//! Builds, checks and runs the project: `cargo xtask --help`.
fn main() {}
