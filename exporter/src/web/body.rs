//! A response's body that is written by one thread while the server sends it.
//!
//! The writer never waits: what the client has not yet taken stays in the channel, counted against
//! the server's budget. Chunks are handed over, never copied, and freed when they have been sent.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::web::connections::Connection;

/// Writers hand over about this much at a time.
pub const CHUNK: usize = 64 << 10;

enum Part {
    Chunk(Bytes),
    End,
}

/// Where a scrape's text goes. Dropped without [`Sink::finish`], the response breaks off, so that no
/// client takes half a text for a whole one.
pub struct Sink {
    sender: mpsc::UnboundedSender<Part>,
    connection: Arc<Connection>,
}

impl Sink {
    /// Hands over a chunk; false when nobody wants it any more.
    pub fn push(&self, chunk: Bytes) -> bool {
        let length = chunk.len();
        self.connection.buffer(length);
        let sent = self.sender.send(Part::Chunk(chunk)).is_ok();
        if !sent {
            self.connection.unbuffer(length);
        }
        sent
    }

    /// The text is whole.
    pub fn finish(self) {
        let _ = self.sender.send(Part::End);
    }

    /// Nobody waits for it any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The other end of a [`Sink`].
pub(super) struct Source {
    receiver: mpsc::UnboundedReceiver<Part>,
    connection: Arc<Connection>,
    first: Option<Bytes>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    ended: bool,
}

pub(super) fn channel(connection: &Arc<Connection>, gzip: bool) -> (Sink, Source) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let sink = Sink { sender, connection: connection.clone() };
    let gzip = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    (sink, Source { receiver, connection: connection.clone(), first: None, gzip, ended: false })
}

impl Source {
    /// Waits for the first chunk, so that a scrape that fails at once can still get a status of its
    /// own. False: it failed.
    pub(super) async fn begins(&mut self) -> bool {
        match self.receiver.recv().await {
            Some(Part::Chunk(chunk)) => {
                self.connection.unbuffer(chunk.len());
                self.first = Some(chunk);
                true
            }
            Some(Part::End) => {
                self.first = Some(Bytes::new());
                self.receiver.close();
                self.ended = self.gzip.is_none();
                true
            }
            None => false,
        }
    }

    /// What goes out for a part; an empty chunk when the encoder kept it to itself.
    fn encode(&mut self, part: Part) -> io::Result<Bytes> {
        let Some(gzip) = &mut self.gzip else {
            return Ok(match part {
                Part::Chunk(chunk) => chunk,
                Part::End => Bytes::new(),
            });
        };
        match part {
            Part::Chunk(chunk) => {
                gzip.write_all(&chunk)?;
                Ok(std::mem::take(gzip.get_mut()).into())
            }
            Part::End => {
                gzip.try_finish()?;
                Ok(std::mem::take(gzip.get_mut()).into())
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(part) = self.receiver.try_recv() {
            if let Part::Chunk(chunk) = part {
                self.connection.unbuffer(chunk.len());
            }
        }
        self.connection.rest();
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        while !self.ended {
            let part = match self.first.take() {
                Some(chunk) => Part::Chunk(chunk),
                None => match self.receiver.poll_recv(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(part)) => {
                        if let Part::Chunk(chunk) = &part {
                            self.connection.unbuffer(chunk.len());
                        }
                        part
                    }
                    Poll::Ready(None) => {
                        self.ended = true;
                        return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                    }
                },
            };
            self.connection.progress();
            self.ended = matches!(part, Part::End);
            let out = self.encode(part)?;
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
        Poll::Ready(None)
    }
}

/// Every response's body.
pub(super) enum Answer {
    /// A text that is there.
    Whole { text: Option<Bytes>, connection: Arc<Connection> },
    /// A text that is being written.
    Stream(Source),
}

impl Answer {
    pub(super) fn whole(text: impl Into<Bytes>, connection: &Arc<Connection>) -> Self {
        Self::Whole { text: Some(text.into()), connection: connection.clone() }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole { text, connection } => {
                connection.progress();
                let text = text.take().filter(|text| !text.is_empty());
                Poll::Ready(text.map(|text| Ok(Frame::data(text))))
            }
            Self::Stream(source) => Pin::new(source).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { text, .. } if text.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { text, .. } => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64)
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Self::Whole { connection, .. } = self {
            connection.rest();
        }
    }
}

/// The service never fails; connections do.
pub(super) type Never = Infallible;

#[cfg(test)]
impl Sink {
    /// A sink without a server, and what waits for its text: `None` when it broke off.
    pub(crate) fn alone() -> (Self, impl FnOnce() -> Option<String> + Send) {
        let (sink, mut source) = channel(&Connection::alone(), false);
        let wait = move || {
            let mut text = Vec::new();
            loop {
                match source.receiver.blocking_recv() {
                    Some(Part::Chunk(chunk)) => text.extend_from_slice(&chunk),
                    Some(Part::End) => return String::from_utf8(text).ok(),
                    None => return None,
                }
            }
        };
        (sink, wait)
    }
}
