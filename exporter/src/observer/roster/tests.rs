use std::collections::BTreeMap;

use super::*;
use crate::host::recognise::Evidence;

const OWN: u32 = 500;
const SERVER: u32 = 70;
const USER: u32 = 1000;

fn worker(pid: u32, ancestors: &[u32]) -> WorkerProcess {
    WorkerProcess {
        pid,
        started: 0,
        evidence: Evidence::Executable,
        uid: USER,
        ancestors: ancestors.to_vec(),
        inner_pid: pid,
        ports: None,
        sockets: None,
        open: Vec::new(),
        is_whole: true,
        bound: BTreeSet::new(),
        listening: Vec::new(),
        namespace: None,
        mounts: None,
        cookie: Default::default(),
        foreign: None,
    }
}

fn candidate(path: &str, pid: u32, uid: u32) -> Candidate {
    let party = Some(Party { pid: Some(pid), uid });
    Candidate { path: path.into(), party, inode: u64::from(pid), named: false }
}

fn found(candidates: Vec<Candidate>) -> Found {
    let ancestors = BTreeMap::from([(SERVER, USER)]);
    Found { candidates, ancestors, workers: vec![worker(71, &[SERVER])].into(), unmatched: vec![] }
}

fn real() -> Candidate {
    candidate("/tmp/edumeet-server.sock", SERVER, USER)
}

fn fakes(most: u32) -> Vec<Candidate> {
    (0..most).map(|n| candidate(&format!("/tmp/fake-{n}"), 9000 + n, 4242)).collect()
}

#[test]
fn fake_servers_take_no_place_from_a_real_one_that_comes_later() {
    let mut roster = Roster::new(OWN);
    assert!(roster.take(&found(fakes(1000))).is_empty());
    let (shown, all) = roster.refusals();
    assert_eq!((shown.len(), all), (MOST_REFUSED, 1000));
    assert_eq!((shown[0].uid, shown[0].why), (4242, NOT_BELIEVED));
    let mut candidates = fakes(1000);
    candidates.push(real());
    let new = roster.take(&found(candidates));
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].0, real().path);
    assert_eq!(new[0].1.ground(), Ground::Worker);
}

#[test]
fn one_users_servers_leave_room_for_others() {
    let mut roster = Roster::new(OWN);
    let many = (0..1000).map(|n| candidate(&format!("/tmp/a-{n}"), 9000 + n, 4242)).collect();
    let ancestors = (0..1000).map(|n| (9000 + n, 4242)).chain([(SERVER, USER)]).collect();
    let look = Found { ancestors, ..found(many) };
    assert_eq!(roster.take(&look).len(), MOST_OF_USER);
    let (refused, _) = roster.refusals();
    assert_eq!(refused[0].why, NO_ROOM);
    assert_eq!(roster.take(&Found { candidates: vec![real()], ..look }).len(), 1);
}

#[test]
fn who_is_the_servers_user_is_believed_with_it() {
    let mut roster = Roster::new(OWN);
    let room_server = candidate("/tmp/edumeet-room-server.sock", 80, USER);
    assert!(roster.take(&found(vec![room_server.clone()])).is_empty());
    let new = roster.take(&found(vec![real(), room_server]));
    let grounds: Vec<Ground> = new.iter().map(|(_, source)| source.ground()).collect();
    assert_eq!(grounds, [Ground::Worker, Ground::ServersUser]);
}

#[test]
fn a_squatter_on_a_name_hides_nobody() {
    let mut roster = Roster::new(OWN);
    let squatter = candidate("/tmp/edumeet-server.sock", 60, 4242);
    let new = roster.take(&found(vec![squatter.clone(), real()]));
    assert_eq!(new.len(), 1);
    // The path led to the squatter: until somebody else listens there, it is not tried again.
    new[0].1.disbelieve();
    assert!(roster.take(&found(vec![squatter.clone(), real()])).is_empty());
    assert!(roster.statuses().is_empty());
    let restarted = Candidate { inode: 4711, ..real() };
    assert_eq!(roster.take(&found(vec![squatter, restarted])).len(), 1);
}

#[test]
fn what_ended_goes_and_comes_back() {
    let mut roster = Roster::new(OWN);
    let [(_, source)] = roster.take(&found(vec![real()])).try_into().unwrap();
    assert!(source.is_listed() && roster.take(&found(vec![real()])).is_empty());
    assert!(roster.take(&found(vec![])).is_empty() && !source.is_listed());
    assert_eq!(roster.statuses().len(), 1);
    source.end();
    assert!(roster.take(&found(vec![])).is_empty());
    assert!(roster.statuses().is_empty());
    assert_eq!(roster.take(&found(vec![real()])).len(), 1);
}

#[test]
fn a_worker_of_whom_nobody_tells_is_noticed_after_a_while() {
    let mut roster = Roster::new(OWN);
    let look = found(vec![real()]);
    let [(_, source)] = roster.take(&look).try_into().unwrap();
    for _ in 1..PATIENCE {
        roster.look_after(&look.workers);
        assert!(roster.unobserved().is_empty());
    }
    roster.look_after(&look.workers);
    assert_eq!(roster.unobserved(), [71]);
    source.met(&crate::state::Hello {
        version: 1,
        kind: "edumeet3".into(),
        mediasoup: "".into(),
        node: "".into(),
        pid: SERVER,
    });
    roster.look_after(&look.workers);
    assert!(roster.unobserved().is_empty());
}
