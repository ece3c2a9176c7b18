//! Whose password is checked next. Checks run one at a time: whoever guesses takes no more than one processor.
//!
//! Addresses take turns, each with one check: whoever gives his password waits for one guess of each other address
//! that guesses, however many these send. What an address has waiting is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Checks that one address may have, together with those that wait.
pub(super) const OF_ADDRESS: usize = 8;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// All copies are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Guesses {
    /// Held by who is checked. Those who wait for it are let in as they came.
    checking: Lock,
    /// By address: held by the one of its checks that waits for the lock above, and how many it has.
    waiting: Arc<Mutex<HashMap<IpAddr, (Lock, usize)>>>,
}

/// Its holder may check a password.
pub(super) struct Turn {
    _checking: OwnedMutexGuard<()>,
    _of_address: OwnedMutexGuard<()>,
    _place: Place,
}

/// One of an address' places; given back however waiting ends.
struct Place {
    guesses: Guesses,
    address: IpAddr,
}

impl Guesses {
    /// Waits for a turn. `None`: the address has as many checks as it may have.
    pub(super) async fn turn(&self, client: IpAddr) -> Option<Turn> {
        let address = household(client);
        let (place, lock) = self.place(address)?;
        let of_address = lock.lock_owned().await;
        let checking = self.checking.clone().lock_owned().await;
        Some(Turn { _checking: checking, _of_address: of_address, _place: place })
    }

    fn place(&self, address: IpAddr) -> Option<(Place, Lock)> {
        let mut waiting = self.waiting();
        let (lock, checks) = waiting.entry(address).or_default();
        if *checks >= OF_ADDRESS {
            return None;
        }
        *checks += 1;
        Some((Place { guesses: self.clone(), address }, lock.clone()))
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<IpAddr, (Lock, usize)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.guesses.waiting();
        if let Some((_, checks)) = waiting.get_mut(&self.address) {
            *checks -= 1;
            if *checks == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

/// Who has an IPv6 address has its /64 (RFC 4291 §2.5.4).
fn household(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn who_guesses_much_waits_behind_who_guesses_once() {
        let guesses = Guesses::default();
        let (eve, ada) = (address("192.0.2.66"), address("192.0.2.1"));
        let first = guesses.turn(eve).await;
        let mut others: Vec<_> = (1..OF_ADDRESS).map(|_| Box::pin(guesses.turn(eve))).collect();
        assert!(others.iter_mut().all(|other| other.now_or_never().is_none()));
        let mut right = Box::pin(guesses.turn(ada));
        assert!((&mut right).now_or_never().is_none());
        drop(first);
        // One of the guesser's was not in the line before: only one of an address is.
        assert!((&mut right).now_or_never().flatten().is_some());
        assert!(others.iter_mut().any(|other| other.now_or_never().flatten().is_some()));
    }

    #[tokio::test]
    async fn an_address_has_a_few_places_and_gets_them_back() {
        let guesses = Guesses::default();
        let (eve, near) = (address("2001:db8::1"), address("2001:db8::ffff:2"));
        let mut held: Vec<_> = (0..OF_ADDRESS).map(|_| Box::pin(guesses.turn(eve))).collect();
        let turns: Vec<_> = held.iter_mut().map(|turn| turn.now_or_never().flatten()).collect();
        assert_eq!(turns.iter().flatten().count(), 1);
        assert!(guesses.turn(near).await.is_none());
        assert!(guesses.turn(address("2001:db8:0:1::1")).now_or_never().is_none(), "it waits");
        drop((turns, held));
        assert!(guesses.waiting().is_empty());
        assert!(guesses.turn(near).await.is_some());
    }
}
