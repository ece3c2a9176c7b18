//! Reads any hash table of the kernel in batches, whatever its sizes, one value for each processor
//! included: what the exporter does for its own tables, for those that it did not choose.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::maps::MapData;

const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Elements asked for at once, as many as the exporter does.
const PAGE: usize = 4096;

/// `union bpf_attr`, the part of `BPF_MAP_*_BATCH` (Linux 5.6).
#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Buffers for one table.
pub struct Reader<'a> {
    table: &'a MapData,
    /// Words of a value.
    words: usize,
    /// Values of an element, those of all processors one behind the other.
    copies: usize,
    keys: Vec<u8>,
    values: Vec<u64>,
}

impl<'a> Reader<'a> {
    /// For a table with `copies` of each value, which is of words.
    pub fn new(table: &'a MapData, copies: usize) -> Result<Self> {
        let info = table.info()?;
        let words = info.value_size() as usize / size_of::<u64>();
        let keys = vec![0; PAGE * info.key_size() as usize];
        Ok(Self { table, words, copies, keys, values: vec![0; PAGE * words * copies] })
    }

    /// Words of a value.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Calls `each` for every element, with all its values; tells how many there were.
    pub fn read(&mut self, mut each: impl FnMut(&[u64])) -> Result<usize> {
        let (mut position, mut read) = (0_u32, 0);
        loop {
            let mut batch = Batch {
                from: if read == 0 { 0 } else { (&raw const position) as u64 },
                to: (&raw mut position) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: PAGE as u32,
                map: self.table.fd().as_fd().as_raw_fd().cast_unsigned(),
                ..Batch::default()
            };
            // SAFETY: the addresses are of buffers of our own, as long as `count` elements need.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>())
            };
            let error = (result < 0).then(io::Error::last_os_error);
            let is_last = error.as_ref().is_some_and(|it| it.kind() == io::ErrorKind::NotFound);
            if let Some(error) = error.filter(|_| !is_last) {
                return Err(error).context("look up a batch of elements");
            }
            let elements = self.values.chunks_exact(self.words * self.copies);
            elements.take(batch.count as usize).for_each(&mut each);
            read += batch.count as usize;
            if is_last {
                return Ok(read);
            }
        }
    }
}
