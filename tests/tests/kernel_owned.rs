//! What is owned, in the kernel's tables: who counts, how much room there is, and that all of it comes
//! back.

use exporter_ebpf::abi::{
    Event, FlowKeyV4, MAPPED, Order, Own, OwnedSocket, Ownership, PortKey, RECEIVE, SHARERS, TCP,
    UDP,
};
use exporter_tests::packets::{self, Ends, LOCAL_V4, LOCAL_V6, REMOTE_V4, ethernet};
use exporter_tests::prog::{Constants, Frame, NAMESPACE, Program};

const PORT: u16 = 40_000;
const WORKER: u32 = 4711;

/// No port is looked at but those that somebody owns.
fn load(constants: Constants) -> Option<Program> {
    if !exporter_tests::root_or_skip() {
        return None;
    }
    let constants = Constants { ports: (1, 0), check_local: true, check_owned: true, ..constants };
    let mut program = Program::load(&constants).expect("the kernel program loads");
    program.set_local_v4(LOCAL_V4, 32).expect("set");
    program.set_local_v6(LOCAL_V6, 64).expect("set");
    assert!(program.admit(WORKER, 50).expect("admit"));
    Some(program)
}

fn order(program: &Program, order: Order, cookie: u64, end: PortKey, is_verified: bool) -> bool {
    let socket = OwnedSocket { end, process: WORKER, is_verified: is_verified.into() };
    let order = Own { order: order as u32, cookie, socket, ..Own::default() };
    program.order(&order).expect("runs")
}

fn own(program: &Program, cookie: u64, end: PortKey) -> bool {
    order(program, Order::Own, cookie, end, true)
}

fn disown(program: &Program, cookie: u64) -> bool {
    order(program, Order::Disown, cookie, PortKey::default(), false)
}

/// One packet of RTP from a far port that no other has.
fn packet(program: &Program, ends: Ends) {
    let media = packets::rtp(7, 1, 0, None, 100);
    let frame = ethernet(&[], &ends.ip(packets::UDP, &ends.udp(&media)));
    program.run("count_receive", Frame::from(&frame[..])).expect("runs");
}

fn v4(remote_port: u16) -> Ends {
    Ends::v4(RECEIVE, remote_port)
}

fn flows(program: &Program) -> usize {
    program.flows_v4().expect("read").len() + program.flows_v6().expect("read").len()
}

fn not_owned(program: &Program) -> u64 {
    program.event(Event::NotOwned, RECEIVE).expect("read").packets
}

fn address_v4() -> u32 {
    u32::from_ne_bytes(LOCAL_V4)
}

fn address_v6() -> [u32; 4] {
    let (words, _) = LOCAL_V6.as_chunks();
    [0, 1, 2, 3].map(|at: usize| u32::from_ne_bytes(words[at]))
}

#[test]
fn a_port_counts_as_long_as_a_worker_has_it() {
    let Some(program) = load(Constants::default()) else { return };
    packet(&program, v4(1));
    assert_eq!((flows(&program), not_owned(&program)), (0, 0), "nobody looks at it");
    let end = PortKey::v4(NAMESPACE, 0, UDP, PORT);
    assert!(own(&program, 1, end));
    packet(&program, v4(2));
    assert_eq!((flows(&program), not_owned(&program)), (1, 0));
    assert!(disown(&program, 1) && !disown(&program, 1));
    // What trails after it is its own, what is new is not.
    packet(&program, v4(2));
    packet(&program, v4(3));
    assert_eq!((flows(&program), not_owned(&program)), (1, 1));
    assert_eq!(
        program.streams_v4().expect("read").values().next().expect("one").1.total.packets,
        2
    );
    assert!(order(&program, Order::Close, 0, end, false));
    packet(&program, v4(2));
    packet(&program, v4(4));
    assert_eq!(
        program.streams_v4().expect("read").values().next().expect("one").1.total.packets,
        2
    );
    assert_eq!(not_owned(&program), 1);
    // Nothing is left of it.
    assert!(program.owned().expect("read").is_empty());
    assert!(program.ends().expect("read").is_empty());
    assert!(!order(&program, Order::Forget, 0, end, false));
}

