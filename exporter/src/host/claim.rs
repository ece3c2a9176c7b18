//! Which exporters count in a network namespace, so that two never count the same packets: the second
//! would find them marked as counted by the first.
//!
//! An exporter that counts by programs in the kernel (captured packets carry no marks) holds an abstract Unix socket in the network namespace in which it counts.
//! Its name says who it is, since when, whose its marks are, and which ports it counts; it goes when the process does, however
//! that ends. Every local user can make such sockets. So each exporter has a name of its own, which nobody
//! can take before it, and a name is believed only if the kernel says that its holder may count packets
//! or is root.
//!
//! Frames keep their marks when they cross into another network namespace, where another exporter may count
//! its own. So the exporters of each namespace have a [`Tag`], by which they know their marks.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use caps::{CapSet, Capability};
use socket2::{Domain, SockAddr, Socket, Type};

use exporter_ebpf::abi::MOST_TAG;

use super::namespaces::NamespaceCookie;
use super::{listeners, procfs};

const PREFIX: &str = "mediasoup-exporter/2";
/// Names whose holders are asked for: anybody may make some, and each takes some microseconds.
const MOST: usize = 1 << 16;
/// Whoever asks who holds the name waits in its queue for good; only others that start ask.
const QUEUE: libc::c_int = 4096;

/// A network namespace's ports, claimed for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    own: Claimant,
    _socket: Socket,
}

/// Tells the marks of exporters in one network namespace from those in others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(u8);

impl Tag {
    /// Of the host's first network namespace (its cookie is 1), and of no other.
    const FIRST: Self = Self(1);

    /// 1 to [`MOST_TAG`].
    pub const fn number(self) -> u8 {
        self.0
    }

    fn parse(word: &str) -> Option<Self> {
        let number = word.parse().ok()?;
        (1..=MOST_TAG).contains(&number).then_some(Self(number))
    }

    /// For a network namespace: not one of those that are taken in others. An exporter in a container does not see
    /// who counts outside. That is why the first namespace has one for itself, and why the others begin
    /// to look for one at different places.
    fn choose(namespace: NamespaceCookie, taken: &BTreeSet<Self>) -> Self {
        if namespace == NamespaceCookie::FIRST {
            return Self::FIRST;
        }
        let others = u64::from(MOST_TAG) - 1;
        let at = |step: u64| Self((namespace.0.wrapping_add(step) % others) as u8 + 2);
        (0..others).map(at).find(|tag| !taken.contains(tag)).unwrap_or(at(0))
    }
}

/// Who claims which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// When it started to count, since the host did.
    pub since: Duration,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// Whose its marks are.
    pub tag: Tag,
    /// First and last port; `None`: whichever workers own.
    pub ports: Option<(u16, u16)>,
}

impl Claim {
    /// Claims ports in this thread's network namespace; `None` stands for whichever workers own. Fails
    /// when another exporter counts some of them already.
    pub fn new(ports: Option<&RangeInclusive<u16>>) -> anyhow::Result<Self> {
        let ports = ports.map(|ports| (*ports.start(), *ports.end()));
        let tag = tag().context("look for other exporters")?;
        let own = Claimant { since: since_boot(), pid: std::process::id(), tag, ports };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)
            .and_then(|socket| {
                socket.bind(&own.address()?)?;
                socket.listen(QUEUE)?;
                Ok(socket)
            })
            .context("claim the ports of this network namespace")?;
        // Only now: of two that start at once, each sees the other, and the first goes on.
        for other in others(&own).context("look for other exporters")? {
            if other < own && other.overlaps(&own) {
                bail!(
                    "another exporter counts {} in this network namespace: {other}; end it, or give \
                     both --ports that have none in common",
                    match other.ports {
                        Some((first, last)) => format!("ports {first}-{last}"),
                        None => "the SFU's ports".to_owned(),
                    }
                );
            }
        }
        Ok(Self { own, _socket: socket })
    }

    /// By which it knows its marks.
    pub fn tag(&self) -> Tag {
        self.own.tag
    }

    /// Names this exporter and no other on the host, ever.
    pub fn id(&self) -> String {
        self.own.id()
    }

    /// The names of all exporters that count in this thread's network namespace, this one's apart.
    pub fn ids_of_others(&self) -> io::Result<BTreeSet<String>> {
        Ok(others(&self.own)?.iter().map(Claimant::id).collect())
    }
}

