//! The files: one that is written, older ones until they are too old or too many.
//!
//! All of it by the folder's descriptor: who can rename what is above it, or puts links into it, leads nothing astray.

use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::config;

const START: &str = "calls-";
const END: &str = ".jsonl";
/// A file is followed by another one after so long, or when it has this share of all bytes.
const LONGEST: Duration = Duration::from_secs(86_400);
const SHARE: u64 = 16;
/// Files in one second at most.
const MOST_OF_A_SECOND: u32 = 100;

pub(super) struct Folder {
    path: PathBuf,
    folder: OwnedFd,
    retention: Duration,
    most_bytes: u64,
    current: Option<Current>,
}

/// The file that is written.
struct Current {
    name: String,
    file: File,
    bytes: u64,
    since: SystemTime,
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    /// These sort by the time at which they were begun.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

impl Folder {
    /// Opens the folder, and makes it if only its last part is missing.
    pub(super) fn open(options: &config::Journal) -> anyhow::Result<Self> {
        let path = options.folder.clone();
        match fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context("make the folder"),
        }
        let folder = open(&path)?;
        let config::Journal { retention, most_bytes, .. } = *options;
        Ok(Self { path, folder, retention, most_bytes, current: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a file. No other one is ever continued: its last line may be torn.
    pub(super) fn begin(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let time = humantime::format_rfc3339_seconds(now).to_string().replace([':', '-'], "");
        for number in 0..MOST_OF_A_SECOND {
            let name = format!("{START}{time}-{number:02}{END}");
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match fs::openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP) {
                Ok(file) => {
                    // So that the file is there after a crash, and not its content alone.
                    fs::fsync(&self.folder).context("write the folder")?;
                    let file = File::from(file);
                    self.current = Some(Current { name, file, bytes: 0, since: now });
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context("begin a file"),
            }
        }
        anyhow::bail!("begin a file: there are {MOST_OF_A_SECOND} of this second");
    }

    /// Writes whole lines, and waits until the disk has them. What fails leaves no part of a line.
    pub(super) fn write(&mut self, text: &[u8], now: SystemTime) -> anyhow::Result<()> {
        let most = (self.most_bytes / SHARE).max(1);
        let is_full = self.current.as_ref().is_none_or(|current| {
            let age = now.duration_since(current.since).unwrap_or_default();
            current.bytes > 0 && (current.bytes + text.len() as u64 > most || age >= LONGEST)
        });
        if is_full {
            self.begin(now)?;
            self.tidy(now);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        let written = current.file.write_all(text).and_then(|()| current.file.sync_data());
        match written {
            Ok(()) => {
                current.bytes += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                let kept = current.file.set_len(current.bytes);
                if kept.is_err() {
                    // A torn line ends the file.
                    self.current = None;
                }
                Err(error).context("write")
            }
        }
    }

    /// Removes files that are too old, and the oldest while all together are too large; never the one that is written.
    pub(super) fn tidy(&mut self, now: SystemTime) {
        let Ok(files) = list(&self.folder) else { return };
        let mut all: u64 = files.iter().map(|file| file.bytes).sum();
        for file in files {
            let is_current = self.current.as_ref().is_some_and(|it| it.name == file.name);
            let age = now.duration_since(file.modified).unwrap_or_default();
            if is_current || (age < self.retention && all <= self.most_bytes) {
                continue;
            }
            if fs::unlinkat(&self.folder, &file.name, AtFlags::empty()).is_ok() {
                all -= file.bytes;
            }
        }
    }
}

/// Opens a folder to look at it.
pub(super) fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).context("open the folder")
}

/// The journal's files, the oldest first. What else is there is not looked at.
pub(super) fn list(folder: &OwnedFd) -> std::io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        let Some(name) = name(entry.file_name()) else { continue };
        let Ok(stat) = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let modified = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
        files.push(Listed {
            name: name.to_owned(),
            bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: SystemTime::UNIX_EPOCH + modified,
        });
    }
    files.sort();
    Ok(files)
}

fn name(name: &CStr) -> Option<&str> {
    let name = name.to_str().ok()?;
    let is_ours = name.starts_with(START) && name.ends_with(END) && !name.contains('/');
    is_ours.then_some(name)
}

/// Opens one of the files to read it.
pub(super) fn read(folder: &OwnedFd, file: &Listed) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::openat(folder, &file.name, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(ErrorKind::InvalidInput.into()),
    }
}
