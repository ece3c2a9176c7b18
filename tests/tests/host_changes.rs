//! Changes of a host's addresses, routes and interfaces are followed, and a flood of them is not followed
//! one by one.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exporter_tests::netns::Netns;
use exporter_tests::pair::{Pair, options};
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::host::addresses::MOST_OF_NAMESPACE;
use mediasoup_exporter::host::namespaces::NamespaceCookie;
use mediasoup_exporter::host::survey::Surveyor;
use mediasoup_exporter::host::workers::Workers;
use mediasoup_exporter::kernel::{Counting, MethodChoice, Options};

/// Routes that are added and removed again, all of them in each round.
const ROUTES: u32 = 20_000;

/// A router's routes to elsewhere do not even wake the exporter; a flood of local ones is looked at now
/// and then.
#[test]
fn a_burst_of_routes_costs_few_looks() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Arc::new(Pair::new()?);
    let inside = Arc::clone(&pair);
    pair.sfu.run_in(|| {
        let interfaces = vec!["sfu*".to_owned()];
        let options = Options { interfaces, method: MethodChoice::Ebpf, ..options() };
        let counting = Arc::new(Counting::start(&options)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let following = Arc::clone(&counting).follow(async {
            let _ = stopped.await;
        });
        runtime.block_on(async {
            let following = tokio::spawn(following);
            let watch = Arc::clone(&counting);
            let seen = tokio::task::spawn_blocking(move || burst(&inside, &watch)).await?;
            let _ = stop.send(());
            following.await?;
            seen
        })
    })
}

fn burst(pair: &Pair, counting: &Counting) -> Result<()> {
    // The links' own addresses come to rest first.
    pair.sfu.address("sfu0", "10.88.0.1".parse()?, 24)?;
    wait::until("the new address to be looked at", wait::LONG, || {
        Ok((counting.status().looks >= 2).then_some(()))
    })?;
    let elsewhere = |verb: &str| routes(&pair.sfu, verb, "", "via 10.77.0.2");
    let before = (counting.status().looks, cpu()?);
    elsewhere("add")?;
    elsewhere("del")?;
    let after = (counting.status().looks, cpu()?);
    eprintln!(
        "{} routes to elsewhere and back: {} looks, {} ms of processor time",
        ROUTES,
        after.0 - before.0,
        after.1 - before.1
    );
    // Those that come in any case, every ten seconds.
    ensure!(after.0 - before.0 <= 6, "{} looks", after.0 - before.0);

    let local = |verb: &str| routes(&pair.sfu, verb, "local", "dev lo");
    let before = (counting.status().looks, cpu()?);
    local("add")?;
    local("del")?;
    let after = (counting.status().looks, cpu()?);
    eprintln!(
        "{} local routes and back: {} looks, {} ms of processor time",
        ROUTES,
        after.0 - before.0,
        after.1 - before.1
    );
    // 40,000 changes. The pause grows from 0.05 to 3 seconds, so that even a minute has no more.
    ensure!(after.0 - before.0 <= 40, "{} looks", after.0 - before.0);
    // What came last is seen in the end.
    pair.sfu.ip("link add sfu9 type bridge")?;
    pair.sfu.ip("link set sfu9 up")?;
    wait::until("the last change", wait::LONG, || {
        Ok(counting.status().interfaces.iter().any(|name| name == "sfu9").then_some(()))
    })
}

fn routes(host: &Netns, verb: &str, kind: &str, rest: &str) -> Result<()> {
    use std::io::Write;
    let mut command: Command = host.command("ip");
    let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut input = std::io::BufWriter::new(ip.stdin.take().context("no stdin")?);
    for number in 0..ROUTES {
        let address = std::net::Ipv4Addr::from(0x1e00_0000 + number);
        writeln!(input, "route {verb} {kind} {address}/32 {rest}")?;
    }
    drop(input);
    ensure!(ip.wait()?.success(), "ip route {verb} failed");
    Ok(())
}

