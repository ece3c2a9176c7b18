//! Open files that this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::web::Limits;

/// For tables, programs, interfaces, what servers tell and the journal.
const OTHERS: u64 = 512;

/// What the web server's connections and all else can need together.
fn needed() -> u64 {
    let Limits { connections, reserve, .. } = Limits::default();
    (connections + reserve) as u64 + OTHERS
}

/// Takes as many as there may be, and says so where these are too few.
pub fn allow_descriptors() {
    let found = getrlimit(Resource::Nofile);
    let allowed = match setrlimit(Resource::Nofile, raised(found)) {
        Ok(()) => found.maximum,
        Err(error) => {
            tracing::debug!("raise the limit of open files: {error}");
            found.current
        }
    };
    if let Some(warning) = warning(allowed) {
        tracing::warn!("{warning}");
    }
}

fn raised(found: Rlimit) -> Rlimit {
    Rlimit { current: found.maximum, ..found }
}

/// `None`: without a limit.
fn warning(allowed: Option<u64>) -> Option<String> {
    let (allowed, needed) = (allowed?, needed());
    (allowed < needed).then(|| {
        format!(
            "only {allowed} files may be open at once, and up to {needed} can be needed (clients' connections above \
             all): set LimitNOFILE={needed} or more in the unit, or raise `ulimit -Hn`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_are_told_with_the_remedy() {
        let said = warning(Some(64)).unwrap();
        assert!(said.contains("only 64") && said.contains("LimitNOFILE="), "{said}");
        assert_eq!(warning(Some(needed())), None);
        assert_eq!(warning(None), None);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let found = Rlimit { current: Some(256), maximum: Some(4096) };
        assert_eq!(raised(found).current, Some(4096));
        assert_eq!(raised(Rlimit { current: Some(256), maximum: None }).current, None);
    }
}
