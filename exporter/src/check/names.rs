//! Whether reverse names can be looked up. No server is asked.

use std::io;
use std::path::Path;

use super::finding::Finding;
use crate::host::procfs;

const FILE: &str = "/etc/resolv.conf";
const REMEDY: &str = "write `nameserver ADDRESS` into it, or leave names out with --numeric";
const MOST_BYTES: u64 = 64 << 10;

/// Looks.
pub(super) fn look() -> Finding {
    judge(procfs::read_at_most(Path::new(FILE), MOST_BYTES))
}

fn judge(read: io::Result<String>) -> Finding {
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            return Finding::warning(
                "names",
                format!("{FILE}: {error}: no names are shown"),
                REMEDY,
            );
        }
    };
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver")?.split_whitespace().next())
        .collect();
    match servers.is_empty() {
        true => {
            Finding::warning("names", format!("{FILE} names no server: no names are shown"), REMEDY)
        }
        false => Finding::ok("names", format!("name servers, not asked: {}", servers.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_file_without_servers_is_a_warning() {
        let found = judge(Ok("# x\nsearch example.org\n  nameserver 192.0.2.53 # y\n".to_owned()));
        assert!(found.level == Level::Ok && found.text.ends_with(": 192.0.2.53"), "{found:?}");
        assert_eq!(judge(Ok("#nameserver 192.0.2.53".to_owned())).level, Level::Warning);
        assert_eq!(judge(Err(io::ErrorKind::NotFound.into())).level, Level::Warning);
    }
}
