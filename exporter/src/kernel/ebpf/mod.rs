//! The kernel object and its tables: loading, pinning, reading, letting go of what rests.
//!
//! [`super::options::Options`] come in, programs that can be attached and
//! [`crate::model::Reading`]s go out. Where programs are attached is not known here.

mod batch;
mod clock;
pub(super) mod directory;
mod grace;
pub(super) mod keys;
mod layout;
pub(super) mod load;
mod mapping;
mod occupancy;
pub(super) mod owned;
pub(super) mod pin;
mod streams;
pub(super) mod sys;
pub(super) mod tables;
