//! Binds UDP sockets as it is told, line by line, and says how many it bound or closed: a worker without
//! its media, under whatever name the program file has.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::{SocketAddr, UdpSocket};

fn main() {
    let most = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
    // SAFETY: the limit is read from a live reference.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) };
    let mut sockets: HashMap<SocketAddr, UdpSocket> = HashMap::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut bind = |address: SocketAddr| {
            let socket = UdpSocket::bind(address).ok()?;
            sockets.insert(address, socket);
            Some(())
        };
        let answer = match words[..] {
            ["bind", address] => usize::from(bind(address.parse().expect("an address")).is_some()),
            ["many", ip, first, count] => {
                let ip = ip.parse().expect("an address");
                let number = |word: &str| word.parse::<u16>().expect("a number");
                let (first, count) = (number(first), number(count));
                let ports = first..=first.saturating_add(count - 1);
                ports.filter_map(|port| bind(SocketAddr::new(ip, port))).count()
            }
            ["close", address] => {
                let address: SocketAddr = address.parse().expect("an address");
                usize::from(sockets.remove(&address).is_some())
            }
            _ => 0,
        };
        println!("{answer}");
        let _ = std::io::stdout().flush();
    }
}
