//! Looks up reverse names in the background.
//!
//! Addresses come in through a bounded queue, answers go out through a function; what is remembered,
//! for how long, and whether it is shown, is decided in [`crate::labels`]. Only that many look-ups
//! run at a time, and each ends in time, so a name server that hangs costs only names.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::model::canonical_ip;

/// Addresses that wait at most.
const QUEUE: usize = 1024;
/// Look-ups at a time.
const CONCURRENCY: usize = 32;
/// For one look-up, all tries together.
const PATIENCE: Duration = Duration::from_secs(4);
/// For one try.
const TRY: Duration = Duration::from_secs(2);

/// Where addresses go.
#[derive(Clone, Debug)]
pub struct Questions {
    queue: mpsc::Sender<IpAddr>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lookups: AtomicU64,
    failures: AtomicU64,
}

/// What there is to do; see [`run`].
pub struct Work {
    queue: mpsc::Receiver<IpAddr>,
    counts: Arc<Counts>,
}

/// A queue of questions, and its other end.
pub fn questions() -> (Questions, Work) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let counts = Arc::<Counts>::default();
    (Questions { queue: sender, counts: counts.clone() }, Work { queue: receiver, counts })
}

impl Questions {
    /// How many more the queue takes now.
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }

    /// Asks for a name. False: there was no room.
    pub fn ask(&self, ip: IpAddr) -> bool {
        self.queue.try_send(ip).is_ok()
    }

    /// Look-ups made, and those that found nothing.
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.counts.lookups), load(&self.counts.failures))
    }
}

/// Where the system's name servers are named.
const CONFIGURATION: &str = "/etc/resolv.conf";
/// Between two looks whether they are others.
const LOOK: Duration = Duration::from_secs(10);

/// The resolver that is used now; `None` until the system names a name server, which at boot may take a
/// while.
type Current = Arc<Mutex<Option<TokioResolver>>>;

/// Answers questions from the system's name servers until nobody can ask any more. While there are none,
/// questions wait. Needs a tokio runtime; `opener` is one that may read files.
pub async fn run(work: Work, opener: Handle, answer: impl Fn(IpAddr, Option<Arc<str>>) + Send) {
    let (current, ready) = (Current::default(), Notify::new());
    let answering = async {
        ready.notified().await;
        let lookup = |ip| {
            let resolver = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { reverse(resolver?, ip).await }
        };
        answer_all(work, PATIENCE, lookup, answer).await;
    };
    tokio::select! {
        () = answering => {}
        () = follow(&current, &ready, &opener) => {}
    }
}

/// Keeps the resolver up to date with its configuration, as DHCP and VPNs change it.
async fn follow(current: &Current, ready: &Notify, opener: &Handle) {
    let (mut seen, mut is_missed) = (None, false);
    loop {
        let before = seen.take();
        let look = opener.spawn(async move {
            let content = tokio::fs::read(CONFIGURATION).await.unwrap_or_default();
            // Reads the table of hosts, too.
            let other = (before.as_ref() != Some(&content)).then(|| resolver_of(&content));
            (content, other)
        });
        // It ends early only with the runtime.
        let Ok((content, other)) = look.await else { return };
        if let Some(made) = other {
            match made {
                Ok(resolver) => {
                    *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(resolver);
                    ready.notify_one();
                    if std::mem::take(&mut is_missed) {
                        tracing::info!("{CONFIGURATION} names a name server now");
                    }
                }
                Err(error) if !std::mem::replace(&mut is_missed, true) => tracing::warn!(
                    "{CONFIGURATION}: {error:#}; it is read again when it changes. Without reverse names: \
                     --numeric"
                ),
                Err(_) => {}
            }
        }
        seen = Some(content);
        tokio::time::sleep(LOOK).await;
    }
}

/// From the content of resolv.conf (resolv.conf(5)).
fn resolver_of(content: &[u8]) -> anyhow::Result<TokioResolver> {
    let (configuration, options) = parse_resolv_conf(content).context("it cannot be read")?;
    ensure!(!configuration.name_servers().is_empty(), "it names no name server");
    resolver(configuration, options)
}

