//! Opens listening sockets, or takes those that systemd has opened.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Listens on the address; an unspecified IPv6 address takes IPv4 too. Where IPv6 is off and the
/// address is only the default, IPv4 alone is taken.
pub fn bind(address: SocketAddr, is_default: bool) -> anyhow::Result<TcpListener> {
    match listen(address) {
        Err(error) if is_default && address.is_ipv6() && no_ipv6(&error) => {
            let fallback = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            listen(fallback).map_err(|error| explain(fallback, &error))
        }
        result => result.map_err(|error| explain(address, &error)),
    }
}

/// The sockets that systemd passed (`.socket` units, sd_listen_fds(3)); TCP only.
pub fn activated() -> anyhow::Result<Vec<TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..passed.len() {
        let listener = passed.take_tcp_listener(at);
        let listener = listener.context("--web.systemd-socket: expected ListenStream= with TCP")?;
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
    }
    ensure!(
        !listeners.is_empty(),
        "--web.systemd-socket: no socket was passed; expected to be started by a .socket unit"
    );
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The system's default (net.ipv6.bindv6only) must not decide whether IPv4 works.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn explain(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program listens there: choose another port with --web.listen-address"
        }
        Some(libc::EACCES) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose another port with --web.listen-address"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "this host has no such address: choose another with --web.listen-address"
        }
        Some(libc::EAFNOSUPPORT) => {
            "this host has no IPv6: choose --web.listen-address 0.0.0.0:8889"
        }
        _ => "choose another with --web.listen-address",
    };
    anyhow!("listen on {address}: {error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_remedy() {
        let taken = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false).unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, false).unwrap_err().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("--web.listen-address"),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_foreign_address_is_named_with_its_remedy() {
        // TEST-NET-1 (RFC 5737) is nobody's.
        let error = bind("192.0.2.1:0".parse().unwrap(), true).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:0") && error.contains("--web.listen-address"), "{error}");
    }
}
