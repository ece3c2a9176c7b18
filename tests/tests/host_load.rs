//! What the host does to packets, beside the kernel's own files: a worker that stands still has its socket
//! overflow, and one that works takes its time.

use std::fs;
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::scene::{BRIDGE, Scene};
use exporter_tests::{cast, wait};
use serde_json::json;

/// Datagrams that a socket which is not read has no room for.
const FLOOD: usize = 3_000;

#[test]
fn what_the_host_drops_is_what_its_files_say() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = Scene::open(&build, 1)?;
    scene.sfu.room("room", 1)?;
    scene.sfu.join("room", "ann", "Ann", "")?;
    let sfu = scene.address(false);
    let made = scene.sfu.call("plain", json!({ "peer": "ann", "ip": sfu, "comedia": true }))?;
    let port: u16 = made["port"].as_u64().context("a port")?.try_into()?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    let worker = scene.sfu.workers()[0];
    let pid = worker.to_string();
    let of_worker = [("pid", pid.as_str())];
    wait::until("the worker to be found", wait::LONG, || {
        let scrape = exporter.scrape()?;
        Ok(scrape.find("mediasoup_worker_cpu_seconds_total", &of_worker).next().map(|_| ()))
    })?;
    ensure!(exporter.scrape()?.sum("mediasoup_exporter_source_up", &[("source", "host")]) == 1.0);

    let (peer, _) = scene.new_host(false)?;
    let socket = peer.run_in(|| UdpSocket::bind("0.0.0.0:0"))?;
    let before = processor_ticks(worker)?;
    wait::until("the worker to take some time", wait::LONG, || {
        (0..FLOOD).try_for_each(|_| socket.send_to(&[0x80; 200], (sfu, port)).map(|_| ()))?;
        Ok((processor_ticks(worker)? > before).then_some(()))
    })?;

    let full = [("version", "4"), ("reason", "receive_buffer")];
    // It stands still: nothing of its own changes, and its socket overflows.
    let quiet = scene.sfu.quiet()?;
    wait::until("the worker to stand still", wait::LONG, || {
        Ok((stat(worker)?.first().is_some_and(|state| state == "T")).then_some(()))
    })?;
    let still = processor_ticks(worker)?;
    (0..FLOOD).try_for_each(|_| socket.send_to(&[0x80; 1_000], (sfu, port)).map(|_| ()))?;
    // Ticks are hundredths in every Linux program's view (USER_HZ). A scrape may be given what was read a
    // moment ago.
    let scrape = wait::until("the scrape to be of now", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let seconds = scrape.sum("mediasoup_worker_cpu_seconds_total", &of_worker);
        let dropped = scrape.sum("mediasoup_host_udp_dropped_total", &full);
        let is_now = dropped == udp(&scene.host, "RcvbufErrors")? as f64
            && (seconds * 100.0).round() == still as f64;
        Ok(is_now.then_some(scrape))
    })?;
    assert_eq!(still, processor_ticks(worker)?, "it stood still");
    ensure!(still > before, "{still} ticks, and {before} before");
    let resident = scrape.sum("mediasoup_worker_resident_memory_bytes", &of_worker);
    assert_eq!(resident, resident_bytes(worker)? as f64);

    let dropped = scrape.sum("mediasoup_host_udp_dropped_total", &full);
    assert_eq!(dropped, udp(&scene.host, "RcvbufErrors")? as f64);
    let address = format!("{sfu}:{port}");
    let of_socket = [("local_addr", address.as_str()), ("proto", "udp")];
    assert_eq!(dropped, scrape.sum("mediasoup_socket_receive_drops_total", &of_socket));
    ensure!(dropped > 0.0, "a socket of {FLOOD} datagrams' room");
    drop(quiet);

    interfaces_are_as_the_kernel_says(&exporter, &scene.host)?;
    processors_are_all_there(&exporter)?;
    exporter.stop()
}

fn interfaces_are_as_the_kernel_says(exporter: &Exporter, host: &Netns) -> Result<()> {
    let before = exporter.scrape()?;
    let drops = |line: &str| -> Result<u64> {
        let counts = line.split_once(':').context("a line of an interface")?.1;
        Ok(counts.split_whitespace().nth(3).context("the drops")?.parse()?)
    };
    let file = of_namespace(host, "dev")?;
    let line = file.lines().find(|line| line.trim().starts_with(BRIDGE)).context("the bridge")?;
    let labels = [("interface", BRIDGE), ("direction", "receive"), ("reason", "drop")];
    assert_eq!(before.find("mediasoup_host_interface_dropped_total", &labels).count(), 1);
    let shown = before.sum("mediasoup_host_interface_dropped_total", &labels) as u64;
    ensure!(shown <= drops(line)?, "{shown} are more than {line}");
    // A scrape may be given what was read a moment ago.
    wait::until("as many as the kernel had then", wait::LONG, || {
        let after = exporter.scrape()?.sum("mediasoup_host_interface_dropped_total", &labels);
        Ok((after as u64 >= drops(line)?).then_some(()))
    })
}

fn processors_are_all_there(exporter: &Exporter) -> Result<()> {
    let online = fs::read_to_string("/proc/self/net/softnet_stat")?.lines().count();
    let scrape = exporter.scrape()?;
    for family in ["packets", "dropped", "squeezed"] {
        let name = format!("mediasoup_host_softnet_{family}_total");
        assert_eq!(scrape.find(&name, &[]).count(), online, "{name}");
    }
    ensure!(scrape.sum("mediasoup_host_softnet_packets_total", &[]) > 0.0, "nothing came");
    Ok(())
}

/// A file of a network namespace.
fn of_namespace(host: &Netns, file: &str) -> Result<String> {
    let output = host.command("cat").arg(format!("/proc/self/net/{file}")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn udp(host: &Netns, name: &str) -> Result<u64> {
    let text = of_namespace(host, "snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, counts) = lines.next().zip(lines.next()).context("two lines of UDP")?;
    let at = names.split(' ').position(|it| it == name).context("the count's name")?;
    Ok(counts.split(' ').nth(at).context("the count")?.parse()?)
}

/// The words of a process' stat from the third on, its state (proc_pid_stat(5)).
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, words) = text.rsplit_once(')').context("a name in parentheses")?;
    Ok(words.split_whitespace().map(str::to_owned).collect())
}

/// A word of it, counted from one as there.
fn stat_word(pid: u32, number: usize) -> Result<u64> {
    Ok(stat(pid)?.get(number - 3).context("a word")?.parse()?)
}

fn processor_ticks(pid: u32) -> Result<u64> {
    Ok(stat_word(pid, 14)? + stat_word(pid, 15)?)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    Ok(stat_word(pid, 24)? * 4096)
}
