//! Opens a TCP port of a namespace on this host's loopback, for people with a browser.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

const CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(30);

/// Serves until `stop` is set: each connection to `port` of this host's loopback goes to `to` inside
/// `host`. Those beyond a bound are closed at once. Port 0 takes a free one; `opened` is told.
pub fn serve(
    host: &Netns,
    port: u16,
    to: SocketAddr,
    stop: &AtomicBool,
    opened: impl FnOnce(SocketAddr),
) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, port);
    let listener =
        TcpListener::bind(address).with_context(|| format!("listen on 127.0.0.1:{port}"))?;
    opened(listener.local_addr()?);
    listener.set_nonblocking(true)?;
    let open = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, _)) = listener.accept() else {
            // Nobody there, or a client that left again; `stop` must be looked at either way.
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let server = host.run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));
        let open = Arc::clone(&open);
        thread::spawn(move || {
            let _ = server.and_then(|server| join(&client, &server));
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    for end in [client, server] {
        end.set_read_timeout(Some(IDLE))?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, server));
        copy(server, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
