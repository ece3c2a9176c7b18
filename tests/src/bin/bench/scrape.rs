//! A scrape's way from the kernel's tables to its text, at three sizes: reading the tables, bringing
//! the ledger up to date, writing the text; and the memory that all of it keeps.
//!
//! Times are the thread's processor time, kernel included.

use std::hint::black_box;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mediasoup_exporter::exposition::{Cursor, Format, Scrape, Selection, Tails};
use mediasoup_exporter::labels::{Geo, Policy};
use mediasoup_exporter::ledger::{Settings, Update};
use mediasoup_exporter::model::Reading;
use serde_json::{Value, json};

use crate::Effort;
use crate::figures::{Figure, Spread, Target};
use crate::process::{cost, kernel_tables, resident as resident_memory};
use crate::tables::Counted;
use crate::world::World;

/// Faster than linear is not asked for; what is left is for the machine's noise.
const LINEAR: f64 = 1.1;

fn sizes(effort: Effort) -> &'static [usize] {
    if effort.quick { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000] }
}

/// Measures reading alone.
pub fn measure_read(effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut reads = Vec::new();
    for &size in sizes(effort) {
        let counted = Counted::new(&World::new(size))?;
        let (mut batches, mut singly) = (Vec::new(), Vec::new());
        // The first reading makes the buffers.
        counted.counting.read()?;
        for _ in 0..effort.rounds {
            let (time, reading) = cost(|| counted.counting.read());
            ensure!(reading?.streams.len() == size, "a reading is not whole");
            batches.push(time);
            let (time, entries) = cost(|| {
                let slots = counted.streams.iter().filter_map(Result::ok);
                slots.filter(|slot| slot.0.family != 0).count()
            });
            ensure!(entries == size, "{entries} of {size} entries");
            singly.push(time);
        }
        let target = if size == 100_000 { Target::AtMost(40.0) } else { Target::None };
        let name = format!("{size} streams and their {} flows", size / 5);
        let figure = Figure::new("read", name, "ms").measured(Spread::of(&batches));
        let figure = figure.beside("the streams' slots one by one", Spread::of(&singly));
        figures.push(figure.target(target));
        reads.push((size, Spread::of(&batches)));
    }
    figures.extend(growth("read", "reading", "ms", &reads));
    Ok(figures)
}

/// Measures all of it, and memory.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let (mut whole, mut of_kernel) = (Vec::new(), Vec::new());
    for &size in sizes(effort) {
        let samples = samples(size, effort.rounds)?;
        let asked = |all, kernel| (Target::AtMost(all), Target::AtMost(kernel));
        let (all, kernel) = match size {
            10_000 => asked(25.0, 8.0),
            100_000 => asked(250.0, 80.0),
            _ => (Target::None, Target::None),
        };
        figures.push(samples.all.figure(size, "all families", all));
        figures.push(samples.kernel.figure(size, "kernel families only", kernel));
        let first = Figure::new("scrape", format!("{size} streams, first piece of text"), "µs");
        figures.push(first.measured(Spread::of(&samples.all.first)));
        whole.push((size, Spread::of(&samples.all.time)));
        of_kernel.push((size, Spread::of(&samples.kernel.time)));
    }
    figures.extend(growth("scrape", "all families", "ms", &whole));
    figures.extend(growth("scrape", "kernel families only", "ms", &of_kernel));
    figures.extend(memory(effort)?);
    Ok(figures)
}

#[derive(Default)]
struct Samples {
    all: Way,
    kernel: Way,
}

/// One selection's samples, in milliseconds.
#[derive(Default)]
struct Way {
    time: Vec<f64>,
    read: Vec<f64>,
    update: Vec<f64>,
    write: Vec<f64>,
    copy: Vec<f64>,
    /// Until the first piece of text is there, in microseconds.
    first: Vec<f64>,
    bytes: usize,
}

impl Way {
    fn push(&mut self, times: &Times) {
        let Times { read, update, write, bytes } = *times;
        self.time.push(read + update + write);
        self.read.push(read);
        self.update.push(update);
        self.write.push(write);
        self.bytes = bytes;
    }

    fn figure(&self, size: usize, families: &str, target: Target) -> Figure {
        Figure::new("scrape", format!("{size} streams, {families}"), "ms")
            .measured(Spread::of(&self.time))
            .beside("copying the text by lines", Spread::of(&self.copy))
            .target(target)
            .note(self.note())
    }

    fn note(&self) -> String {
        let median = |samples: &[f64]| Spread::of(samples).median;
        format!(
            "read {:.1}, update {:.1}, write {:.1} ms; {:.1} MB of text",
            median(&self.read),
            median(&self.update),
            median(&self.write),
            self.bytes as f64 / 1e6,
        )
    }
}

fn samples(size: usize, rounds: usize) -> Result<Samples> {
    let mut scraped = Scraped::new(size)?;
    let mut samples = Samples::default();
    // The first round makes all label text and all buffers.
    for round in 0..=rounds {
        for (selection, way) in
            [(Selection::kernel(), &mut samples.kernel), (Selection::ALL, &mut samples.all)]
        {
            let times = scraped.again(selection)?;
            let text = text(&mut scraped.scrape, selection);
            let (copied, ()) = cost(|| copy(&text));
            let mut cursor = Cursor::new(Format::Text, selection);
            let (first, _piece) = cost(|| {
                let snapshot = scraped.scrape.snapshot(selection, Tails::default());
                snapshot.next_piece(&mut cursor)
            });
            if round > 0 {
                way.push(&times);
                way.copy.push(copied);
                way.first.push(first * 1e3);
            }
        }
    }
    Ok(samples)
}

