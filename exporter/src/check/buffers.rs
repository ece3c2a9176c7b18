//! Whether the workers' sockets had room for what came: the kernel drops what a worker does not read in time.

use std::path::Path;

use super::finding::Finding;
use crate::host::procfs;
use crate::host::workers::WorkerProcess;
use crate::model::{Proto, SocketStats};
use crate::sockets;

/// Looks.
pub(super) fn look(workers: &[WorkerProcess]) -> Finding {
    if workers.is_empty() {
        return Finding::skipped("buffers", "no worker has a socket");
    }
    match sockets::read(workers, None) {
        Ok(sockets) => judge(&sockets, default_bytes()),
        Err(error) => Finding::skipped("buffers", format!("the sockets cannot be seen: {error}")),
    }
}

/// What a socket has room for unless its program asks for more (socket(7)).
fn default_bytes() -> Option<u64> {
    procfs::read(Path::new("/proc/sys/net/core/rmem_default")).ok()?.trim().parse().ok()
}

fn judge(sockets: &[SocketStats], default: Option<u64>) -> Finding {
    let room = default.map_or("an unknown number of".to_owned(), |bytes| bytes.to_string());
    let of_udp = || sockets.iter().filter(|socket| socket.proto == Proto::Udp);
    let drops: u64 = of_udp().map(|socket| socket.drops).sum();
    match of_udp().max_by_key(|socket| socket.drops).filter(|socket| socket.drops > 0) {
        None => Finding::ok(
            "buffers",
            format!("no datagram was dropped for want of room ({room} bytes by default)"),
        ),
        Some(worst) => Finding::warning(
            "buffers",
            format!(
                "{drops} datagrams were dropped for want of room since the workers' sockets were opened, {} of them at \
                 {} ({room} bytes by default)",
                worst.drops, worst.local
            ),
            "see whether the number grows; if so, a worker reads too late: start more workers, and raise \
             net.core.rmem_default (and rmem_max, where the server asks for more itself)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn socket(proto: Proto, port: u16, drops: u64) -> SocketStats {
        SocketStats {
            proto,
            local: ([192, 0, 2, 1], port).into(),
            remote: None,
            drops,
            receive_queue_bytes: 0,
            send_queue_bytes: 0,
            tcp: None,
        }
    }

    #[test]
    fn drops_are_a_warning_that_names_the_worst() {
        let well = judge(&[socket(Proto::Udp, 1, 0), socket(Proto::Tcp, 2, 9)], Some(212_992));
        assert_eq!(well.level, Level::Ok);
        let bad = judge(&[socket(Proto::Udp, 1, 3), socket(Proto::Udp, 2, 40)], None);
        assert_eq!(bad.level, Level::Warning);
        assert!(bad.text.contains("43 datagrams") && bad.text.contains("192.0.2.1:2"), "{bad:?}");
    }
}
