//! The place where a server's script meets the exporter: a Unix socket that exists only while the
//! script is awaited, reachable for the server's user, and closed to whoever lacks its token.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

/// Connections that are turned away before the rendezvous is given up.
const STRANGERS: usize = 16;

/// An open rendezvous. Dropping it removes its socket and folder.
#[derive(Debug)]
pub(super) struct Rendezvous {
    listener: UnixListener,
    folder: PathBuf,
    socket: PathBuf,
    /// The socket's path as the server sees it.
    told: PathBuf,
    token: String,
    server: UCred,
}

impl Rendezvous {
    /// Opens a rendezvous for the process at the other end of a console, under `base` (`/tmp`) of
    /// that process' own file system.
    pub(super) fn open(server: UCred, base: &Path) -> anyhow::Result<Self> {
        let root = server.pid().and_then(other_root).unwrap_or_default();
        let name = format!("mediasoup-exporter-{}", secret(8)?);
        let told_folder = base.join(name);
        let folder = under(&root, &told_folder);
        let socket_name = secret(8)?;
        let told = told_folder.join(&socket_name);
        let socket = folder.join(socket_name);
        // Where the server runs as another user, it may pass through the folder but not list it:
        // the socket's name is as secret as its token.
        let same_user = server.uid() == own_uid();
        let (folder_mode, socket_mode) = if same_user { (0o700, 0o600) } else { (0o711, 0o666) };
        DirBuilder::new()
            .mode(folder_mode)
            .create(&folder)
            .with_context(|| format!("create the folder {} for the script", folder.display()))?;
        let listener = match listen(&folder, &socket, folder_mode, socket_mode) {
            Ok(listener) => listener,
            Err(error) => {
                let _ = fs::remove_file(&socket);
                let _ = fs::remove_dir(&folder);
                return Err(error)
                    .with_context(|| format!("listen on {} for the script", socket.display()));
            }
        };
        Ok(Self { listener, folder, socket, told, token: secret(16)?, server })
    }

    /// The socket's path as the server sees it.
    pub(super) fn told(&self) -> &Path {
        &self.told
    }

    /// What the script must say first.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Waits for the script.
    pub(super) async fn meet(&self) -> anyhow::Result<UnixStream> {
        for _ in 0..STRANGERS {
            let (mut stream, _) = self.listener.accept().await.context("accept the script")?;
            let who = stream.peer_cred().context("read who connects")?;
            if who.uid() != self.server.uid() {
                tracing::warn!(uid = who.uid(), "a stranger connected to the script's socket");
                continue;
            }
            match tokio::time::timeout(Duration::from_secs(5), self.read_token(&mut stream)).await {
                Ok(Ok(true)) => return Ok(stream),
                _ => tracing::warn!("somebody without the token connected to the script's socket"),
            }
        }
        bail!("only strangers connected to the script's socket")
    }

    async fn read_token(&self, stream: &mut UnixStream) -> io::Result<bool> {
        let mut said = vec![0; self.token.len() + 1];
        stream.read_exact(&mut said).await?;
        Ok(said[..self.token.len()] == *self.token.as_bytes() && said.ends_with(b"\n"))
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_dir(&self.folder);
    }
}

fn listen(
    folder: &Path,
    socket: &Path,
    folder_mode: u32,
    socket_mode: u32,
) -> io::Result<UnixListener> {
    // The umask may have narrowed the folder's mode.
    fs::set_permissions(folder, Permissions::from_mode(folder_mode))?;
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(socket_mode))?;
    Ok(listener)
}

/// The root of a process that has another mount namespace, as seen from here.
fn other_root(pid: i32) -> Option<PathBuf> {
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let theirs = namespace(&pid.to_string())?;
    (namespace("self")? != theirs).then(|| PathBuf::from(format!("/proc/{pid}/root")))
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(if root.as_os_str().is_empty() {
        path
    } else {
        path.strip_prefix("/").unwrap_or(path)
    })
}

fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

fn secret(bytes: usize) -> anyhow::Result<String> {
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("read /dev/urandom")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn open() -> (Rendezvous, PathBuf) {
        let (here, _there) = UnixStream::pair().unwrap();
        let base = std::env::temp_dir();
        let rendezvous = Rendezvous::open(here.peer_cred().unwrap(), &base).unwrap();
        let path = rendezvous.told().to_owned();
        (rendezvous, path)
    }

    #[tokio::test]
    async fn only_the_token_opens_and_nothing_stays_behind() {
        let (rendezvous, path) = open().await;
        assert_eq!(fs::metadata(&rendezvous.folder).unwrap().permissions().mode() & 0o777, 0o700);
        let mut stranger = UnixStream::connect(&path).await.unwrap();
        stranger.write_all(b"no token, but as long as one is\n\n").await.unwrap();
        let mut script = UnixStream::connect(&path).await.unwrap();
        script.write_all(format!("{}\n", rendezvous.token()).as_bytes()).await.unwrap();
        rendezvous.meet().await.unwrap();
        let folder = rendezvous.folder.clone();
        drop(rendezvous);
        assert!(!path.exists() && !folder.exists());
    }

    #[test]
    fn a_path_under_another_root() {
        let check = |root: &str, expected: &str| {
            assert_eq!(under(Path::new(root), Path::new("/tmp/x")), Path::new(expected));
        };
        check("", "/tmp/x");
        check("/proc/1/root", "/proc/1/root/tmp/x");
    }
}
