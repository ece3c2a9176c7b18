//! Users and their passwords, hashed with bcrypt. Checking one takes a tenth of a second by design, so what was
//! found out is remembered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// Wrong passwords that are remembered; when there are more, all are forgotten.
const MOST: usize = 128;
/// What the password of somebody who does not exist is checked against, so that asking tells nothing. At the
/// cost that htpasswd's documentation shows.
static NOBODY: LazyLock<String> = LazyLock::new(|| bcrypt::hash("", 10).unwrap_or_default());

/// Who may read, by name.
#[derive(Default)]
pub(in crate::web) struct Users {
    hashes: BTreeMap<String, String>,
    known: Mutex<Known>,
}

/// By a salted hash of name and password: the passwords themselves are not kept.
#[derive(Default)]
struct Known {
    /// Each user's right password. Kept apart, so that whoever guesses has nobody's forgotten.
    right: HashMap<String, [u8; 32]>,
    wrong: HashSet<[u8; 32]>,
    salt: [u8; 32],
}

impl Known {
    fn key(&self, name: &str, password: &str) -> [u8; 32] {
        let length = (name.len() as u64).to_be_bytes();
        let parts = [&self.salt[..], &length, name.as_bytes(), password.as_bytes()];
        parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
    }
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>) -> anyhow::Result<Self> {
        for (name, hash) in &hashes {
            let sound = hash.parse::<bcrypt::HashParts>();
            sound.ok().with_context(|| format!("{name}: expected a bcrypt hash"))?;
            ensure!(!name.contains(':'), "{name}: a name holds no colon");
        }
        let mut known = Known::default();
        getrandom::fill(&mut known.salt).context("make a salt")?;
        Ok(Self { hashes, known: Mutex::new(known) })
    }

    pub(in crate::web) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// What is remembered of this name and password.
    pub(in crate::web) fn remember(&self, name: &str, password: &str) -> Option<bool> {
        let known = self.known();
        let key = known.key(name, password);
        match known.right.get(name) {
            Some(right) if *right == key => Some(true),
            _ => known.wrong.contains(&key).then_some(false),
        }
    }

    /// Whether the password is this user's. Takes long: not for the runtime's own threads.
    pub(in crate::web) fn check(&self, name: &str, password: &str) -> bool {
        // Another may have asked the same meanwhile.
        if let Some(answer) = self.remember(name, password) {
            return answer;
        }
        let hash = self.hashes.get(name);
        let fits = bcrypt::verify(password, hash.unwrap_or(&NOBODY)).unwrap_or(false);
        let answer = fits && hash.is_some();
        let mut known = self.known();
        let key = known.key(name, password);
        if answer {
            known.right.insert(name.to_owned(), key);
            return true;
        }
        if known.wrong.len() >= MOST {
            known.wrong.clear();
        }
        known.wrong.insert(key);
        false
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Users {
    /// Without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}