impl Claimant {
    fn id(&self) -> String {
        format!("{}-{}", self.pid, self.since.as_nanos())
    }

    fn name(&self) -> String {
        let ports = match self.ports {
            Some((first, last)) => format!("{first}-{last}"),
            None => "owned".to_owned(),
        };
        format!("{PREFIX}/{}/{}/{}/{ports}", self.since.as_nanos(), self.pid, self.tag.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut words = name.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/');
        let since = Duration::from_nanos(words.next()?.parse().ok()?);
        let pid = words.next()?.parse().ok()?;
        let tag = Tag::parse(words.next()?)?;
        let ports = match words.next()? {
            "owned" => None,
            range => {
                let (first, last) = range.split_once('-')?;
                Some((first.parse().ok()?, last.parse().ok()?))
            }
        };
        words.next().is_none().then_some(Self { since, pid, tag, ports })
    }

    /// An abstract address: it begins with a zero byte.
    fn address(&self) -> io::Result<SockAddr> {
        SockAddr::unix(format!("\0{}", self.name()))
    }

    /// Workers may own any port, so whoever counts what they own counts any range's, too.
    fn overlaps(&self, other: &Self) -> bool {
        match (self.ports, other.ports) {
            (Some((a, b)), Some((c, d))) => a <= d && c <= b,
            _ => true,
        }
    }

    /// Whether the name's holder may count: a process of root's, of this user's, or one with the rights.
    fn is_believed(&self) -> bool {
        let Some((pid, uid)) = self.holder() else { return false };
        // SAFETY: geteuid has no arguments and no failure.
        uid == 0 || uid == unsafe { libc::geteuid() } || may_count(pid)
    }

    /// Process and user that listen at the name, by the kernel's word.
    fn holder(&self) -> Option<(i32, u32)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
        // Never waits for a queue that somebody has filled.
        socket.set_nonblocking(true).ok()?;
        socket.connect(&self.address().ok()?).ok()?;
        let mut holder = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: SO_PEERCRED writes a ucred of at most the given size.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut holder).cast(),
                &raw mut length,
            )
        };
        (result == 0).then_some((holder.pid, holder.uid))
    }
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = since_boot().saturating_sub(self.since);
        let since = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        write!(f, "process {}, since {}", self.pid, utc(since))
    }
}

/// The names of all exporters that count in this thread's network namespace.
pub fn living() -> io::Result<BTreeSet<String>> {
    Ok(believed(|_| true)?.iter().map(Claimant::id).collect())
}

/// Earlier or later ones than `own`, believed.
fn others(own: &Claimant) -> io::Result<Vec<Claimant>> {
    believed(|claimant| claimant != own)
}

/// The tag of exporters in this thread's network namespace: theirs who count in it already, or one that nobody has
/// in the namespaces that can be seen from here. There, names are believed: a forged one takes a
/// number of many.
fn tag() -> io::Result<Tag> {
    if let Some(here) = believed(|_| true)?.first() {
        return Ok(here.tag);
    }
    let taken = listeners::one_process_of_each_network().into_iter().flat_map(|pid| {
        let table = procfs::read(Path::new(&format!("/proc/{pid}/net/unix"))).unwrap_or_default();
        claimants(&table).into_iter().map(|claimant| claimant.tag)
    });
    Ok(Tag::choose(NamespaceCookie::own().unwrap_or_default(), &taken.collect()))
}

fn believed(is_asked_for: impl Fn(&Claimant) -> bool) -> io::Result<Vec<Claimant>> {
    let table = procfs::read(Path::new("/proc/thread-self/net/unix"))?;
    let found = claimants(&table);
    if found.len() >= MOST {
        tracing::warn!(
            "{MOST} sockets and more here have exporters' names: another exporter may not be seen among them"
        );
    }
    let found = found.into_iter();
    Ok(found.filter(|it| is_asked_for(it) && it.is_believed()).collect())
}

