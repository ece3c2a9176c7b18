//! The thread that writes: nobody waits for a disk but it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use anyhow::Context;

use super::entry::Entry;
use super::folder::Folder;
use crate::config;

/// Bytes that wait for the disk at most.
const MOST_WAITING: u64 = 64 << 20;
/// Old files are looked for so often.
const TIDY: Duration = Duration::from_secs(600);

/// What became of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// They are on the disk.
    pub written: u64,
    /// The disk was too slow or full, or failed.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    /// Bytes that wait.
    waiting: AtomicU64,
}

/// Some lines.
struct Batch {
    text: Vec<u8>,
    lines: u64,
}

#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<Sender<Batch>>,
    counts: Arc<Counts>,
    /// Says nothing, and is closed when the thread ends.
    ended: Receiver<()>,
}

impl Writer {
    pub(super) fn start(options: &config::Journal) -> anyhow::Result<Self> {
        let mut folder = Folder::open(options)?;
        folder.begin(SystemTime::now())?;
        let (queue, batches) = mpsc::channel::<Batch>();
        let counts = Arc::new(Counts::default());
        let of_thread = counts.clone();
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("journal".into());
        let thread = thread.spawn(move || {
            let _end: Sender<()> = end;
            let mut has_failed = false;
            loop {
                match batches.recv_timeout(TIDY) {
                    Ok(batch) => of_thread.put(&mut folder, &batch, &mut has_failed),
                    Err(RecvTimeoutError::Timeout) => folder.tidy(SystemTime::now()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
        thread.context("start a thread")?;
        Ok(Self { queue: Some(queue), counts, ended })
    }

    /// Hands lines over.
    pub(super) fn write(&self, entries: &[Entry]) {
        let mut text = Vec::new();
        for entry in entries {
            // Text and numbers: nothing can fail.
            if serde_json::to_writer(&mut text, entry).is_ok() {
                text.push(b'\n');
            }
        }
        let lines = entries.len() as u64;
        let Some(queue) = self.queue.as_ref().filter(|_| lines > 0) else { return };
        let bytes = text.len() as u64;
        let is_full = self.counts.waiting.load(Ordering::Relaxed) + bytes > MOST_WAITING;
        self.counts.waiting.fetch_add(bytes, Ordering::Relaxed);
        if is_full || queue.send(Batch { text, lines }).is_err() {
            self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(lines, Ordering::Relaxed);
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let Counts { written, lost, .. } = &*self.counts;
        Tally { written: written.load(Ordering::Relaxed), lost: lost.load(Ordering::Relaxed) }
    }

    pub(super) fn close(&mut self, patience: Duration) {
        self.queue = None;
        // Closed, or not in time.
        let _ = self.ended.recv_timeout(patience);
    }
}

impl Counts {
    fn put(&self, folder: &mut Folder, batch: &Batch, has_failed: &mut bool) {
        let result = folder.write(&batch.text, SystemTime::now());
        let count = if result.is_ok() { &self.written } else { &self.lost };
        count.fetch_add(batch.lines, Ordering::Relaxed);
        match result {
            Err(error) if !*has_failed => {
                tracing::error!(
                    "--journal {}: {error:#}; what ends until this works again is not recorded",
                    folder.path().display()
                );
                *has_failed = true;
            }
            Err(_) => {}
            Ok(()) => *has_failed = false,
        }
        self.waiting.fetch_sub(batch.text.len() as u64, Ordering::Relaxed);
    }
}
