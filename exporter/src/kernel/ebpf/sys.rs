//! The `bpf(2)` commands that aya does not offer: batch look-ups, look-up-and-delete, maps that no object
//! describes, and a test run whose answer is the program's return value.
//!
//! Every call passes through [`bpf`]; file descriptors and slices come in, plain bytes go out. Nothing
//! here knows what a table means.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Values that are the same as their bytes: no padding, no pointer, no forbidden bit pattern.
///
/// # Safety
/// The implementor is `repr(C)`, has no padding, and any bytes are a valid value of it.
pub(in crate::kernel) unsafe trait Plain: Copy + Default {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: an array of integers.
unsafe impl Plain for [u8; 4] {}
// SAFETY: an array of integers.
unsafe impl Plain for [u8; 16] {}

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_TEST_RUN: libc::c_int = 10;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `enum bpf_map_type`.
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// `union bpf_attr`, the part of `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
}

impl MapCreate {
    fn one_word() -> Self {
        Self { key_size: 4, value_size: 4, max_entries: 1, ..Self::default() }
    }
}

/// `union bpf_attr`, the part of `BPF_MAP_*_ELEM`.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr`, the part of `BPF_MAP_*_BATCH`.
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

/// `union bpf_attr`, the part of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `union bpf_attr`, the part of `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    /// An interface's number, or a cgroup's descriptor.
    target: u32,
    hook: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// A program at a TCX hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct TcxMember {
    /// Its id.
    pub(in crate::kernel) program: u32,
    /// The id of the link that holds it there; 0: none does.
    pub(in crate::kernel) link: u32,
}

/// The programs at an interface's TCX hook, in the order in which packets meet them (Linux 6.6).
pub(in crate::kernel) fn tcx_chain(interface: u32, ingress: bool) -> io::Result<Vec<TcxMember>> {
    /// BPF_MPROG_MAX.
    const MOST: usize = 64;
    /// BPF_TCX_INGRESS and BPF_TCX_EGRESS.
    const HOOKS: [u32; 2] = [47, 46];
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attributes = Query {
        target: interface,
        hook: HOOKS[usize::from(ingress)],
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    if !found(bpf(PROG_QUERY, &mut attributes).map(drop))? {
        return Ok(Vec::new());
    }
    let members = programs.into_iter().zip(links).take(attributes.count as usize);
    Ok(members.map(|(program, link)| TcxMember { program, link }).collect())
}

/// Ids of the programs at one of a cgroup's hooks (`enum bpf_attach_type`; Linux 4.15).
pub(in crate::kernel) fn cgroup_programs(
    cgroup: BorrowedFd<'_>,
    hook: u32,
) -> io::Result<Vec<u32>> {
    /// BPF_CGROUP_MAX_PROGS.
    const MOST: usize = 64;
    let mut programs = [0_u32; MOST];
    let mut attributes = Query {
        target: number(cgroup),
        hook,
        programs: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attributes)?;
    Ok(programs[..MOST.min(attributes.count as usize)].to_vec())
}

/// Reads the element at `key`; `None` when there is none. `value` must be as long as the kernel
/// writes: the value's size, times the possible CPUs for a per-CPU map.
pub(super) fn look_up<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut [V],
) -> io::Result<bool> {
    found(element(MAP_LOOKUP_ELEM, map, key, value.as_mut_ptr().cast(), 0))
}

/// Takes the element at `key` out of the map (hash maps: Linux 5.14).
pub(super) fn take<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let at = (&raw mut value).cast();
    let there = found(element(MAP_LOOKUP_AND_DELETE_ELEM, map, key, at, 0))?;
    Ok(there.then_some(value))
}

/// Inserts or replaces.
pub(super) fn put<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    element(MAP_UPDATE_ELEM, map, key, std::ptr::from_ref(value).cast_mut().cast(), 0)
}

/// Removes; it is no error when there was nothing.
pub(super) fn remove<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    found(element(MAP_DELETE_ELEM, map, key, std::ptr::null_mut(), 0))
}

/// What one batch look-up brought.
pub(super) struct Page {
    /// Elements written to the slices.
    pub(super) count: usize,
    /// Nothing follows.
    pub(super) last: bool,
}

/// Reads the next elements into `keys` and `values` (of equal length), from `position` (0 and
/// `None` at first) on. ENOSPC says that one bucket holds more than fits (Linux 5.6).
pub(super) fn look_up_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    position: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Page> {
    assert_eq!(keys.len(), values.len());
    let mut to = 0_u32;
    let mut attributes = Batch {
        from: position.as_ref().map_or(0, address),
        to: (&raw mut to) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map: number(map),
        ..Batch::default()
    };
    let last = match bpf(MAP_LOOKUP_BATCH, &mut attributes) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    *position = Some(to);
    Ok(Page { count: (attributes.count as usize).min(keys.len()), last })
}

/// Runs a program once over `data` and hands back what it returned.
pub(super) fn test_run<T: Plain>(program: BorrowedFd<'_>, data: &T) -> io::Result<u32> {
    let mut attributes = TestRun {
        program: number(program),
        data_size_in: size_of::<T>() as u32,
        data_in: address(data),
        repeat: 1,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.returned)
}

/// An array map of one word.
pub(super) fn make_array() -> io::Result<OwnedFd> {
    make(&mut MapCreate { kind: MAP_TYPE_ARRAY, ..MapCreate::one_word() })
}

/// An array map of one map that is like `inner`.
pub(super) fn make_array_of(inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let inner = number(inner);
    make(&mut MapCreate { kind: MAP_TYPE_ARRAY_OF_MAPS, inner, ..MapCreate::one_word() })
}

/// Puts a map into an array of maps.
pub(super) fn put_map(outer: BorrowedFd<'_>, index: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    put(outer, &index, &number(inner))
}

fn make(attributes: &mut MapCreate) -> io::Result<OwnedFd> {
    let fd = bpf(MAP_CREATE, attributes)?;
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn element<K: Plain>(
    command: libc::c_int,
    map: BorrowedFd<'_>,
    key: &K,
    value: *mut libc::c_void,
    flags: u64,
) -> io::Result<()> {
    let mut attributes =
        Element { map: number(map), key: address(key), value: value as u64, flags, pad: 0 };
    bpf(command, &mut attributes).map(drop)
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    loop {
        // SAFETY: `attributes` is the head of `union bpf_attr` for this command, all later bytes
        // are taken as zero; every pointer in it was made from a live reference or slice of the
        // size that the map or program was created with.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}