#[test]
fn the_whole_end_decides() {
    let Some(program) = load(Constants::default()) else { return };
    let mut remote_port = 0;
    let mut check = |end: PortKey, v4_counts: bool, v6_counts: bool| {
        assert!(own(&program, 1, end), "{end:?}");
        for (is_v6, counts) in [(false, v4_counts), (true, v6_counts)] {
            remote_port += 1;
            let (flows_before, not_owned_before) = (flows(&program), not_owned(&program));
            packet(&program, Ends { is_v6, ..v4(remote_port) });
            let more = flows(&program) - flows_before;
            assert_eq!(more, usize::from(counts), "IPv6 {is_v6}: {end:?}");
            let is_open = end.proto == UDP && end.port == PORT;
            let more = not_owned(&program) - not_owned_before;
            assert_eq!(more, u64::from(is_open && !counts), "IPv6 {is_v6}: {end:?}");
        }
        assert!(disown(&program, 1));
        assert!(order(&program, Order::Close, 0, end, false));
    };
    let (any, namespace) = ([0; 4], NAMESPACE);
    check(PortKey::v4(namespace, 0, UDP, PORT), true, false);
    check(PortKey::v4(namespace, address_v4(), UDP, PORT), true, false);
    check(PortKey::v6(namespace, any, UDP, PORT), true, true);
    check(PortKey { v6_only: 1, ..PortKey::v6(namespace, any, UDP, PORT) }, false, true);
    check(PortKey::v6(namespace, address_v6(), UDP, PORT), false, true);
    check(PortKey::v6(namespace, [0, 0, MAPPED, address_v4()], UDP, PORT), true, false);
    check(PortKey::v4(namespace, address_v4() ^ 1, UDP, PORT), false, false);
    check(PortKey::v4(namespace + 1, 0, UDP, PORT), false, false);
    check(PortKey::v6(namespace, any, TCP, PORT), false, false);
    check(PortKey::v6(namespace, any, UDP, PORT + 1), false, false);
}

/// More sockets share an end than have a place there.
#[test]
fn a_place_that_becomes_free_is_taken_by_who_had_none() {
    let Some(program) = load(Constants::default()) else { return };
    let end = PortKey::v4(NAMESPACE, 0, UDP, PORT);
    let all = 1..=SHARERS as u64 + 2;
    for cookie in all.clone() {
        assert!(own(&program, cookie, end));
    }
    let standing = || {
        let ends = program.ends().expect("read");
        ends[0].1.iter().filter(|cookie| **cookie != 0).copied().collect::<Vec<_>>()
    };
    assert_eq!(standing(), (1..=SHARERS as u64).collect::<Vec<_>>());
    assert!((1..=SHARERS as u64).all(|cookie| disown(&program, cookie)));
    packet(&program, v4(1));
    assert_eq!((flows(&program), not_owned(&program)), (0, 1), "nobody stands there");
    // Who is owned no more gets none.
    assert!(!order(&program, Order::Join, 1, end, true));
    for cookie in [9, 10, 9] {
        assert!(order(&program, Order::Join, cookie, end, true));
    }
    assert_eq!(standing(), [9, 10]);
    packet(&program, v4(2));
    assert_eq!((flows(&program), not_owned(&program)), (1, 1));
}

#[test]
fn what_was_told_counts_behind_a_translated_address() {
    let Some(mut program) = load(Constants::default()) else { return };
    assert!(own(&program, 1, PortKey::v4(NAMESPACE + 1, 0, UDP, PORT)));
    packet(&program, v4(1));
    let key = FlowKeyV4 {
        remote: REMOTE_V4,
        remote_port: 2,
        local_port: PORT,
        proto: UDP,
        ..FlowKeyV4::default()
    };
    program.tell_v4(key).expect("told");
    packet(&program, v4(2));
    assert_eq!((flows(&program), not_owned(&program)), (1, 1));
}

#[test]
fn sharers_of_an_end_own_it_to_the_last() {
    let Some(program) = load(Constants::default()) else { return };
    let end = PortKey::v4(NAMESPACE, 0, UDP, PORT);
    // One more than can be told apart, and one of them twice.
    for cookie in (1..=SHARERS as u64 + 1).chain([1]) {
        assert!(own(&program, cookie, end));
    }
    for cookie in 1..SHARERS as u64 {
        assert!(disown(&program, cookie));
        assert!(!order(&program, Order::Close, 0, end, false), "{cookie}");
        assert!(!order(&program, Order::Forget, 0, end, false), "{cookie}");
        packet(&program, v4(cookie as u16));
        assert_eq!(flows(&program), cookie as usize);
    }
    assert!(disown(&program, SHARERS as u64) && disown(&program, SHARERS as u64 + 1));
    assert!(order(&program, Order::Close, 0, end, false));
    assert!(program.ends().expect("read").is_empty());
}

