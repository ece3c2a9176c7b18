//! Tables that there was a choice of, each different in one thing from the one beside it: what a
//! packet costs, of one flow and of 100,000 in turn, and where two processors write to one entry; what
//! reading costs; what memory they take; and what one that evicts by itself has left after a flood.

use anyhow::{Context as _, Result, ensure};

use crate::Effort;
use crate::batch::Reader;
use crate::figures::{Case, Figure, Spread, interleaved};
use crate::process::cost;
use crate::together::{self, processors};
use crate::trial::{
    FILL, FLOWS, GAVE_UP, LRU, OWN, PACKETS, SSRC, STAY, STEPS, Tables, VARIANTS, Variant, WALK,
    frame, run,
};

const PART: &str = "tables";
/// The first of the variants differ in how an entry is written.
const WRITERS: usize = 5;
/// A large machine, whose memory is computed.
const PROCESSORS: f64 = 64.0;
/// The SSRC of those that a flood brings.
const FORGED: u32 = 2;

/// Results, each with what it is of.
type Results = Vec<(&'static Variant, Spread)>;

/// Measures.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let tables = Tables::load()?;
    tables.fill()?;
    let repeat = if effort.quick { 100_000 } else { 500_000 };
    let mut figures = Vec::new();
    for (flows, walk) in [("one flow", STAY), ("100000 flows in turn", WALK)] {
        let frame = frame(walk, SSRC);
        let cases = VARIANTS.iter().map(|variant| {
            let program = tables.program(variant)?;
            let case: Case<'_> = Box::new(|| run(program, &frame, repeat));
            Ok(case)
        });
        let mut cases = cases.collect::<Result<Vec<_>>>()?;
        let results = interleaved(effort.rounds, &mut cases)?;
        figures.extend(rows(flows, "ns", &VARIANTS.iter().zip(results).collect()));
    }
    figures.extend(contention(&tables, effort.rounds, repeat)?);
    let results = reading(&tables, effort.rounds)?;
    figures.extend(rows("reading 100000 entries", "ms", &results));
    figures.extend(memory(&tables)?);
    figures.push(eviction(&tables)?);
    Ok(figures)
}

/// Each beside what it differs from in one thing, or else beside the first.
fn rows(what: &str, unit: &'static str, results: &Results) -> Vec<Figure> {
    let rows = results.iter().map(|(variant, spread)| {
        let figure = Figure::new(PART, format!("{what}, {}", variant.name), unit).measured(*spread);
        let beside = results.iter().find(|(other, _)| other.program == variant.beside);
        match beside.unwrap_or(&results[0]) {
            (other, _) if other == variant => figure,
            (other, spread) => figure.beside(other.name, *spread),
        }
    });
    rows.collect()
}

/// Two processors that write to one entry at once.
fn contention(tables: &Tables, rounds: usize, repeat: u32) -> Result<Vec<Figure>> {
    const WHAT: &str = "one flow on two processors at once";
    let Some(pair) = processors()? else {
        return Ok(vec![Figure::new(PART, WHAT, "ns").note("there is one processor")]);
    };
    let frame = &*frame(STAY, SSRC);
    let writers = &VARIANTS[..WRITERS];
    let mut gave_up = [0; WRITERS];
    let cases = writers.iter().zip(&mut gave_up).map(|(variant, gave_up)| {
        let (program, mut reader) = (tables.program(variant)?, tables.reader(variant)?);
        let case: Case<'_> = Box::new(move || {
            let before = Sum::of(&mut reader)?;
            let time = together::mean(pair, || run(program, frame, repeat))?;
            let after = Sum::of(&mut reader)?;
            let without_lock = after.gave_up - before.gave_up;
            let counted = after.packets - before.packets + without_lock;
            ensure!(counted == 2 * u64::from(repeat), "{}: {counted} counted", variant.program);
            *gave_up += without_lock;
            Ok(time)
        });
        Ok(case)
    });
    let mut cases = cases.collect::<Result<Vec<_>>>()?;
    let results = interleaved(rounds, &mut cases)?;
    drop(cases);
    let packets = 2.0 * rounds as f64 * f64::from(repeat);
    let figures = rows(WHAT, "ns", &writers.iter().zip(results).collect());
    let shares = gave_up.map(|gave_up| gave_up as f64 / packets * 100.0);
    let figures = figures.into_iter().zip(shares).map(|(figure, share)| match share {
        0.0 => figure,
        _ => figure.note(format!("{share:.1} % of the packets did not get the lock")),
    });
    Ok(figures.collect())
}

