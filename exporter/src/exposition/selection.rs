//! Which families are written: groups, as a request names them.

use crate::exposition::families::Group;
use crate::ledger::Extent;

/// Which families are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection(u16);

impl Selection {
    /// Every family.
    pub const ALL: Self = Self(u16::MAX);

    /// No family.
    pub const NONE: Self = Self(0);

    /// What was counted on the wire.
    pub fn kernel() -> Self {
        [Group::Connections, Group::Streams, Group::Strangers].into_iter().collect()
    }

    /// Names of groups, `kernel` and `all` among them, separated by commas; the error is the name
    /// that means nothing.
    pub fn parse(names: &str) -> Result<Self, &str> {
        let mut selection = Self::NONE;
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let group = Group::ALL.into_iter().find(|group| group.name() == name);
            selection.0 |= match (name, group) {
                ("all", _) => Self::ALL.0,
                ("kernel", _) => Self::kernel().0,
                (_, Some(group)) => 1 << group as u8,
                (_, None) => return Err(name),
            };
        }
        Ok(if selection == Self::NONE { Self::ALL } else { selection })
    }

    /// The families of both.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All families of the other are among these.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a group's families are among these.
    pub fn has(self, group: Group) -> bool {
        self.0 & 1 << group as u8 != 0
    }
}

impl FromIterator<Group> for Selection {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        Self(groups.into_iter().fold(0, |bits, group| bits | 1 << group as u8))
    }
}

impl From<Selection> for Extent {
    fn from(selection: Selection) -> Self {
        let has_any = |groups: &[Group]| groups.iter().any(|group| selection.has(*group));
        Self {
            objects: has_any(&[Group::Contract, Group::Info, Group::Objects]),
            packets: has_any(&[Group::Connections, Group::Streams, Group::Strangers]),
            sockets: selection.has(Group::Sockets),
        }
    }
}
