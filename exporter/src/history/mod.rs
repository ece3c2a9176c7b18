//! What happened in the last minutes and hours, so that a view can go back to the moment of a complaint.
//!
//! Every few seconds each meter's growth becomes a [`Sample`] of a [`Track`]: a stream, or one direction of a
//! connection. Samples lie in [`Frame`]s, one for each step of time: short steps for some minutes, and long ones,
//! made of these, for some hours. A frame has samples only of what did something, so who has left takes room
//! only in the frames of his time, and goes with them. When memory is full, the oldest frames go first.
//!
//! Nothing here reads a clock. Time is given in milliseconds since the exporter began, which no change of the
//! clock changes; whoever shows it adds when that was.

mod drops;
mod facts;
mod frames;
mod lives;
mod past;
mod recorder;
mod sample;
#[cfg(test)]
pub(crate) mod tests;
mod track;

pub use drops::{Dropped, Drops};
pub use facts::{Facts, Known, PeerKey, Station, Subject, Transport, host};
pub use frames::{Frame, Spans};
pub use lives::{Ended, Life, Minute};
pub use past::{Past, Stretch};
pub use recorder::{History, Settings};
pub use sample::{Sample, Side, Sum};
pub use track::{Connection, Track, Whose};