/// All entries of a table and all processors' copies of them, added up.
#[derive(Default)]
struct Sum {
    entries: usize,
    packets: u64,
    gave_up: u64,
}

impl Sum {
    fn of(reader: &mut Reader<'_>) -> Result<Self> {
        let mut sum = Self::default();
        let words = reader.words();
        sum.entries = reader.read(|copies| {
            for value in copies.chunks_exact(words) {
                sum.packets += value[PACKETS];
                sum.gave_up += value.get(GAVE_UP).copied().unwrap_or_default();
            }
        })?;
        Ok(sum)
    }
}

/// Milliseconds of processor time for reading a table, in batches or where it is mapped, and adding up
/// its packets.
fn reading(tables: &Tables, rounds: usize) -> Result<Results> {
    let read = ["lock", "per_cpu", "small", "per_cpu_small", OWN];
    let variants: Vec<_> =
        VARIANTS.iter().filter(|variant| read.contains(&variant.program)).collect();
    let cases = variants.iter().map(|variant| {
        let mut read: Box<dyn FnMut() -> Result<Sum>> = if variant.program == OWN {
            let mapped = tables.mapped()?;
            Box::new(move || {
                let mut sum = Sum::default();
                mapped.read(|value| {
                    sum.entries += 1;
                    sum.packets += value[PACKETS];
                });
                Ok(sum)
            })
        } else {
            let mut reader = tables.reader(variant)?;
            Box::new(move || Sum::of(&mut reader))
        };
        let case: Case<'_> = Box::new(move || {
            let (time, sum) = cost(&mut read);
            ensure!(sum?.entries == FLOWS, "a reading is not whole");
            Ok(time)
        });
        Ok(case)
    });
    let results = interleaved(rounds, &mut cases.collect::<Result<Vec<_>>>()?)?;
    Ok(variants.into_iter().zip(results).collect())
}

/// Memory in MB by the kernel's own account; for [`PROCESSORS`] computed.
fn memory(tables: &Tables) -> Result<Vec<Figure>> {
    let mut results = Results::new();
    let mut many = Vec::new();
    for variant in &VARIANTS {
        if results.iter().any(|(other, _)| other.table == variant.table) {
            continue;
        }
        let (table, here) = (tables.table(variant)?, tables.memory(variant)?);
        let value = f64::from(table.info()?.value_size()) * FLOWS as f64 / 1048576.0;
        let copies = tables.copies(variant) as f64;
        let more = if copies == 1.0 { 0.0 } else { PROCESSORS - copies };
        results.push((variant, Spread::single(here)));
        many.push(here + value * more);
    }
    let what = format!("memory of 100000 entries, {} processors", tables.processors);
    let figures = rows(&what, "MB", &results);
    let figures = figures.into_iter().zip(many);
    let note = |many| format!("{many:.0} MB with {PROCESSORS}, computed");
    Ok(figures.map(|(figure, many)| figure.note(note(many))).collect())
}

/// What a table that evicts by itself has left of the flows that it was full of, each seen many
/// times, when as many others have come once.
fn eviction(tables: &Tables) -> Result<Figure> {
    /// The others come no more often in one walk.
    const TWICE: u64 = 2;
    let variant = VARIANTS.iter().find(|variant| variant.program == LRU).context("no LRU")?;
    let program = tables.program(variant)?;
    for _ in 0..=TWICE + 1 {
        run(program, &frame(FILL, SSRC), STEPS)?;
    }
    let count = || -> Result<f64> {
        let mut flows = 0;
        tables.reader(variant)?.read(|value| flows += u32::from(value[PACKETS] > TWICE))?;
        Ok(f64::from(flows))
    };
    let before = count()?;
    run(program, &frame(FILL, FORGED), STEPS)?;
    let figure = Figure::new(PART, "left in an LRU table after as many forged ones", "flows");
    Ok(figure.measured(Spread::single(count()?)).beside("before", Spread::single(before)))
}
