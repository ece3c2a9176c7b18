//! An observer at work in a test: it listens to sockets, and its state is compared as JSON with
//! what a server says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use mediasoup_exporter::model::{Encoding, PeerKey, ServerTuple, TransportId, TransportKind};
use mediasoup_exporter::observer::{Observer, Options, Refusal, Status};
use mediasoup_exporter::state::State;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::observer_fixture::sorted;
use crate::wait;

/// A running observer. Dropping it ends it as SIGTERM ends the exporter.
#[derive(Debug)]
pub struct Watch {
    runtime: Option<Runtime>,
    observer: Arc<Observer>,
    state: Arc<Mutex<State>>,
    shutdown: watch::Sender<bool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

/// Options for these sockets, as patient as a test is.
pub fn options(sockets: &[PathBuf]) -> Options {
    Options {
        search: sockets.is_empty(),
        sockets: sockets.to_vec(),
        stats_interval: Duration::from_secs(1),
        grace: Duration::from_millis(500),
        look: Duration::from_millis(50),
        retry: (Duration::from_millis(50), Duration::from_millis(200)),
        ..Options::default()
    }
}

impl Watch {
    /// Begins to listen.
    pub fn start(options: Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start a runtime")?;
        let observer = Observer::new(options);
        let state = Arc::new(Mutex::new(State::default()));
        let (shutdown, ended) = watch::channel(false);
        let told = Arc::clone(&state);
        let sink = move |source, events| {
            let mut state = told.lock().expect("nobody panics with the state");
            for event in events {
                state.apply(source, event);
            }
            std::future::ready(())
        };
        let task = runtime.spawn(Arc::clone(&observer).run(sink, ended));
        Ok(Self { runtime: Some(runtime), observer, state, shutdown, task: Some(task) })
    }

    /// What it knows now.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the state")
    }

    /// How its only source is, once there is one.
    pub fn status(&self) -> Option<Status> {
        self.observer.statuses().into_iter().next()
    }

    /// How all servers are.
    pub fn statuses(&self) -> Vec<Status> {
        self.observer.statuses()
    }

    /// Servers that are not believed, and how many they are.
    pub fn refusals(&self) -> (Vec<Refusal>, usize) {
        self.observer.refusals()
    }

    /// Workers of which nobody tells.
    pub fn unobserved(&self) -> Vec<u32> {
        self.observer.unobserved()
    }

    /// Waits until its only source has told all.
    pub fn synced(&self) -> Result<()> {
        wait::until("the first telling", wait::LONG, || {
            Ok(self.status().filter(|status| status.up && status.sync.is_some()).map(|_| ()))
        })
        .with_context(|| format!("{:#?}", self.status()))
    }

    /// Waits until its status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        wait::until(what, wait::LONG, || Ok(self.status().filter(&wanted)))
            .with_context(|| format!("{:#?}", self.status()))
    }

    /// What it knows, in the shape of a server's truth.
    pub fn seen(&self) -> Value {
        let state = self.state();
        sorted(json!({
            "workers": state.workers.iter().map(|(_, pid)| pid).collect::<Vec<_>>(),
            "rooms": state.rooms().iter().map(|room| room.id.as_str()).collect::<Vec<_>>(),
            "peers": state.peers.values().map(|peer| json!({
                "id": peer.id.as_str(),
                "room": peer.room.as_ref().map(|room| room.as_str()),
                "name": &*peer.display_name,
                "agent": &*peer.user_agent,
            })).collect::<Vec<_>>(),
            "transports": state.transports.values().map(|transport| {
                let place = state.place(transport);
                json!({
                    "id": transport.id.as_str(),
                    "kind": kind(transport.kind),
                    "pid": place.pid,
                    "room": room(&state, &transport.id, None),
                    "peer": place.peer.as_ref().map(|peer| peer.id.as_str()),
                    "tuples": transport.tuples.iter().map(tuple).collect::<Vec<_>>(),
                })
            }).collect::<Vec<_>>(),
            "producers": state.producers.values().map(|producer| {
                let near = peer(&state, &producer.transport);
                let peer = state.peer_of_producer(producer, near.as_ref()).or(near);
                json!({
                    "id": producer.id.as_str(),
                    "transport": producer.transport.as_str(),
                    "room": room(&state, &producer.transport, peer.as_ref()),
                    "peer": peer.as_ref().map(|peer| peer.id.as_str()),
                    "kind": producer.kind.as_str(),
                    "codec": &*producer.codec,
                    "paused": producer.paused,
                    "encodings": encodings(&producer.encodings),
                })
            }).collect::<Vec<_>>(),
            "consumers": state.consumers.values().map(|consumer| json!({
                "id": consumer.id.as_str(),
                "producer": consumer.producer.as_str(),
                "transport": consumer.transport.as_str(),
                "room": room(&state, &consumer.transport, consumer.owner.as_ref()),
                "peer": consumer.owner.clone().or_else(|| peer(&state, &consumer.transport))
                    .map(|peer| peer.id.as_str().to_owned()),
                "kind": consumer.kind.as_str(),
                "paused": consumer.paused,
                "producerPaused": consumer.producer_paused,
                "score": consumer.score,
                "encodings": encodings(&consumer.encodings),
            })).collect::<Vec<_>>(),
        }))
    }

    /// Ends it, and waits until it has ended.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shutdown.send_replace(true);
        let (Some(runtime), Some(task)) = (self.runtime.take(), self.task.take()) else {
            return Ok(());
        };
        let ended = runtime.block_on(async { tokio::time::timeout(wait::LONG, task).await });
        runtime.shutdown_background();
        ended.context("the observer does not end")?.context("the observer panicked")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn peer(state: &State, transport: &TransportId) -> Option<PeerKey> {
    state.place(state.transports.get(transport)?).peer
}

/// The room of something on a transport that has this owner, if not the transport's.
fn room(state: &State, transport: &TransportId, owner: Option<&PeerKey>) -> Option<String> {
    let place = state.place(state.transports.get(transport)?);
    let room = state.room_or_session_at(&place, owner.or(place.peer.as_ref()));
    room.map(|room| room.id.as_str().to_owned())
}

fn kind(kind: TransportKind) -> &'static str {
    match kind {
        TransportKind::WebRtc => "webrtc",
        TransportKind::Plain => "plain",
        TransportKind::Pipe => "pipe",
        TransportKind::Direct => "direct",
    }
}

fn tuple(tuple: &ServerTuple) -> Value {
    json!({
        "proto": tuple.proto.as_str(),
        "port": tuple.local_port,
        "remote": tuple.remote.map(|remote| remote.to_string()),
    })
}

fn encodings(encodings: &[Encoding]) -> Vec<Value> {
    let encoding = |encoding: &Encoding| json!({ "ssrc": encoding.ssrc, "rid": encoding.rid.as_deref(), "rtx": encoding.rtx });
    encodings.iter().map(encoding).collect()
}