/// A made-up SFU that is scraped again and again.
struct Scraped {
    world: World,
    counted: Counted,
    scrape: Scrape,
    scrapes: u64,
}

/// Milliseconds that a scrape's parts took, and the length of its text.
struct Times {
    read: f64,
    update: f64,
    write: f64,
    bytes: usize,
}

impl Scraped {
    fn new(size: usize) -> Result<Self> {
        let world = World::new(size);
        let counted = Counted::new(&world)?;
        Ok(Self { world, counted, scrape: scrape(), scrapes: 0 })
    }

    fn again(&mut self, selection: Selection) -> Result<Times> {
        let Self { world, counted, scrape, scrapes } = self;
        *scrapes += 1;
        let (read, reading) = cost(|| counted.counting.read());
        let mut reading = reading?;
        World::grow(&mut reading, *scrapes);
        let news = update(*scrapes, &reading, world);
        let (update, ()) = cost(|| scrape.update_for(news, selection));
        let (write, bytes) = cost(|| write(scrape, selection));
        Ok(Times { read, update, write, bytes })
    }
}

/// All families, whoever they are of.
pub fn scrape() -> Scrape {
    let settings = Settings { max_series: u64::MAX, hold: 0, ..Settings::default() };
    Scrape::new(settings, Policy::default(), Geo::none())
}

/// What is new at a tick.
pub fn update<'a>(tick: u64, reading: &'a Reading, world: &'a World) -> Update<'a> {
    Update { tick, reading: Some(reading), state: &world.state, sockets: None }
}

fn write(scrape: &mut Scrape, selection: Selection) -> usize {
    let mut bytes = 0;
    let snapshot = scrape.snapshot(selection, Tails::default());
    snapshot.write(Cursor::new(Format::Text, selection), |piece| bytes += black_box(piece).len());
    bytes
}

fn text(scrape: &mut Scrape, selection: Selection) -> String {
    let mut text = Vec::new();
    let snapshot = scrape.snapshot(selection, Tails::default());
    snapshot.write(Cursor::new(Format::Text, selection), |piece| text.extend_from_slice(&piece));
    String::from_utf8_lossy(&text).into_owned()
}

/// The least that writing a text can cost: all of it is there already.
fn copy(text: &str) {
    const PIECE: usize = 64 * 1024;
    let mut piece = Vec::with_capacity(PIECE);
    for line in text.split_inclusive('\n') {
        if piece.len() + line.len() > PIECE {
            black_box(&piece);
            piece = Vec::with_capacity(PIECE);
        }
        piece.extend_from_slice(line.as_bytes());
    }
    black_box(&piece);
}

fn growth(
    part: &'static str,
    what: &str,
    unit: &'static str,
    measured: &[(usize, Spread)],
) -> Vec<Figure> {
    let steps = measured.windows(2).map(|step| {
        let [(small, before), (large, after)] = step else { unreachable!("windows of two") };
        let factor = (large / small) as f64;
        let figure = Figure::new(part, format!("growth of {what}, {small} to {large}"), unit);
        figure.measured(*after).beside("in proportion", before.times(factor))
    });
    steps.map(|figure| figure.target(Target::Times(LINEAR))).collect()
}

/// Each size in a process of its own, so that none inherits another's memory.
fn memory(effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut above = Vec::new();
    let empty = in_process(0)?;
    for &size in sizes(effort) {
        let own = in_process(size)?;
        let [figure, tables] = [("resident", 0), ("kernel tables", 1)].map(|(what, at)| {
            let figure = Figure::new("memory", format!("{size} streams, {what}"), "MB");
            let figure = figure.measured(Spread::single(own[at]));
            figure.beside("no stream", Spread::single(empty[at]))
        });
        let target = match size {
            10_000 => Target::AtMost(60.0),
            100_000 => Target::AtMost(250.0),
            _ => Target::None,
        };
        figures.push(figure.target(target));
        figures.push(tables.note("beside the resident memory"));
        above.push((size, Spread::single(own[0] - empty[0])));
    }
    figures.extend(growth("memory", "what is resident above no stream", "MB", &above));
    Ok(figures)
}

fn in_process(streams: usize) -> Result<[f64; 2]> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.args(["--resident", &streams.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no {name}"));
    Ok([number("resident")?, number("tables")?])
}

/// Prints what so many streams take, after three scrapes.
pub fn resident(streams: usize) -> Result<()> {
    let mut scraped = Scraped::new(streams)?;
    scraped.world.forget_plan();
    for _ in 0..3 {
        scraped.again(Selection::ALL)?;
    }
    let pid = std::process::id();
    let (resident, tables) = (resident_memory(pid)?, kernel_tables(pid)?);
    println!("{}", json!({ "resident": resident, "tables": tables }));
    Ok(())
}

/// Scrapes so many streams again and again, for a profiler to watch; then says what a scrape took.
pub fn profile(streams: usize, selection: Selection, rounds: usize) -> Result<()> {
    let mut scraped = Scraped::new(streams)?;
    let mut way = Way::default();
    for _ in 0..rounds {
        way.push(&scraped.again(selection)?);
    }
    println!("{:.1} ms: {}", Spread::of(&way.time).median, way.note());
    Ok(())
}