#[test]
fn nobody_takes_more_room_than_is_his() {
    let Some(program) = load(Constants { owned: [60, 3], ..Constants::default() }) else { return };
    let end = |port: u64| PortKey::v4(NAMESPACE, 0, UDP, port as u16);
    let room = || {
        let [verified, claimed, ..] = program.ownership().expect("read");
        (verified, claimed, program.sockets_of(WORKER).expect("read"))
    };
    let claim = |cookie| order(&program, Order::Own, cookie, end(cookie), false);
    assert!(claim(1) && claim(2) && claim(3) && !claim(4));
    assert_eq!(room(), (0, 3, 0));
    // Known for a worker's, it leaves the claimed ones' room.
    assert!(order(&program, Order::Verify, 1, end(1), false));
    assert_eq!(room(), (1, 2, 1));
    assert!(claim(4));
    // Its quota is 50.
    let owned = (100..200).filter(|&cookie| own(&program, cookie, end(cookie))).count();
    assert_eq!((owned, room()), (49, (50, 3, 50)));
    assert!(!order(&program, Order::Verify, 2, end(2), false));
    // Another's is as large, but all together have no more than 60.
    assert!(program.admit(WORKER + 1, 50).expect("admit"));
    let of_other = |cookie| {
        let socket = OwnedSocket { end: end(cookie), process: WORKER + 1, is_verified: 1 };
        let order = Own { order: Order::Own as u32, cookie, socket, ..Own::default() };
        program.order(&order).expect("runs")
    };
    assert_eq!((1_000..2_000).filter(|&cookie| of_other(cookie)).count(), 10);
    // A larger quota keeps what is counted.
    assert!(program.admit(WORKER, 51).expect("admit"));
    assert_eq!(room(), (60, 3, 50));
    for cookie in program.owned().expect("read").into_keys() {
        assert!(disown(&program, cookie));
    }
    assert_eq!(room(), (0, 0, 0));
    let [.., lost, refused] = program.ownership().expect("read");
    assert_eq!((lost, refused), (0, 0), "only the kernel's own refusals are counted");
    assert_eq!(Ownership::Refused as usize, 3);
}

#[test]
fn whole_networks_are_local() {
    let Some(mut program) = load(Constants::default()) else { return };
    assert!(own(&program, 1, PortKey::v6(NAMESPACE, [0; 4], UDP, PORT)));
    let elsewhere = Ends::v6(RECEIVE, 1);
    packet(&program, elsewhere);
    assert_eq!(flows(&program), 1, "the address begins like the network");
    program.set_local_v4([192, 0, 2, 0], 24).expect("set");
    packet(&program, v4(1));
    assert_eq!(flows(&program), 2);
    let other = Program::load(&Constants { check_local: true, ..Constants::default() });
    let mut other = other.expect("the kernel program loads");
    other.set_local_v4([192, 0, 3, 0], 24).expect("set");
    packet(&other, v4(1));
    assert_eq!(flows(&other), 0);
    other.set_local_v4([192, 0, 2, 0], 23).expect("set");
    packet(&other, v4(1));
    assert_eq!(flows(&other), 1);
}

/// Two processors bind and close sockets of the same few ends.
#[test]
fn binding_and_closing_at_once_leaves_nothing() {
    const ROUNDS: u64 = 5_000;
    let Some(program) = load(Constants { owned: [1_000, 10], ..Constants::default() }) else {
        return;
    };
    assert!(program.admit(WORKER, 1_000).expect("admit"));
    let end = |number: u64| PortKey::v4(NAMESPACE, 0, UDP, PORT + (number % 3) as u16);
    // The last sockets of each thread stay.
    let last = |thread: u64| 1 + thread + 3 * (ROUNDS - 1);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let program = &program;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let cookie = 1 + thread + 3 * round;
                    assert!(order(program, Order::Own, cookie, end(round), thread != 1));
                    assert!(order(program, Order::Verify, cookie, end(round), false));
                    if cookie != last(thread) {
                        assert!(disown(program, cookie));
                    }
                    order(program, Order::Close, 0, end(round + 1), false);
                    order(program, Order::Forget, 0, end(round + 1), false);
                }
            });
        }
    });
    assert_eq!(program.ownership().expect("read")[..2], [3, 0]);
    let expected = end(ROUNDS - 1);
    assert!(program.owned().expect("read").values().all(|socket| socket.end == expected));
    for (end, sharers) in program.ends().expect("read") {
        let standing = sharers.into_iter().filter(|&cookie| cookie != 0).count();
        assert_eq!(standing, if end == expected { 3 } else { 0 }, "{end:?}");
    }
    packet(&program, Ends { local_port: expected.port, ..v4(1) });
    assert_eq!(flows(&program), 1);
    for thread in 0..3 {
        assert!(disown(&program, last(thread)));
    }
    assert_eq!(program.ownership().expect("read")[..2], [0, 0]);
    assert_eq!(program.sockets_of(WORKER).expect("read"), 0);
    for (end, _) in program.ends().expect("read") {
        order(&program, Order::Close, 0, end, false);
        assert!(order(&program, Order::Forget, 0, end, false));
        packet(&program, Ends { local_port: end.port, ..v4(2) });
    }
    assert_eq!((flows(&program), not_owned(&program)), (1, 0));
}
