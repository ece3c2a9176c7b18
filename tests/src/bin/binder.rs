//! Binds UDP sockets as it is told, line by line, and says how many it bound or closed: a worker without
//! its media, under whatever name the program file has.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

/// By where they are bound; several may share that.
type Sockets = HashMap<SocketAddr, Vec<UdpSocket>>;

fn main() {
    let most = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
    // SAFETY: the limit is read from a live reference.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) };
    let mut sockets = Sockets::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        println!("{}", obey(&words, &mut sockets));
        let _ = io::stdout().flush();
    }
}

fn obey(words: &[&str], sockets: &mut Sockets) -> usize {
    let address = |word: &str| word.parse::<SocketAddr>().expect("an address");
    let mut keep = |at: SocketAddr, socket: io::Result<UdpSocket>| {
        let Ok(socket) = socket else { return false };
        sockets.entry(at).or_default().push(socket);
        true
    };
    match words[..] {
        ["bind", at] => usize::from(keep(address(at), UdpSocket::bind(address(at)))),
        ["bind-v6-only", at] => {
            usize::from(keep(address(at), bind(address(at), |socket| socket.set_only_v6(true))))
        }
        ["share", at, count] => {
            let count = count.parse::<usize>().expect("a number");
            let share = || bind(address(at), |socket| socket.set_reuse_port(true));
            (0..count).filter(|_| keep(address(at), share())).count()
        }
        ["connect", at, to] => {
            let socket = UdpSocket::bind(address(at))
                .and_then(|socket| socket.connect(address(to)).map(|()| socket));
            usize::from(keep(address(at), socket))
        }
        ["many", ip, first, count] => {
            let ip = ip.parse().expect("an address");
            let number = |word: &str| word.parse::<u16>().expect("a number");
            let (first, count) = (number(first), number(count));
            let ports = first..=first.saturating_add(count - 1);
            let ends = ports.map(|port| SocketAddr::new(ip, port));
            ends.filter(|&at| keep(at, UdpSocket::bind(at))).count()
        }
        // The oldest of those that share the address.
        ["close", at] => {
            let Some(there) = sockets.get_mut(&address(at)) else { return 0 };
            let has_one = !there.is_empty();
            there.drain(..usize::from(has_one)).count()
        }
        // The same bytes so often, from the oldest.
        ["send", at, bytes, count, to] => {
            let count = count.parse::<usize>().expect("a number");
            let bytes = hexadecimal(bytes);
            let Some([socket, ..]) = sockets.get(&address(at)).map(Vec::as_slice) else { return 0 };
            (0..count).filter(|_| socket.send_to(&bytes, address(to)).is_ok()).count()
        }
        _ => 0,
    }
}

fn hexadecimal(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn bind(at: SocketAddr, prepare: impl Fn(&Socket) -> io::Result<()>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
    prepare(&socket)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}
