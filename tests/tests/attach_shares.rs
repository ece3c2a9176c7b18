//! What one far side may have that no server told: not everybody's room, and never that of those whom servers
//! tell; and that what it loses is counted all the same.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::Result;
use exporter_tests::pair::{Conversation, Pair, options, start_with};
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Counting, Lifetimes, Limits, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};
use mediasoup_exporter::model::{JoinKey, Proto, Reading};

const GREEDY: &str = "10.77.0.2";
const MODEST: &str = "fd77::2";
/// Of 80 places, 10 are kept for those whom servers tell.
const LIMITS: Limits = Limits {
    flows: 80,
    streams: 400,
    stranger_flows: 200,
    stranger_streams: 400,
    ssrcs_per_flow: 1_024,
};
const GREEDY_FLOWS: usize = 90;
/// It keeps 32 at least. Captured packets may be read some time after a reading, and as long as half of the table is
/// free nobody is held back.
const SHARE: usize = LIMITS.flows as usize / 2;

#[test]
fn one_address_cannot_fill_the_kernels_tables() -> Result<()> {
    one_address_cannot_fill_the_tables(MethodChoice::Ebpf)
}

#[test]
fn one_address_cannot_fill_the_captures_tables() -> Result<()> {
    one_address_cannot_fill_the_tables(MethodChoice::Capture)
}

fn one_address_cannot_fill_the_tables(method: MethodChoice) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_with(
        &pair.sfu,
        Options {
            interfaces: vec!["sfu0".into()],
            method,
            lifetimes: Lifetimes { stranger: 600, untold: 600, stream: 600 },
            limits: LIMITS,
            ..options()
        },
    )?;
    let mut books = Books::new(&counting);
    let mut greedy = Vec::new();
    let greedy_end = |number: usize| format!("10.77.0.1:{}", 40_000 + number);
    for number in 0..GREEDY_FLOWS {
        greedy.push(pair.connect(&greedy_end(number), GREEDY)?);
        let talk = greedy.last_mut().expect("just made");
        books.say(talk, 1)?;
    }
    // Before anybody has looked: who is told finds room.
    let mut told = pair.connect("[fd77::1]:40000", MODEST)?;
    let key = JoinKey { proto: Proto::Udp, local_port: 40_000, remote: told.peer.local_addr()? };
    counting.tell(&HashSet::from([key]))?;
    books.say(&mut told, 1)?;
    let modest: IpAddr = MODEST.parse()?;
    wait::until_equal(
        "who is told to be known, and the greedy to have a share",
        wait::LONG,
        || {
            books.read()?;
            Ok((books.known_of(modest), 1))
        },
    )?;
    wait::until("the greedy one to lose what is over its share", wait::LONG, || {
        books.read()?;
        Ok((books.known_of(GREEDY.parse()?) <= SHARE).then_some(()))
    })?;
    // Who is not told, at another address, has room now; the greedy one gets no more.
    let mut other = pair.connect("[fd77::1]:40001", MODEST)?;
    books.say(&mut other, 1)?;
    let mut more = pair.connect(&greedy_end(GREEDY_FLOWS), GREEDY)?;
    books.say(&mut more, 1)?;
    for talk in &mut greedy {
        books.say(talk, 1)?;
    }
    wait::until_equal("all packets to be counted, and no more known", wait::LONG, || {
        books.read()?;
        let known = (books.known_of(modest), books.known_of(GREEDY.parse()?) <= SHARE);
        Ok(((known, books.counted()), ((2, true), books.said)))
    })
}

/// What was said, and what readings have of it.
struct Books<'a> {
    counting: &'a Counting,
    said: u64,
    ended: u64,
    last: Reading,
}

impl<'a> Books<'a> {
    fn new(counting: &'a Counting) -> Self {
        Self { counting, said: 0, ended: 0, last: Reading::default() }
    }

    /// Both sides speak.
    fn say(&mut self, talk: &mut Conversation, packets: usize) -> Result<()> {
        talk.say(Receive, 1, packets, 100)?;
        talk.say(Send, 2, packets, 100)?;
        self.said += 2 * packets as u64;
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        self.last = self.counting.read()?;
        self.ended += packets(&self.last, true);
        Ok(())
    }

    fn known_of(&self, address: IpAddr) -> usize {
        let flows = self.last.flows.iter().filter(|flow| flow.known && !flow.ended);
        flows.filter(|flow| flow.tuple.remote.ip() == address).count()
    }

    fn counted(&self) -> u64 {
        self.ended + packets(&self.last, false)
    }
}

/// RTP of entries that have ended, or have not.
fn packets(reading: &Reading, ended: bool) -> u64 {
    let flows = reading.flows.iter().filter(|flow| flow.ended == ended);
    let in_flows: u64 = flows.flat_map(|flow| flow.counts).map(|counts| counts[0].packets).sum();
    let streams = reading.streams.iter().filter(|stream| stream.ended == ended);
    in_flows + streams.map(|stream| stream.total.packets).sum::<u64>()
}
