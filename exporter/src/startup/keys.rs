//! The key of pseudonyms: from a file or made here, for good or for a period.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use crate::config::Rotate;
use crate::labels::address::KEY_BYTES;
use crate::labels::{AddressPolicy, NamePolicy, Renewal, key_of_period};

type Key = [u8; KEY_BYTES];

/// Where pseudonyms come from.
#[derive(Clone)]
pub struct Keys {
    /// From the file; `None`: each period has a fresh one that is nowhere else.
    key: Option<Key>,
    rotate: Rotate,
    /// The period of the pseudonyms that are in use.
    period: Option<String>,
    /// Addresses have pseudonyms, and names do.
    wanted: [bool; 2],
}

impl Keys {
    /// For addresses, for names; from a key file's content if there is one.
    pub fn new(content: Option<&[u8]>, rotate: Rotate, wanted: [bool; 2]) -> anyhow::Result<Self> {
        let key = content.map(parse).transpose()?;
        Ok(Self { key, rotate, period: rotate.period(now()), wanted })
    }

    /// How things are shown in the period that holds; the first time, and after each change.
    pub fn policies(&self) -> anyhow::Result<(Option<AddressPolicy>, Option<NamePolicy>)> {
        let key = match (&self.key, &self.period) {
            (None, _) => fresh()?,
            (Some(key), None) => *key,
            (Some(key), Some(period)) => key_of_period(key, period),
        };
        let [addresses, names] = self.wanted;
        let address = addresses.then(|| AddressPolicy::pseudonym(key)).transpose()?;
        Ok((address, names.then(|| NamePolicy::pseudonym(&key))))
    }

    /// What follows from another content of the file.
    pub fn replace(&mut self, content: &[u8]) -> anyhow::Result<Renewal> {
        let other = Self { key: Some(parse(content)?), ..self.clone() };
        let (address, names) = other.policies()?;
        *self = other;
        Ok(Renewal::Keys(address, names))
    }

    /// What follows from the time; `None` while the period is the same.
    pub fn rotate(&mut self) -> anyhow::Result<Option<Renewal>> {
        self.rotate_at(now())
    }

    fn rotate_at(&mut self, now: u64) -> anyhow::Result<Option<Renewal>> {
        let period = self.rotate.period(now);
        if period == self.period {
            return Ok(None);
        }
        let other = Self { period, ..self.clone() };
        let (address, names) = other.policies()?;
        *self = other;
        Ok(Some(Renewal::Keys(address, names)))
    }

    /// How long until the period ends; `None`: it does not.
    pub fn rest(&self) -> Option<Duration> {
        let [addresses, names] = self.wanted;
        self.rotate.rest(now()).filter(|_| addresses || names)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn fresh() -> anyhow::Result<Key> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).context("make a fresh key")?;
    Ok(key)
}

/// 32 bytes, or 64 hexadecimal digits with white space around them.
fn parse(content: &[u8]) -> anyhow::Result<Key> {
    if let Ok(key) = content.try_into() {
        return Ok(key);
    }
    let text = content.trim_ascii();
    if text.len() != KEY_BYTES * 2 || !text.iter().all(u8::is_ascii_hexdigit) {
        bail!("expected 32 bytes or 64 hexadecimal digits, such as `openssl rand -hex 32` prints");
    }
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_default() as u8;
    Ok(std::array::from_fn(|at| digit(text[2 * at]) << 4 | digit(text[2 * at + 1])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn keys_are_bytes_or_digits() {
        let key: Key = std::array::from_fn(|at| at as u8 * 7);
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parse(&key).unwrap(), key);
        assert_eq!(parse(format!("{digits}\n").as_bytes()).unwrap(), key);
        for bad in ["", "abc", &digits[1..], &format!("{digits}0"), &digits.replace('0', "g")] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn fresh_keys_differ() {
        assert_ne!(fresh().unwrap(), fresh().unwrap());
    }

    /// How an address is shown after a renewal.
    fn shown(renewal: Option<Renewal>) -> Option<String> {
        match renewal? {
            Renewal::Keys(Some(address), Some(_)) => {
                Some(address.show(fixture::address("192.0.2.1:1")))
            }
            _ => panic!("both are wanted"),
        }
    }

    #[test]
    fn hosts_with_one_key_rotate_alike_and_others_do_not() {
        const DAY: u64 = 86_400;
        let keys = |key: Option<u8>, rotate| {
            let content = key.map(|key| [[key; 16], [0; 16]].concat());
            Keys::new(content.as_deref(), rotate, [true; 2]).unwrap()
        };
        let at = |keys: &mut Keys, day: u64| shown(keys.rotate_at(day * DAY + 5).unwrap());
        let (mut one, mut same) = (keys(Some(1), Rotate::Daily), keys(Some(1), Rotate::Daily));
        let first = at(&mut one, 7).unwrap();
        assert_eq!(at(&mut same, 7), Some(first.clone()));
        assert_eq!(at(&mut one, 7), None, "once in a period");
        assert_ne!(at(&mut one, 8), Some(first.clone()));
        assert_ne!(at(&mut keys(Some(2), Rotate::Daily), 7), Some(first.clone()));
        assert_eq!(at(&mut one, 7), Some(first), "a clock that went back");
        let mut fresh = keys(None, Rotate::Daily);
        assert_ne!(at(&mut fresh, 7), at(&mut fresh, 8));
        assert_eq!(at(&mut keys(Some(1), Rotate::Never), 7), None);
        assert!(same.replace(b"bad").is_err());
        assert!(shown(same.replace(&[[2; 16], [0; 16]].concat()).ok()).is_some());
    }

    #[test]
    fn only_pseudonyms_have_periods() {
        assert!(Keys::new(None, Rotate::Hourly, [false, true]).unwrap().rest().is_some());
        assert_eq!(Keys::new(None, Rotate::Hourly, [false; 2]).unwrap().rest(), None);
        assert_eq!(Keys::new(None, Rotate::Never, [true; 2]).unwrap().rest(), None);
    }
}
