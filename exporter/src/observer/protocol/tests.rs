use super::*;

fn check(line: &str, expected: Event) {
    assert_eq!(decode(line.as_bytes()), Ok(expected), "{line}");
}

fn refuse(line: &str) {
    assert!(decode(line.as_bytes()).is_err(), "{line}");
}

fn transport_id() -> TransportId {
    "T".into()
}

#[test]
fn the_lines_of_a_server() {
    check(
        r#"{"t":"hello","v":1,"kind":"edumeet3","mediasoup":"3.12.16","node":"v20.1.0","pid":7}"#,
        Event::Hello(Hello {
            version: 1,
            kind: "edumeet3".into(),
            mediasoup: "3.12.16".into(),
            node: "v20.1.0".into(),
            pid: 7,
        }),
    );
    check(r#"{"t":"synced"}"#, Event::Synced);
    check(r#"{"t":"worker","id":99}"#, Event::Worker { pid: 99 });
    check(
        r#"{"t":"router","id":"R","pid":99,"session":"S"}"#,
        Event::Router { id: "R".into(), pid: 99, session: Some("S".into()) },
    );
    check(
        r#"{"t":"room","id":"r","routers":["R"]}"#,
        Event::Room { id: "r".into(), sessions: vec![], routers: vec!["R".into()] },
    );
    check(
        r#"{"t":"peer","id":"p","room":"r","name":"N","agent":"A"}"#,
        Event::Peer {
            id: "p".into(),
            room: Some("r".into()),
            display_name: "N".into(),
            user_agent: "A".into(),
        },
    );
    check(
        r#"{"t":"own","peer":"p","what":"consumer","ids":["C"]}"#,
        Event::Own { peer: "p".into(), objects: vec![Owned::Consumer("C".into())] },
    );
    check(r#"{"t":"gone","what":"worker","id":99}"#, Event::Gone(Gone::Worker(99)));
    check(
        r#"{"t":"gone","what":"producer","id":"P","transport":"T"}"#,
        Event::Gone(Gone::Producer(transport_id(), "P".into())),
    );
}

#[test]
fn transports() {
    let tuple = |proto, remote: Option<&str>| ServerTuple {
        proto,
        local_address: "sfu.example".into(),
        local_port: 40000,
        remote: remote.map(|remote| remote.parse().unwrap()),
    };
    let state = |tuples| TransportState { tuples, ice: Some("completed".into()), dtls: None };
    check(
        r#"{"t":"transport","id":"T","router":"R","kind":"webrtc","ice":"completed","tuples":[
            {"proto":"udp","local":"sfu.example","port":40000,"remote":"::ffff:203.0.113.7","rport":5}]}"#,
        Event::Transport(TransportTold {
            id: transport_id(),
            router: "R".into(),
            kind: TransportKind::WebRtc,
            state: state(vec![tuple(Proto::Udp, Some("203.0.113.7:5"))]),
        }),
    );
    // A far end that is no address, or has no port, is not known yet.
    for far in [r#""remote":"name","rport":5"#, r#""remote":"::1","rport":0"#, r#""rport":5"#] {
        check(
            &format!(
                r#"{{"t":"transport-state","id":"T","ice":"completed","tuples":[
                {{"proto":"tcp","local":"sfu.example","port":40000,{far}}}]}}"#
            ),
            Event::TransportState {
                id: transport_id(),
                state: state(vec![tuple(Proto::Tcp, None)]),
            },
        );
    }
    refuse(r#"{"t":"transport","id":"T","kind":"carrier pigeon","tuples":[]}"#);
    refuse(r#"{"t":"transport-state","id":"T","tuples":[{"port":65536}]}"#);
}

#[test]
fn streams() {
    let encoding = |ssrc, rtx, rid: Option<&str>| Encoding {
        ssrc,
        rtx,
        rid: rid.map(Into::into),
        score: None,
        stats: None,
    };
    check(
        r#"{"t":"producer","id":"P","transport":"T","kind":"video","codec":"VP8","peer":"p",
            "enc":[{"ssrc":1,"rtx":2},{"rid":"hi"}],"score":[{"ssrc":1,"score":99}],"paused":true}"#,
        Event::Producer(ProducerTold {
            id: "P".into(),
            transport: transport_id(),
            kind: MediaKind::Video,
            codec: "VP8".into(),
            peer: Some("p".into()),
            encodings: vec![encoding(Some(1), Some(2), None), encoding(None, None, Some("hi"))],
            state: ProducerState {
                scores: vec![Score { ssrc: 1, rid: None, score: 10 }],
                paused: true,
            },
        }),
    );
    check(
        r#"{"t":"consumer-state","id":"C","score":7,"pscore":9,"layers":[2,1],"ppaused":true}"#,
        Event::ConsumerState {
            id: "C".into(),
            state: ConsumerState {
                score: Some(7),
                producer_score: Some(9),
                layers: Some((2, 1)),
                paused: false,
                producer_paused: true,
            },
        },
    );
    check(
        r#"{"t":"stats","what":"producer","id":"P","transport":"T","of":[{"ssrc":1,"rid":"hi",
            "bytes":1e21,"packets":-3,"lost":-3,"fraction":300,"rtt":12.5,"discarded":1,
            "repaired":-2,"nacked":3},{"bytes":1}]}"#,
        Event::ProducerStats {
            id: "P".into(),
            transport: transport_id(),
            stats: vec![EncodingStats {
                ssrc: 1,
                rtx: None,
                rid: Some("hi".into()),
                stats: StreamStats {
                    byte_count: i64::MAX as u64,
                    packets_lost: -3,
                    fraction_lost: 255,
                    round_trip_time: Some(12.5),
                    repairs: Some([1, 0, 0, 3, 0]),
                },
            }],
        },
    );
    refuse(r#"{"t":"producer","id":"P","transport":"T","kind":"smell"}"#);
    refuse(r#"{"t":"producer","id":"P","kind":"audio"}"#);
    refuse(
        r#"{"t":"producer","id":"P","transport":"T","kind":"audio","enc":[{"ssrc":4294967296}]}"#,
    );
    refuse(r#"{"t":"stats","what":"room","id":"P","of":[]}"#);
}

#[test]
fn what_strangers_write_is_cut_or_refused() {
    let name = "\u{e4}".repeat(300);
    check(
        &format!(r#"{{"t":"peer","id":"p","name":"{name}"}}"#),
        Event::Peer {
            id: "p".into(),
            room: None,
            display_name: "\u{e4}".repeat(128).into(),
            user_agent: "".into(),
        },
    );
    refuse(r#"{"t":"peer","id":""}"#);
    refuse(&format!(r#"{{"t":"peer","id":"{}"}}"#, "x".repeat(1025)));
    refuse(r#"{"t":"peer","id":"\ud83d"}"#);
    // What becomes a label must not read like another there.
    for id in ["x".repeat(129), "two words".into(), "\\u0001".into(), "\u{e4}".into()] {
        refuse(&format!(r#"{{"t":"consumer-state","id":"{id}"}}"#));
        refuse(&format!(r#"{{"t":"transport","id":"{id}","kind":"webrtc"}}"#));
    }
    assert!(
        decode(format!(r#"{{"t":"consumer-state","id":"{}"}}"#, "x".repeat(128)).as_bytes())
            .is_ok()
    );
    refuse(r#"{"t":"peer","id":{"deep":[[[[1]]]]}}"#);
    refuse(&"[".repeat(100_000));
    refuse("");
    refuse("null");
    refuse(r#"{"no":"kind"}"#);
    assert_eq!(decode(br#"{"t":"tomorrow","x":1}"#), Err(Unreadable::Unknown));
}
