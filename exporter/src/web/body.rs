//! A response's body that is written while the client takes it.
//!
//! A piece of text is made when the one before has been taken, so a client that is slow, or one that is
//! fast, holds one piece and nobody else up. Making one takes time of a processor, and where many clients want theirs
//! they stand in a line of their own: whoever asks for less is not behind them.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::web::app::Text;
use crate::web::connections::Connection;

/// Who may make a piece of text now: each has a turn for one, the one who has waited longest first.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    /// For so many at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    fn wait(&self) -> Turn {
        let turns = self.0.clone();
        // Nobody closes it.
        Box::pin(async move { turns.acquire_owned().await.ok() })
    }
}

type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// A scrape's text on its way to a client. What fails breaks the response off, so that no client takes
/// half a text for a whole one.
pub(super) struct Source {
    text: Box<dyn Text>,
    connection: Arc<Connection>,
    turns: Turns,
    /// What is waited for.
    turn: Option<Turn>,
    /// The client has until then.
    until: Instant,
    gzip: Option<GzEncoder<Vec<u8>>>,
    ended: bool,
}

impl Source {
    pub(super) fn new(
        text: Box<dyn Text>,
        connection: &Arc<Connection>,
        turns: &Turns,
        patience: Duration,
        gzip: bool,
    ) -> Self {
        let gzip = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        let until = Instant::now() + patience;
        let (connection, turns) = (connection.clone(), turns.clone());
        Self { text, connection, turns, turn: None, until, gzip, ended: false }
    }

    /// What goes out next: nothing when the encoder kept it to itself, or at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let piece = self.text.next_piece().map_err(|_| io::ErrorKind::TimedOut)?;
        self.ended = piece.is_none();
        let Some(gzip) = &mut self.gzip else { return Ok(piece.unwrap_or_default()) };
        match piece {
            Some(piece) => gzip.write_all(&piece)?,
            None => gzip.try_finish()?,
        }
        Ok(std::mem::take(gzip.get_mut()).into())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
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
        self.connection.progress();
        while !self.ended {
            if Instant::now() > self.until {
                self.ended = true;
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            }
            let turns = self.turns.clone();
            let turn = self.turn.get_or_insert_with(|| turns.wait());
            let _turn = ready!(turn.as_mut().poll(context));
            self.turn = None;
            let out = self.next()?;
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
