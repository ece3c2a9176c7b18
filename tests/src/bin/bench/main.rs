//! What `cargo xtask bench` runs once everything is built: measures what the exporter costs, each
//! figure beside a baseline of the same run, prints one table and writes it as JSON.
//!
//! It exits with 0 also when a target is missed: it is a measurement, not a test.
#![expect(
    unreachable_pub,
    reason = "in a program, `pub` says which items a module's neighbours use"
)]

mod batch;
mod figures;
mod jitter;
mod kernel;
mod node;
mod process;
mod rest;
mod scrape;
mod tables;
mod together;
mod trial;
mod variants;
mod veth;
mod views;
mod world;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use mediasoup_exporter::exposition::Selection;
use serde_json::json;

use crate::figures::Figure;

/// Measures what the exporter costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Args {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Fewer and smaller: says whether it works, not what it costs.
    #[arg(long)]
    quick: bool,
    /// Where the figures are written as JSON.
    #[arg(long, default_value = "target/bench.json", hide = true)]
    out: PathBuf,
    /// Scrapes so many streams over and over instead, for a profiler to watch.
    #[arg(long, value_name = "STREAMS")]
    profile: Option<usize>,
    /// With --profile: the kernel's families only.
    #[arg(long, requires = "profile")]
    kernel: bool,
    /// Makes so many streams, prints what they take in memory, and ends.
    #[arg(long, hide = true)]
    resident: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nanoseconds a packet.
    Kernel,
    /// Tables that there was a choice of.
    Tables,
    /// The error of sampled jitter.
    Jitter,
    /// Reading the kernel's tables.
    Read,
    /// A scrape from the tables to the text, and its memory.
    Scrape,
    /// UDP throughput with the programs attached.
    Veth,
    /// Processor time of the running exporter.
    Rest,
    /// A scrape beside one from within Node.
    Node,
    /// The history and pages of it.
    Views,
}

const PARTS: [Part; 9] = [
    Part::Kernel,
    Part::Tables,
    Part::Jitter,
    Part::Read,
    Part::Scrape,
    Part::Veth,
    Part::Rest,
    Part::Node,
    Part::Views,
];

/// Scrapes that a profiler sees: enough to outweigh what comes before them.
const PROFILED: usize = 40;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Small where there is a choice.
    pub quick: bool,
}

fn main() -> Result<()> {
    mediasoup_exporter::allocator::keep_no_holes();
    let args = Args::parse();
    if let Some(streams) = args.profile {
        let selection = if args.kernel { Selection::kernel() } else { Selection::ALL };
        return scrape::profile(streams, selection, PROFILED);
    }
    if let Some(streams) = args.resident {
        return scrape::resident(streams);
    }
    exporter_tests::process::reap();
    let effort = Effort { rounds: if args.quick { 3 } else { 11 }, quick: args.quick };
    let mut figures = Vec::new();
    for part in PARTS {
        if args.only.is_empty() || args.only.contains(&part) {
            eprintln!("measuring: {part:?}");
            // What one part lacks (root, a tool) does not take the others' figures away.
            match measure(part, effort) {
                Ok(measured) => figures.extend(measured),
                Err(error) => {
                    eprintln!("error: {error:#}");
                    figures.push(
                        Figure::new("failed", format!("{part:?}"), "").note(format!("{error:#}")),
                    );
                }
            }
        }
    }
    println!("{}", figures::table(&figures));
    let text = serde_json::to_string_pretty(&figures::json(&figures, machine(effort)))?;
    std::fs::write(&args.out, text).with_context(|| format!("write {}", args.out.display()))
}

fn measure(part: Part, effort: Effort) -> Result<Vec<Figure>> {
    match part {
        Part::Kernel => kernel::measure(effort),
        Part::Tables => variants::measure(effort),
        Part::Jitter => jitter::measure(effort),
        Part::Read => scrape::measure_read(effort),
        Part::Scrape => scrape::measure(effort),
        Part::Veth => veth::measure(effort),
        Part::Rest => rest::measure(effort),
        Part::Node => node::measure(effort),
        Part::Views => views::measure(effort),
    }
}

fn machine(effort: Effort) -> serde_json::Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "architecture": std::env::consts::ARCH,
        "linux": kernel.trim(),
        "rounds": effort.rounds,
        "quick": effort.quick,
    })
}
