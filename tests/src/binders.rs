//! Programs that bind UDP sockets as they are told, under whatever name: what a worker is to ownership.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::process::{Guard, TempDir};

/// Where their files are.
#[derive(Debug)]
pub struct Workers {
    folder: TempDir,
    program: &'static str,
}

impl Workers {
    /// `program` is the binary `binder` of this package (`CARGO_BIN_EXE_binder`, which only a test has).
    pub fn new(program: &'static str) -> Result<Self> {
        Ok(Self { folder: TempDir::new("workers")?, program })
    }

    /// Starts one in a namespace, with the arguments that mediasoup gives to its workers.
    pub fn start(&self, name: &str, host: &Netns) -> Result<Worker> {
        let program = self.folder.path().join(name);
        if !program.exists() {
            std::fs::copy(Path::new(self.program), &program).context("copy the program")?;
        }
        let mut command = host.command(program.to_str().context("a path that is not UTF-8")?);
        command.args(["--logLevel=warn", "--rtcMinPort=2000", "--rtcMaxPort=2100"]);
        let mut process = Guard::spawn(name, command)?;
        let stdin = process.stdin().context("stdin")?;
        let stdout = BufReader::new(process.stdout().context("stdout")?);
        Ok(Worker { process, stdin, stdout })
    }
}

/// One of them. It ends when it is dropped.
#[derive(Debug)]
pub struct Worker {
    process: Guard,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Binds a socket.
    pub fn bind(&mut self, address: &str) -> Result<()> {
        self.all(&format!("bind {address}"), 1)
    }

    /// Binds a socket that takes IPv6 only.
    pub fn bind_v6_only(&mut self, address: &str) -> Result<()> {
        self.all(&format!("bind-v6-only {address}"), 1)
    }

    /// Binds sockets that share an address (SO_REUSEPORT).
    pub fn share(&mut self, address: &str, count: u32) -> Result<()> {
        self.all(&format!("share {address} {count}"), count)
    }

    /// Binds a socket and connects it.
    pub fn connect(&mut self, address: &str, to: &str) -> Result<()> {
        self.all(&format!("connect {address} {to}"), 1)
    }

    /// Binds as many ports from `first` on as are free, and tells how many.
    pub fn bind_many(&mut self, ip: &str, first: u16, count: u16) -> Result<u32> {
        self.ask(&format!("many {ip} {first} {count}"))
    }

    /// Closes the oldest socket at this address.
    pub fn close(&mut self, address: &str) -> Result<()> {
        self.all(&format!("close {address}"), 1)
    }

    /// Sends the same datagram so often, from the oldest socket at this address.
    pub fn send(&mut self, address: &str, datagram: &[u8], count: u32, to: &str) -> Result<()> {
        let bytes: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        self.all(&format!("send {address} {bytes} {count} {to}"), count)
    }

    fn all(&mut self, line: &str, expected: u32) -> Result<()> {
        let done = self.ask(line)?;
        ensure!(done == expected, "{line}: {done}");
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<u32> {
        writeln!(self.stdin, "{line}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        Ok(answer.trim().parse()?)
    }
}
