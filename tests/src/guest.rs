//! A machine of its own, emulated, with another kernel than this one: test programs that were built for this machine
//! run there as they are.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::exporter::binary;
use crate::process::{Guard, TempDir};

const EMULATOR: &str = "qemu-system-x86_64";
/// What the guest's first program and the tests call.
const TOOLS: [&str; 2] = ["ip", "tc"];
/// What the tests start, of this package's programs.
const HELPERS: [&str; 1] = ["binder"];
/// An emulated processor is some twenty times slower, and the verifier has much to do.
const LIMIT: Duration = Duration::from_secs(900);

/// Which tests of which program.
pub struct Run<'a> {
    /// The file in this package's `tests`, without its ending.
    pub program: &'a str,
    /// The tests' whole names.
    pub tests: &'a [&'a str],
}

/// What is needed and missing; `None`: nothing.
pub fn missing() -> Option<String> {
    let tools = [EMULATOR, "busybox", "cpio", "strip"].into_iter().chain(TOOLS);
    tools
        .into_iter()
        .find(|tool| which(tool).is_none())
        .map(|tool| format!("{tool} is not installed"))
}

/// Boots the kernel of a folder (`vmlinuz`, and `*.ko` in the order of their names) and runs the tests there. Returns
/// what the guest printed.
pub fn run(kernel: &Path, runs: &[Run<'_>]) -> Result<String> {
    let folder = TempDir::new("guest")?;
    let archive = folder.path().join("initramfs");
    furnish(&folder.path().join("root"), kernel, runs)?;
    pack(&folder.path().join("root"), &archive)?;
    let mut machine = Command::new(EMULATOR);
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"]);
    machine
        .args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"])
        .arg(kernel.join("vmlinuz"));
    machine.arg("-initrd").arg(&archive);
    machine.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]).stdin(Stdio::null());
    let mut guest = Guard::spawn(EMULATOR, machine)?;
    guest.log_stdout();
    let ended = guest.wait(LIMIT);
    let told = guest.log();
    ended.with_context(|| format!("the guest did not end; it said:\n{told}"))?;
    check(&told, runs)?;
    Ok(told)
}

/// Every program ended well, and ran as many tests as it was asked to.
fn check(told: &str, runs: &[Run<'_>]) -> Result<()> {
    for Run { program, tests } in runs {
        let begin = format!("== {program} begins");
        let end = format!("== {program} ended with 0");
        let Some((_, rest)) = told.split_once(&begin) else {
            bail!("{program} did not run:\n{told}")
        };
        let Some((own, _)) = rest.split_once(&end) else { bail!("{program} failed:\n{rest}") };
        let passed = format!("test result: ok. {} passed", tests.len());
        ensure!(own.contains(&passed) && !own.contains("skipped:"), "{program}:\n{own}");
    }
    Ok(())
}

fn furnish(root: &Path, kernel: &Path, runs: &[Run<'_>]) -> Result<()> {
    for folder in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tests", "tmp", "var"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(which("busybox").context("no busybox")?, root.join("bin/busybox"))?;
    let mut libraries = BTreeSet::new();
    for tool in TOOLS {
        let path = which(tool).with_context(|| format!("no {tool}"))?;
        libraries.extend(libraries_of(&path)?);
        fs::copy(&path, root.join("bin").join(tool))?;
    }
    let programs = runs.iter().map(|run| Ok((run.program, built(run.program)?)));
    for program in programs.chain([binary().map(|path| ("exporter", path))]) {
        let (name, path) = program?;
        libraries.extend(libraries_of(&path)?);
        let to = root.join("tests").join(name);
        let stripped = Command::new("strip").arg("-o").arg(&to).arg(&path).status()?;
        ensure!(stripped.success(), "strip {}", path.display());
    }
    // Programs that tests start are looked for where Cargo put them.
    for helper in HELPERS {
        let path = deps()?.with_file_name(helper);
        libraries.extend(libraries_of(&path)?);
        libraries.insert(path);
    }
    for library in libraries {
        let to = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
        fs::copy(&library, to)?;
    }
    for entry in fs::read_dir(kernel)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|it| it == "ko") {
            fs::copy(entry.path(), root.join("modules").join(entry.file_name()))?;
        }
    }
    let init = root.join("init");
    fs::write(&init, script(runs))?;
    Ok(fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?)
}

/// The guest's first program.
fn script(runs: &[Run<'_>]) -> String {
    // busybox has an `ip` of its own, which knows less; it leaves what is there.
    let mut script = "#!/bin/busybox sh\n\
        /bin/busybox --install -s /bin 2>/dev/null\n\
        export PATH=/bin RUST_BACKTRACE=0\n\
        mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n\
        mount -t tmpfs run /run\n\
        mount -t cgroup2 cgroup /sys/fs/cgroup\n\
        cat /proc/version\n\
        ip link set lo up\n\
        echo '== without modules'\n\
        /tests/exporter --source ebpf --attach clsact --interface lo --observer /nowhere 2>&1\n\
        for module in /modules/*.ko; do insmod $module; done\n\
        cd /tests\n"
        .to_owned();
    for Run { program, tests } in runs {
        let tests = tests.join(" ");
        script += &format!(
            "echo '== {program} begins'\n\
             ./{program} --exact --nocapture --test-threads=1 {tests} 2>&1\n\
             echo \"== {program} ended with $? after $(cut -d' ' -f1 /proc/uptime) s\"\n"
        );
    }
    script + "poweroff -f\n"
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let shell = "find . | cpio --create --format=newc --quiet > \"$0\"";
    let packed = Command::new("sh").args(["-c", shell]).arg(archive).current_dir(root).status()?;
    ensure!(packed.success(), "cpio failed");
    Ok(())
}

/// The newest build of a test program beside this one.
fn built(program: &str) -> Result<PathBuf> {
    let folder = deps()?;
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hash = name.strip_prefix(program).and_then(|rest| rest.strip_prefix('-'));
        hash.is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    let found = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let newest =
        found.filter(is_it).max_by_key(|path| path.metadata().and_then(|it| it.modified()).ok());
    newest.with_context(|| format!("no build of {program} in {}", folder.display()))
}

/// Where Cargo puts test programs.
fn deps() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program lies in a folder")?.to_owned())
}

/// What it is linked with, the loader among it.
fn libraries_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let told = Command::new("ldd").arg(program).output()?;
    let told = String::from_utf8(told.stdout)?;
    let words = told.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

fn which(tool: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.into_iter().map(|folder| Path::new(folder).join(tool)).find(|path| path.exists())
}
