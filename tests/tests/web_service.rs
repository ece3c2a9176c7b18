//! The exporter as a service manager and a web server's operator see it: what it tells when it starts and ends,
//! sockets that it is given, and a web configuration that changes under it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exporter_tests::exporter::{Exporter, PASS_SOCKET, address, binary};
use exporter_tests::http;
use exporter_tests::netns::Netns;
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::{root_or_skip, wait};

const NOTHING: [&str; 4] = ["--source", "none", "--observer", "/nowhere"];

#[test]
fn a_service_manager_is_told() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("notify")?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(wait::LONG))?;
    let hear = || -> Result<String> {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).context("nothing is told")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
    };
    let host = Arc::new(Netns::new("notify")?);
    let path = path.to_str().context("a path that is not UTF-8")?;
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")];
    let exporter = Exporter::start(&host, &NOTHING, &variables)?;
    ensure!(hear()? == "READY=1");
    for _ in 0..3 {
        ensure!(hear()? == "WATCHDOG=1");
    }
    let stopping = std::thread::spawn(move || exporter.stop());
    let told =
        std::iter::repeat_with(hear).find(|told| !matches!(told, Ok(it) if it == "WATCHDOG=1"));
    ensure!(told.context("endless")?? == "STOPPING=1");
    stopping.join().expect("stopping does not panic")
}

/// As systemd does it: the socket is open before the exporter is.
#[test]
fn sockets_that_are_passed_are_served() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("activate")?;
    let mut command = host.command("python3");
    let (ip, port) = (address().ip().to_string(), address().port().to_string());
    let activate = format!("{PASS_SOCKET}os.execv(sys.argv[3], sys.argv[3:])");
    command.args(["-c", &activate, &ip, &port]).arg(binary()?).args(NOTHING);
    command.arg("--web.systemd-socket");
    let process = Guard::spawn("mediasoup-exporter", command)?;
    wait::until("an answer", wait::LONG, || {
        let answer = http::get(&host, address(), "/-/ready", &[]);
        Ok(answer.ok().filter(|it| it.status == 200).map(drop))
    })?;
    ensure!(process.stop(wait::LONG)?.success());
    // Without a socket it says what is missing.
    let mut alone = Command::new(binary()?);
    let output = alone.args(NOTHING).arg("--web.systemd-socket").output()?;
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && refusal.contains(".socket"), "{refusal}");
    Ok(())
}

#[test]
fn a_web_configuration_is_read_again() -> Result<()> {
    /// `alice:open`, as Basic authentication has it, and the password's hash.
    const OPEN: &str = "YWxpY2U6b3Blbg==";
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu5cldSTjqTa.nw4QeJC5.F6G/ueChgIa";
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("web")?;
    let path = folder.path().join("web.yml");
    let put = |text: &str| -> Result<()> {
        fs::write(folder.path().join("new"), text)?;
        Ok(fs::rename(folder.path().join("new"), &path)?)
    };
    put(&format!("basic_auth_users:\n  alice: {HASH}\n"))?;
    let host = Arc::new(Netns::new("web")?);
    let file = path.to_str().context("a path that is not UTF-8")?;
    let exporter =
        Exporter::start(&host, &[&NOTHING[..], &["--web.config.file", file]].concat(), &[])?;
    let status = |header: &str| -> Result<u16> { Ok(exporter.get("/", &[header])?.status) };
    let alice = format!("Authorization: Basic {OPEN}");
    ensure!(status("X: y")? == 401 && status(&alice)? == 200);
    let reread = |expected: u16| -> Result<()> {
        Command::new("kill").args(["-HUP", &exporter.pid().to_string()]).status()?;
        wait::until_equal("the file to be read", wait::LONG, || Ok((status("X: y")?, expected)))
    };
    put("http_server_config:\n  headers:\n    X-Frame-Options: deny\n")?;
    reread(200)?;
    // What is bad leaves things as they were, and is said.
    put("basic_auth_users: 7\n")?;
    Command::new("kill").args(["-HUP", &exporter.pid().to_string()]).status()?;
    wait::until("a word about it", wait::LONG, || {
        Ok(exporter.log().contains("cannot be used").then_some(()))
    })?;
    ensure!(status("X: y")? == 200);
    put(&format!("basic_auth_users:\n  alice: {HASH}\n"))?;
    reread(401)?;
    ensure!(status(&alice)? == 200);
    // An empty one, as while it is written, lets nobody in.
    let refusals = || exporter.log().matches("which would take users' passwords away").count();
    put("")?;
    Command::new("kill").args(["-HUP", &exporter.pid().to_string()]).status()?;
    wait::until("a word about it", wait::LONG, || Ok((refusals() == 1).then_some(())))?;
    ensure!(status("X: y")? == 401 && status(&alice)? == 200);
    exporter.stop()
}

/// Who asks an exporter that speaks TLS and has users: as `top` does.
#[test]
fn clients_ask_by_https_with_a_password() -> Result<()> {
    /// Of `open`.
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu5cldSTjqTa.nw4QeJC5.F6G/ueChgIa";
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("https")?;
    let file = |name: &str| -> Result<String> {
        Ok(folder.path().join(name).to_str().context("a path that is not UTF-8")?.to_owned())
    };
    let made = rcgen::generate_simple_self_signed(vec!["sfu.test".into(), "127.0.0.1".into()])?;
    fs::write(file("cert.pem")?, made.cert.pem())?;
    fs::write(file("key.pem")?, made.signing_key.serialize_pem())?;
    fs::write(file("password")?, "open\n")?;
    fs::write(file("wrong")?, "shut\n")?;
    let tls = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    fs::write(file("web.yml")?, format!("{tls}basic_auth_users:\n  alice: {HASH}\n"))?;
    let host = Netns::new("https")?;
    let mut command = host.command(binary()?.to_str().context("a path that is not UTF-8")?);
    command.args(NOTHING).args(["--web.config.file", &file("web.yml")?]);
    command.args(["--web.listen-address", "127.0.0.1:8889"]);
    let process = Guard::spawn("mediasoup-exporter", command)?;
    let ask = |flags: &[&str]| -> Result<(bool, String)> {
        let mut command = host.command(binary()?.to_str().context("a path that is not UTF-8")?);
        command.args(["top", "--once"]).args(flags);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (trusted, password, wrong) = (file("cert.pem")?, file("password")?, file("wrong")?);
    let url = ["--url", "https://127.0.0.1:8889"];
    let alice = ["--auth.user", "alice", "--auth.token-file"];
    let well = [&url[..], &["--tls.ca-file", &trusted], &alice, &[&password]].concat();
    wait::until("a table over TLS", wait::LONG, || Ok(ask(&well)?.0.then_some(())))?;
    let refused = |flags: &[&[&str]], part: &str| -> Result<()> {
        let (is_well, error) = ask(&flags.concat())?;
        ensure!(!is_well && error.contains(part), "{part}: {error}");
        Ok(())
    };
    refused(&[&url, &alice, &[&password]], "--tls.ca-file")?;
    refused(&[&url, &["--tls.ca-file", &trusted]], "--auth.token-file")?;
    refused(&[&url, &["--tls.ca-file", &trusted], &alice, &[&wrong]], "--auth.user")?;
    refused(&[&["--url", "https://localhost:8889", "--tls.ca-file", &trusted]], "TLS")?;
    refused(&[&url, &["--tls.ca-file", &password]], "expected certificates")?;
    refused(&[&["--url", "ftp://127.0.0.1"]], "https://HOST:PORT")?;
    ensure!(process.stop(wait::LONG)?.success());
    Ok(())
}