/// Processor time of this process, milliseconds.
fn cpu() -> Result<i64> {
    // SAFETY: an all-zero rusage is valid, and getrusage writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        ensure!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) == 0, "getrusage");
        usage
    };
    let of = |time: libc::timeval| time.tv_sec * 1000 + time.tv_usec / 1000;
    Ok(of(usage.ru_utime) + of(usage.ru_stime))
}

/// What a look finds: prefixes that are local by route, addresses that are in a VRF's table, no routes to
/// elsewhere.
#[test]
fn what_is_local_is_what_the_kernel_says() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("local")?;
    host.ip("link add name eth9 type bridge")?;
    host.ip("link set eth9 up")?;
    host.address("eth9", "10.89.0.1".parse()?, 24)?;
    host.address("eth9", "fd89::1".parse()?, 64)?;
    host.ip("route add local 203.0.113.0/24 dev lo")?;
    host.ip("route add local 2001:db8:7::/64 dev lo")?;
    host.ip("route add 192.0.2.0/24 via 10.89.0.2")?;
    let local = || -> Result<Vec<String>> {
        let workers = Arc::new(Workers::default());
        let survey = host.run_in(|| Surveyor::new(&[], &[], workers)?.look())?;
        Ok(survey.local.prefixes.iter().map(|(prefix, _)| prefix.to_string()).collect())
    };
    let found = local()?;
    for expected in
        ["10.89.0.1/32", "fd89::1/128", "203.0.113.0/24", "2001:db8:7::/64", "127.0.0.0/8"]
    {
        ensure!(found.iter().any(|it| it == expected), "{expected} is not in {found:?}");
    }
    for wrong in ["192.0.2.0/24", "10.89.0.0/24", "10.89.0.255/32", "fd89::/64"] {
        ensure!(!found.iter().any(|it| it == wrong), "{wrong} is in {found:?}");
    }
    host.ip("route del local 203.0.113.0/24 dev lo")?;
    ensure!(!local()?.iter().any(|it| it == "203.0.113.0/24"), "it is still there");
    Ok(())
}

/// Whoever may make a network namespace of his own may give it as many addresses as he likes, the host's
/// among them.
#[test]
fn many_addresses_elsewhere_push_none_of_the_hosts_out() -> Result<()> {
    use std::io::Write;
    if !root_or_skip() {
        return Ok(());
    }
    let (host, other) = (Netns::new("host")?, Netns::new("other")?);
    host.ip("link add name eth9 type bridge")?;
    host.ip("link set eth9 up")?;
    host.address("eth9", "10.89.0.1".parse()?, 24)?;
    let mut command: Command = other.command("ip");
    let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut input = std::io::BufWriter::new(ip.stdin.take().context("no stdin")?);
    writeln!(input, "address add 10.89.0.1/32 dev lo")?;
    for number in 0..ROUTES {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        writeln!(input, "address add {address}/32 dev lo")?;
    }
    drop(input);
    ensure!(ip.wait()?.success(), "ip address add failed");
    let mut command: Command = other.command("sh");
    command.args(["-c", "echo x; read y", "--logLevel=warn", "--rtcMinPort=1"]);
    let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Read::read_exact(worker.stdout.as_mut().context("no stdout")?, &mut [0])?;

    let workers = Arc::new(Workers::default());
    let survey = host.run_in(|| Surveyor::new(&[], &[], workers)?.look());
    let own = host.run_in(NamespaceCookie::own)?;
    worker.kill()?;
    worker.wait()?;
    let local = survey?.local;
    let of_host: Vec<_> =
        local.prefixes.iter().filter(|row| row.1 == own).map(|row| row.0).collect();
    ensure!(of_host.contains(&"10.89.0.1/32".parse()?), "{of_host:?}");
    assert_eq!(local.left_out, 0);
    // Other workers of this machine may have some, too.
    let of_other = local
        .prefixes
        .iter()
        .filter(|row| row.1 != own && row.0.to_string().starts_with("10.0."))
        .count();
    ensure!(of_other > 0 && of_other <= MOST_OF_NAMESPACE, "{of_other}");
    ensure!(local.foreign_left_out > 19_000, "{}", local.foreign_left_out);
    Ok(())
}
