//! Connections that servers tell and whose packets nobody has seen: how many, for which reason, and one
//! warning for the first of each.
//!
//! What the state knows of them and whether anything is counted at all come in; figures and warnings go
//! out. Nothing here asks anybody.

use crate::state::{Unseen, UnseenOf};

/// Why packets of a connection are not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nothing is counted on any interface.
    NoInterface,
    /// The host says that no worker of its server's owns the port.
    Port,
    /// The worker's socket is bound to an address that is not taken for this host's.
    Address,
    /// None of these, so that likely none have come or gone.
    NothingArrives,
}

/// What was warned of already, for as long as the program runs.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    warned: [bool; Reason::ALL.len()],
}

impl Reason {
    pub(super) const ALL: [Self; 4] =
        [Self::NoInterface, Self::Port, Self::Address, Self::NothingArrives];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoInterface => "no_interface",
            Self::Port => "port",
            Self::Address => "address",
            Self::NothingArrives => "nothing_arrives",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::NoInterface => {
                "nothing is counted on any interface; what the log says of interfaces and of rights \
                 says why"
            }
            Self::Port => {
                "its server names a process that is not known as a worker with this port; name the \
                 program that runs workers with --sfu, or, where --ports is given, the server's socket \
                 with --observer"
            }
            Self::Address => {
                "the worker's socket is bound to an address that the kernel's table of local routes does \
                 not have, or that there was no room for (mediasoup_exporter_table_entries, table \
                 addresses): `ip route add local ADDRESS dev lo` makes it local"
            }
            Self::NothingArrives => {
                "if its far end does send, its packets come where nobody counts: see \
                 mediasoup_exporter_interface_up, and mediasoup_exporter_events_total for packets that \
                 were turned away"
            }
        }
    }
}

impl Uncounted {
    /// How many there are for each reason, and what is to be warned of now.
    pub(super) fn look(
        &mut self,
        unseen: Unseen,
        counts_somewhere: bool,
    ) -> ([(Reason, u64); Reason::ALL.len()], Vec<String>) {
        let Unseen { port, address, others } = unseen;
        let of = match counts_somewhere {
            true => [UnseenOf::default(), port, address, others],
            false => {
                let count = port.count + address.count + others.count;
                let first = port.first.or(address.first).or(others.first);
                [
                    UnseenOf { count, first },
                    UnseenOf::default(),
                    UnseenOf::default(),
                    UnseenOf::default(),
                ]
            }
        };
        let mut figures = Reason::ALL.map(|reason| (reason, 0));
        let mut warnings = Vec::new();
        for ((figure, warned), of) in figures.iter_mut().zip(&mut self.warned).zip(of) {
            figure.1 = of.count;
            if let Some(first) = of.first
                && !std::mem::replace(warned, true)
            {
                let (reason, remedy) = (figure.0.as_str(), figure.0.remedy());
                // A server's word, so nothing of it reaches the log unescaped or at any length.
                let id: String = first.as_str().chars().take(LONGEST_ID).collect();
                warnings.push(format!(
                    "connection of transport {id:?}: no packet was seen ({reason}): {remedy}; \
                     mediasoup_exporter_connections_uncounted says how many there are"
                ));
            }
        }
        (figures, warnings)
    }
}

/// A mediasoup id has 36 characters.
const LONGEST_ID: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u64) -> UnseenOf {
        UnseenOf { count, first: (count > 0).then(|| "t\n1".into()) }
    }

    #[test]
    fn each_reason_is_warned_of_once() {
        let mut uncounted = Uncounted::default();
        let mut look = |port, address, others, counts| {
            let unseen = Unseen { port: of(port), address: of(address), others: of(others) };
            let (figures, warnings) = uncounted.look(unseen, counts);
            let is_clean = warnings.iter().all(|it| it.contains(r#"transport "t\n1""#));
            assert!(is_clean, "{warnings:?}");
            (figures.map(|it| it.1), warnings.len())
        };
        assert_eq!(look(0, 0, 0, true), ([0, 0, 0, 0], 0));
        assert_eq!(look(0, 0, 3, true), ([0, 0, 0, 3], 1));
        assert_eq!(look(2, 0, 3, true), ([0, 2, 0, 3], 1));
        assert_eq!(look(2, 1, 4, true), ([0, 2, 1, 4], 1));
        assert_eq!(look(2, 1, 4, false), ([7, 0, 0, 0], 1));
        assert_eq!(look(0, 0, 0, false), ([0, 0, 0, 0], 0));
    }
}
