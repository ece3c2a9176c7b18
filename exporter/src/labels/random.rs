//! Numbers for property tests: the same in every run, so that a failure can be had again.

use std::net::{IpAddr, SocketAddr};

/// xorshift64*; the seed must not be zero.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Any far end, IPv4 and IPv6 alike, now and then with many zeros in it.
    pub(crate) fn remote(&mut self) -> SocketAddr {
        let thin = if self.below(4) == 0 { self.next() } else { u64::MAX };
        let ip = match self.below(2) {
            0 => IpAddr::V4((self.next() as u32 & thin as u32).into()),
            _ => {
                let bits = u128::from(self.next() & thin) << 64 | u128::from(self.next() & thin);
                IpAddr::V6(bits.into()).to_canonical()
            }
        };
        SocketAddr::new(ip, 1024 + self.below(60_000) as u16)
    }
}