/// Number, six more words, inode, and the name if there is one; `@` stands for the zero byte.
fn claimants(table: &str) -> BTreeSet<Claimant> {
    let names = table.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    names.filter_map(|name| Claimant::parse(name.strip_prefix('@')?)).take(MOST).collect()
}

/// Rights in a user namespace of one's own are no rights here.
fn may_count(pid: i32) -> bool {
    let users = |process: &str| procfs::namespace(Path::new(process), "user");
    let own = users("/proc/self");
    let has = |right| caps::has_cap(Some(pid), CapSet::Permitted, right).unwrap_or(false);
    pid > 0
        && own.is_some()
        && users(&format!("/proc/{pid}")) == own
        && (has(Capability::CAP_NET_ADMIN) || has(Capability::CAP_NET_RAW))
}

/// A clock that nobody sets, so that who came first is told truly.
fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a live timespec; this clock is there since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// `2026-01-31 12:00:00 UTC`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Days since 1970 to a date; years are counted from March, so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(since: u64, ports: Option<(u16, u16)>) -> Claimant {
        Claimant { since: Duration::from_nanos(since), pid: 4711, tag: Tag(9), ports }
    }

    #[test]
    fn names_say_everything() {
        for claimant in [claimant(12_345, None), claimant(1, Some((40_000, 49_999)))] {
            assert_eq!(Claimant::parse(&claimant.name()), Some(claimant));
        }
        for name in [
            "",
            "mediasoup-exporter/2",
            "mediasoup-exporter/2/1/2",
            "mediasoup-exporter/2/1/2/0/owned",
            "mediasoup-exporter/2/1/2/64/owned",
            "mediasoup-exporter/3/1/2/9/owned",
        ] {
            assert_eq!(Claimant::parse(name), None, "{name}");
        }
        assert_eq!(Claimant::parse("mediasoup-exporter/2/1/2/9/owned/x"), None);
        let table = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 4711 @mediasoup-exporter/2/7/4711/9/owned
0000000000000000: 00000003 00000000 00000000 0001 03 4712 @mediasoup-exporter/2/7/4711/9/owned
0000000000000000: 00000002 00000000 00010000 0001 01 4713 /run/x
0000000000000000: 00000002 00000000 00010000 0001 01 4714
";
        assert_eq!(claimants(table), BTreeSet::from([claimant(7, None)]));
    }

    #[test]
    fn namespaces_that_see_each_other_have_tags_of_their_own() {
        let mut taken = BTreeSet::new();
        for cookie in (1..).step_by(62).take(usize::from(MOST_TAG)) {
            let tag = Tag::choose(NamespaceCookie(cookie), &taken);
            assert!(Tag::parse(&tag.number().to_string()) == Some(tag) && taken.insert(tag));
        }
        // There is none left, but the first namespace's, which it has whoever claims it.
        let nobodys = Tag::choose(NamespaceCookie(63), &taken);
        assert_ne!(nobodys, Tag::FIRST);
        assert_eq!(Tag::choose(NamespaceCookie::FIRST, &taken), Tag::FIRST);
        // Who does not see the first knows at least that it is not his.
        assert_ne!(Tag::choose(NamespaceCookie(2), &BTreeSet::new()), Tag::FIRST);
    }

    #[test]
    fn ports_overlap_or_not() {
        let check = |one, other, expected| {
            let (one, other) = (claimant(1, one), claimant(2, other));
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (expected, expected));
        };
        check(Some((1, 5)), Some((5, 9)), true);
        check(Some((1, 4)), Some((5, 9)), false);
        check(Some((1, 9)), Some((5, 5)), true);
        check(None, Some((5, 9)), true);
        check(None, None, true);
    }

    #[test]
    fn moments_are_dates() {
        let check = |seconds, expected: &str| {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_399, "2000-02-28 23:59:59 UTC");
        check(951_868_800, "2000-03-01 00:00:00 UTC");
        check(1_767_225_599, "2025-12-31 23:59:59 UTC");
        check(1_772_323_200, "2026-03-01 00:00:00 UTC");
    }
}
