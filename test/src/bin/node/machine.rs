//! A virtual machine with a node, from its boot to its end.
//!
//! Its port is on loopback, and it can reach only the folder of its parts. A machine of a test writes to a snapshot of the cached disk. A
//! guard ends it as soon as the test program closes a pipe, or dies.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use prewasi_test::process::{self, Output};
use tempfile::TempDir;

use crate::error::NodeError;

/// Time limit for a boot: it takes a minute without hardware virtualisation, and several on a busy machine.
const BOOT: Duration = Duration::from_secs(420);

/// A script that runs all its arguments but the first as a command. When standard input ends, it kills the command, and deletes the
/// folder in the first argument.
const GUARD: &str = r#"exec 3<&0
folder=$1
shift
"$@" </dev/null 3<&- &
pid=$!
{ cat <&3 >/dev/null; kill "$pid" 2>/dev/null; rm -rf "$folder"; } &
wait "$pid""#;

/// A node that responds to ssh.
pub(crate) struct Machine {
    place: Place,
    /// The connection that all commands share.
    connection: Option<Child>,
    owned: Option<Owned>,
}

/// The parts that end with the value.
struct Owned {
    guard: Child,
    _folder: TempDir,
}

/// The address of a machine: sufficient to use it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folder with console, sockets and the subfolder `parts`, which the node can fetch.
    pub(crate) folder: PathBuf,
    /// The key for its ssh.
    pub(crate) key: PathBuf,
    /// The port of its ssh.
    pub(crate) port: u16,
}

