//! Servers that tell more than anybody has, or stop in the middle: others are answered meanwhile, memory
//! stays within its bounds, and a signal ends the exporter all the same.

use anyhow::{Result, ensure};
use exporter_tests::flood::Flood;
use exporter_tests::wait;

#[test]
fn lines_that_concern_many_objects_hold_nobody_up() -> Result<()> {
    let Some(flood) = Flood::start(&["routers 20000"; 2])? else { return Ok(()) };
    flood.told(2)?;
    let own = flood.own()?;
    ensure!(own.sum("mediasoup_exporter_source_up", &[]) >= 2.0, "a server is down");
    flood.stop()
}

#[test]
fn encodings_without_end_take_little_memory() -> Result<()> {
    const CONSUMERS: u64 = 4000;
    /// They took 27,000 bytes, when all 64 encodings were kept. Eight are, each with room for what is told of it.
    const EACH: u64 = 11_500;
    let Some(flood) = Flood::start(&["silence", "consumers 4000"])? else { return Ok(()) };
    let empty = flood.exporter.resident()?;
    flood.told(1)?;
    wait::until("what goes over to be refused", wait::LONG, || {
        let labels = [("reason", "full"), ("what", "encoding")];
        let refused = flood.own()?.sum("mediasoup_exporter_observer_refused_total", &labels) as u64;
        Ok((refused == CONSUMERS * (64 - 8)).then_some(()))
    })?;
    let grown = flood.exporter.resident()?.saturating_sub(empty);
    println!("{} bytes for each consumer, its text among them", grown / CONSUMERS);
    ensure!(grown < CONSUMERS * EACH, "{grown} bytes for {CONSUMERS} consumers");
    flood.stop()
}

#[test]
fn a_signal_ends_it_whatever_servers_do() -> Result<()> {
    let hows = ["transports 132000", "transports 132000"].into_iter();
    let hows: Vec<&str> = hows.chain(["silence"; 6]).collect();
    let Some(flood) = Flood::start(&hows)? else { return Ok(()) };
    flood.told(2)?;
    // Somebody reads a text of some fifty megabytes; others are answered meanwhile.
    std::thread::scope(|scope| {
        let all = scope.spawn(|| flood.exporter.metrics());
        for _ in 0..5 {
            ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200);
            flood.own()?;
        }
        let text = all.join().expect("a reader does not panic")?;
        println!("the text has {} bytes", text.len());
        ensure!(text.len() > 20_000_000, "the text has {} bytes only", text.len());
        Ok(())
    })?;
    flood.stop()
}
