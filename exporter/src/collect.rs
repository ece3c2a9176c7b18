//! Brings all sources together in one thread, which takes readings and lends what texts are written from.

mod books;
mod host;
mod orders;
mod site;
mod snapshots;
mod uncounted;

pub use books::{LAST_LINES, Ledgers, Parts};
pub use host::Host;
pub use orders::{Books, Connections, Occasion, Orders, Pace, start};
pub use site::{Board, Site, Views};