impl Machine {
    /// Boots a machine on a snapshot of the cached disk. Dropping it ends it.
    pub(crate) fn boot() -> Result<Self, NodeError> {
        let disk = disk()?;
        let folder = TempDir::with_prefix_in("node", "/tmp").map_err(NodeError::file("/tmp"))?;
        let port = free_port().map_err(NodeError::file("/proc/net/tcp"))?;
        let place = Place { folder: folder.path().to_owned(), key: disk.join("key"), port };
        fs::create_dir(place.parts()).map_err(NodeError::file(place.parts()))?;
        let log = place.folder.join("qemu.log");
        let log = File::create(&log).map_err(NodeError::file(&log))?;
        let mut qemu = place.qemu(&disk, &disk.join("disk.img"));
        qemu.arg("-snapshot");
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "guard"]).arg(folder.path()).arg(qemu.get_program()).args(qemu.get_args());
        // QEMU keeps the changes of a snapshot in an unnamed file there.
        guard.env("TMPDIR", "/var/tmp").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // Ctrl-C must end the tests, not the guard.
        let guard = std::os::unix::process::CommandExt::process_group(&mut guard, 0).spawn();
        let guard = guard.map_err(|source| NodeError::Start { program: "/bin/sh".to_owned(), source })?;
        let mut machine = Self { place, connection: None, owned: Some(Owned { guard, _folder: folder }) };
        machine.connect()?;
        Ok(machine)
    }

    /// Connects to a machine that was booted separately, and that continues after this program.
    pub(crate) fn at(place: Place) -> Result<Self, NodeError> {
        let mut machine = Self { place, connection: None, owned: None };
        machine.connect()?;
        Ok(machine)
    }

    /// Returns its address.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Runs a shell command on the node, and waits for its end.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    pub(crate) fn run(&self, command: &str, limit: Duration) -> Output {
        let mut ssh = self.place.ssh();
        ssh.arg("-S").arg(self.place.socket()).args(["root@127.0.0.1", command]);
        process::run(&mut ssh, limit)
    }

    /// Runs a command that must succeed.
    pub(crate) fn must_run(&self, action: &'static str, command: &str, limit: Duration) -> Result<String, NodeError> {
        let output = self.run(command, limit);
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(NodeError::Failed { action, reason: output.to_string() })
    }

    /// Reboots the node, as its operator would.
    pub(crate) fn reboot(&mut self) -> Result<(), NodeError> {
        let boot = |machine: &Self| machine.run("cat /proc/sys/kernel/random/boot_id", Duration::from_secs(60)).stdout;
        let before = boot(self);
        // The connection may end before the command does.
        self.run("systemctl reboot", Duration::from_secs(60));
        let start = Instant::now();
        loop {
            self.disconnect();
            self.connect()?;
            if boot(self).trim() != before.trim() {
                return Ok(());
            }
            if start.elapsed() > BOOT {
                return Err(self.silent());
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until ssh answers, and keeps a connection open for all commands.
    fn connect(&mut self) -> Result<(), NodeError> {
        let start = Instant::now();
        while start.elapsed() < BOOT {
            let mut ssh = self.place.ssh();
            ssh.args(["-M", "-N", "-S"]).arg(self.place.socket()).arg("root@127.0.0.1");
            ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let ssh = ssh.spawn().map_err(|source| NodeError::Start { program: "ssh".to_owned(), source })?;
            self.connection = Some(ssh);
            if self.is_connected() {
                return Ok(());
            }
            self.disconnect();
            if let Some(owned) = &mut self.owned
                && let Ok(Some(_)) = owned.guard.try_wait()
            {
                let reason = fs::read_to_string(self.place.folder.join("qemu.log")).unwrap_or_default();
                return Err(NodeError::Failed { action: "run qemu", reason });
            }
            thread::sleep(Duration::from_millis(500));
        }
        Err(self.silent())
    }

    /// Waits until the connection is made, or has failed.
    fn is_connected(&mut self) -> bool {
        while let Some(connection) = &mut self.connection {
            if self.place.socket().exists() {
                return true;
            }
            if connection.try_wait().is_ok_and(|ended| ended.is_none()) {
                thread::sleep(Duration::from_millis(50));
            } else {
                break;
            }
        }
        false
    }

    fn disconnect(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // The connection may have ended by itself, and a failure cannot be reported.
            let _ = connection.kill();
            let _ = connection.wait();
        }
        let _ = fs::remove_file(self.place.socket());
    }

    fn silent(&self) -> NodeError {
        let console = fs::read(self.place.folder.join("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        NodeError::Silent { seconds: BOOT.as_secs(), console: lines[lines.len().saturating_sub(20)..].join("\n") }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.disconnect();
        if let Some(owned) = &mut self.owned {
            // The end of its input tells the guard to work.
            drop(owned.guard.stdin.take());
            let _ = owned.guard.wait();
        }
    }
}

impl Place {
    /// Returns the folder that the node can fetch.
    pub(crate) fn parts(&self) -> PathBuf {
        self.folder.join("parts")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("ssh.sock")
    }

    /// Makes an ssh command with the common options.
    pub(crate) fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-q").arg("-i").arg(&self.key).args(["-p", &self.port.to_string()]);
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=6"]);
        ssh
    }

    /// Makes the command that runs the machine, with the kernel of `disk` and the file `root` as its disk.
    pub(crate) fn qemu(&self, disk: &Path, root: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulated, because test machines offer no hardware virtualisation.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-device", "virtio-rng-pci"]);
        qemu.arg("-kernel").arg(disk.join("vmlinuz")).arg("-initrd").arg(disk.join("initrd"));
        qemu.args(["-append", "root=/dev/vda rw console=ttyS0 quiet psi=1"]);
        qemu.arg("-serial").arg(format!("file:{}", self.folder.join("console.log").display()));
        qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", root.display()));
        // A connection to that address in the node gets an archive of the folder.
        let parts = format!("guestfwd=tcp:10.0.2.100:80-cmd:tar -C {} -chf - .", self.parts().display());
        let ssh = format!("hostfwd=tcp:127.0.0.1:{}-:22", self.port);
        qemu.arg("-netdev").arg(format!("user,id=net,restrict=on,{ssh},{parts}"));
        qemu.args(["-device", "virtio-net-pci,netdev=net"]);
        qemu
    }
}

/// Returns the folder of the cached disk, and makes it if it is missing.
pub(crate) fn disk() -> Result<PathBuf, NodeError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/disk");
    let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| NodeError::Start { program: script.display().to_string(), source })?;
    if !output.status.success() {
        return Err(NodeError::Failed { action: "make the node's disk", reason: output.status.to_string() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Returns an error about a missing program, if there is one.
pub(crate) fn missing() -> Option<NodeError> {
    let programs = ["qemu-system-x86_64", "mmdebstrap", "mke2fs", "ssh", "ssh-keygen"];
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_there = |name: &str| folders.iter().any(|folder| Path::new(folder).join(name).exists());
    programs.into_iter().find(|name| !is_there(name)).map(NodeError::Missing)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