fn resolver(configuration: ResolverConfig, options: ResolverOpts) -> anyhow::Result<TokioResolver> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(configuration, provider);
    *builder.options_mut() = options;
    let options = builder.options_mut();
    options.timeout = TRY;
    options.attempts = 1;
    // A name may have addresses of both families, and either may be the one that is to be confirmed.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Answers are remembered elsewhere.
    options.cache_size = 0;
    Ok(builder.build()?)
}

/// The name of an address, if that name has the address in turn: whoever has a network can give its addresses any
/// name (RFC 1912 §2.1 asks for both).
async fn reverse(resolver: TokioResolver, ip: IpAddr) -> Option<String> {
    let lookup = resolver.reverse_lookup(ip).await.ok()?;
    let name = lookup.answers().iter().find_map(|record| match &record.data {
        RData::PTR(name) => Some(name.to_utf8()),
        _ => None,
    })?;
    // With its dot at the end, so that no search domain is tried.
    let whole = format!("{}.", name.trim_end_matches('.'));
    let forward = resolver.lookup_ip(whole.as_str()).await.ok()?;
    let ip = canonical_ip(ip);
    forward
        .iter()
        .any(|found| canonical_ip(found) == ip)
        .then(|| name.trim_end_matches('.').to_owned())
}

async fn answer_all<F: Future<Output = Option<String>>>(
    mut work: Work,
    patience: Duration,
    lookup: impl Fn(IpAddr) -> F,
    answer: impl Fn(IpAddr, Option<Arc<str>>),
) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            question = work.queue.recv(), if open && running.len() < CONCURRENCY => {
                let Some(ip) = question else {
                    open = false;
                    continue;
                };
                work.counts.lookups.fetch_add(1, Ordering::Relaxed);
                let found = tokio::time::timeout(patience, lookup(ip));
                running.push(async move { (ip, found.await.ok().flatten()) });
            }
            Some((ip, name)) = running.next(), if !running.is_empty() => {
                if name.is_none() {
                    work.counts.failures.fetch_add(1, Ordering::Relaxed);
                }
                answer(ip, name.map(Arc::from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hickory_resolver::config::NameServerConfig;
    use hickory_resolver::proto::op::Message;
    use hickory_resolver::proto::rr::rdata::PTR;
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::sandbox::{Sandbox, Task};

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    async fn answers<F: Future<Output = Option<String>>>(
        count: u8,
        patience: Duration,
        lookup: impl Fn(IpAddr) -> F,
    ) -> (Vec<(IpAddr, Option<Arc<str>>)>, (u64, u64)) {
        let (questions, work) = questions();
        for last in 0..count {
            assert!(questions.ask(ip(last)));
        }
        let kept = questions.clone();
        let counts = kept.counts.clone();
        drop((questions, kept));
        let answers = RefCell::new(Vec::new());
        answer_all(work, patience, lookup, |ip, name| answers.borrow_mut().push((ip, name))).await;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (answers.into_inner(), (load(&counts.lookups), load(&counts.failures)))
    }

    #[tokio::test]
    async fn every_question_has_an_answer() {
        let (answers, counts) = answers(200, PATIENCE, async |ip| match ip {
            IpAddr::V4(v4) if v4.octets()[3] % 2 == 0 => Some(format!("host-{ip}.example")),
            _ => None,
        })
        .await;
        assert_eq!(answers.len(), 200);
        assert_eq!(counts, (200, 100));
        assert!(answers.contains(&(ip(4), Some("host-198.51.100.4.example".into()))));
        assert!(answers.contains(&(ip(5), None)));
    }

    #[tokio::test]
    async fn look_ups_that_hang_are_bounded_in_number_and_time() {
        let (now, most) = (RefCell::new(0_usize), RefCell::new(0_usize));
        let (answers, counts) = answers(100, Duration::from_millis(1), async |_| {
            *now.borrow_mut() += 1;
            most.replace_with(|most| (*most).max(*now.borrow()));
            let _leaves = Leaves(&now);
            std::future::pending().await
        })
        .await;
        assert_eq!(answers.len(), 100);
        assert_eq!(counts, (100, 100));
        assert_eq!(most.into_inner(), CONCURRENCY);
    }

    /// What a small name server has: reverse names, and the addresses of names.
    const REVERSE: [(&str, &str); 5] = [
        ("192.0.2.1", "honest.example."),
        ("192.0.2.2", "bank.example."),
        ("192.0.2.3", "ghost.example."),
        ("2001:db8::1", "honest.example."),
        ("2001:db8::2", "bank.example."),
    ];
    const FORWARD: [(&str, &str); 4] = [
        ("honest.example.", "192.0.2.1"),
        ("honest.example.", "192.0.2.7"),
        ("honest.example.", "2001:db8::1"),
        ("bank.example.", "192.0.2.99"),
    ];

    /// Its answer.
    fn answer(question: &[u8]) -> Vec<u8> {
        let question = Message::from_vec(question).unwrap();
        let asked = question.queries[0].clone();
        let mut answers = Vec::new();
        for (ip, name) in REVERSE {
            if asked.name() == &Name::from(ip.parse::<IpAddr>().unwrap()) {
                answers.push(RData::PTR(PTR(name.parse().unwrap())));
            }
        }
        for (_, ip) in FORWARD.iter().filter(|(name, _)| asked.name().to_string() == *name) {
            let data = match ip.parse().unwrap() {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            };
            answers.push(data);
        }
        answers.retain(|data| data.record_type() == asked.query_type());
        let mut response = Message::response(question.id, question.op_code);
        response.metadata.recursion_available = true;
        for data in answers {
            response.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
        }
        response.add_query(asked);
        response.to_vec().unwrap()
    }

    #[tokio::test]
    async fn a_name_is_shown_only_if_it_has_the_address() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                socket.send_to(&answer(&question[..length]), from).await.unwrap();
            }
        });
        let mut server = NameServerConfig::udp(address.ip());
        server.connections[0].port = address.port();
        let configuration = ResolverConfig::from_parts(None, vec![], vec![server]);
        let resolver = resolver(configuration, ResolverOpts::default()).unwrap();
        // Where it happens: what the sandbox leaves is enough.
        let asking = Sandbox::new(true).unwrap().runtime(Task::Ask).unwrap();
        for (ip, expected) in [
            ("192.0.2.1", Some("honest.example")),
            ("::ffff:192.0.2.1", Some("honest.example")),
            ("2001:db8::1", Some("honest.example")),
            ("192.0.2.2", None),
            ("2001:db8::2", None),
            ("192.0.2.3", None),
            ("192.0.2.4", None),
        ] {
            let ip = canonical_ip(ip.parse().unwrap());
            let name = asking.spawn(reverse(resolver.clone(), ip)).await.unwrap();
            assert_eq!(name.as_deref(), expected, "{ip}");
        }
        asking.shutdown_background();
        serving.abort();
    }

    struct Leaves<'a>(&'a RefCell<usize>);

    impl Drop for Leaves<'_> {
        fn drop(&mut self) {
            *self.0.borrow_mut() -= 1;
        }
    }

    #[tokio::test]
    async fn a_configuration_without_name_servers_is_none() {
        for content in ["", "# none yet\n", "search example.org\n"] {
            assert!(resolver_of(content.as_bytes()).is_err(), "{content:?}");
        }
        assert!(resolver_of(b"nameserver 192.0.2.53\n").is_ok());
    }

    #[test]
    fn the_queue_is_bounded() {
        let (questions, _work) = questions();
        assert_eq!(questions.room(), QUEUE);
        for _ in 0..QUEUE {
            assert!(questions.ask(ip(1)));
        }
        assert_eq!((questions.room(), questions.ask(ip(2))), (0, false));
    }
}
