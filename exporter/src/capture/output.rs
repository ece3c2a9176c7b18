//! Where a capture goes: a file that nobody else had, or standard output; and how much of it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::capture::pcapng;

/// Kept free for each interface: what was counted on it stands at the end.
const END: u64 = 512;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file. The second word allows one that is there.
    File(PathBuf, bool),
    /// Standard output.
    Standard,
}

impl Target {
    /// Whether it could be opened, as far as that can be known before.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::File(path, false) => ensure!(path.symlink_metadata().is_err(), there(path)),
            Self::File(_, true) => {}
            Self::Standard => ensure!(
                !io::stdout().is_terminal(),
                "--stdout: this is a terminal; pipe it: `… capture --stdout … | wireshark -k -i -`"
            ),
        }
        Ok(())
    }

    pub(super) fn open(&self) -> anyhow::Result<Box<dyn Write>> {
        Ok(match self {
            Self::File(path, force) => {
                Box::new(BufWriter::with_capacity(1 << 18, open(path, *force)?))
            }
            Self::Standard => Box::new(BufWriter::with_capacity(1 << 16, io::stdout())),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "--write {}", path.display()),
            Self::Standard => f.write_str("--stdout"),
        }
    }
}

fn there(path: &Path) -> String {
    format!("--write {}: it is there already; another name, or --force", path.display())
}

/// For its owner alone, and never by a link that somebody else may have laid there.
fn open(path: &Path, force: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match force {
        true => options.create(true),
        false => options.create_new(true),
    };
    let named = || format!("--write {}", path.display());
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(there(path)),
        file => file.with_context(named)?,
    };
    if force {
        let about = file.metadata().with_context(named)?;
        let is_plain = about.is_file() && about.nlink() == 1;
        ensure!(
            is_plain,
            "--write {}: --force takes the place of a plain file only",
            path.display()
        );
        file.set_permissions(PermissionsExt::from_mode(0o600)).with_context(named)?;
        file.set_len(0).with_context(named)?;
    }
    Ok(file)
}

/// What is written, and its bound.
pub(super) struct Output<W> {
    to: W,
    /// Where that is, for errors.
    name: String,
    /// Bytes so far.
    pub(super) written: u64,
    most: u64,
    interfaces: u32,
}

impl<W: Write> Output<W> {
    pub(super) fn new(to: W, name: String, most: u64, section: &[u8]) -> anyhow::Result<Self> {
        let mut output = Self { to, name, written: 0, most, interfaces: 0 };
        output.put(section)?;
        Ok(output)
    }

    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        self.to.write_all(block).with_context(|| self.name.clone())?;
        self.written += block.len() as u64;
        Ok(())
    }

    /// Gives its number; `None`: there is no room left.
    pub(super) fn interface(&mut self, block: &[u8]) -> anyhow::Result<Option<u32>> {
        if !self.has_room(block.len() as u64 + END) {
            return Ok(None);
        }
        self.put(block)?;
        self.interfaces += 1;
        Ok(Some(self.interfaces - 1))
    }

    /// False: there is no room left.
    pub(super) fn packet(&mut self, packet: &pcapng::Packet) -> anyhow::Result<bool> {
        let block = packet.to_block();
        let has_room = self.has_room(block.len() as u64);
        if has_room {
            self.put(&block)?;
        }
        Ok(has_room)
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.written + bytes + END * u64::from(self.interfaces) <= self.most
    }

    pub(super) fn statistics(
        &mut self,
        interface: u32,
        of: &pcapng::Statistics,
    ) -> anyhow::Result<()> {
        self.put(&of.to_block(interface))
    }

    /// So that who reads along sees it.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().with_context(|| self.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bounds_hold_with_what_stands_at_the_end() {
        let packet = pcapng::Packet {
            interface: 0,
            at: Duration::from_secs(1),
            bytes: vec![0; 60],
            length: 60,
            inbound: true,
            comment: "somebody".into(),
        };
        let mut bytes = Vec::new();
        let mut output =
            Output::new(&mut bytes, "it".into(), 2_000, &pcapng::section("a", "b", "c")).unwrap();
        let block = pcapng::interface(pcapng::ETHERNET, "eth0", "");
        assert_eq!(output.interface(&block).unwrap(), Some(0));
        assert_eq!(output.interface(&block).unwrap(), Some(1));
        assert_eq!(output.interface(&block.repeat(20)).unwrap(), None);
        let mut packets = 0;
        while output.packet(&packet).unwrap() {
            packets += 1;
        }
        assert!((1..10).contains(&packets));
        let comment = "18446744073709551615 left out by --max-rate".to_owned();
        let statistics = pcapng::Statistics { comment, ..pcapng::Statistics::default() };
        (0..2).for_each(|number| output.statistics(number, &statistics).unwrap());
        let written = output.written;
        assert_eq!(written, bytes.len() as u64);
        assert!(written <= 2_000);
    }

    #[test]
    fn a_file_is_nobody_elses_and_takes_nothings_place_unless_forced() {
        let folder = std::env::temp_dir().join(format!("capture-output-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (path, link) = (folder.join("new"), folder.join("link"));
        let target = |path: &Path, force| Target::File(path.to_owned(), force);
        target(&path, false).check().unwrap();
        drop(target(&path, false).open().unwrap());
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        for said in [target(&path, false).check(), target(&path, false).open().map(drop)] {
            assert!(said.unwrap_err().to_string().contains("--force"));
        }
        std::fs::write(&path, "before").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        target(&path, true).open().unwrap().write_all(b"now").unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode(&path)), (b"now".to_vec(), 0o600));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(target(&link, true).open().is_err() && target(&link, false).open().is_err());
        std::fs::remove_file(&link).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        assert!(target(&link, true).open().is_err());
        assert!(target(&folder.join("none/file"), false).open().is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
