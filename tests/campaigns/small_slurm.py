"""A real Slurm of two nodes on this machine, for campaigns: its daemons listen on 127.0.0.1 and end with the block.

Needs slurmctld, slurmd, srun and munged on the PATH (Debian: `apt install --no-install-recommends slurm-wlm munge`), built so that
several slurmd may run on one host, as Debian's are. No accounting, no GPUs, no cgroups. The daemons run as whoever calls this.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = ("n1", "n2")
NEEDED = ("slurmctld", "slurmd", "srun", "sbatch", "munged")
CONFIGURATION = """\
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=10
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=12000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=12000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class SmallSlurm:
    """The daemons, and what is asked of them. ``environment`` is what clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.requeued: dict[str, float] = {}  # jobs, and since when they wait to begin again
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        for name in ("state", "bin", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        values = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self.folder, "ports": free_ports(3)}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        # The plug-in that runs a job's step takes SLURM_CONF away, as clusters have their configuration in /etc.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        self.daemon("munged", "--foreground", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items()))
        wait_for(lambda: (self.folder / "munge.socket").exists(), 10, "munged")
        self.daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(NODES)), 60, "idle nodes")

    def stop(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full")
        for node in NODES:
            for process in self.processes(node):
                with suppress(psutil.Error):
                    process.kill()
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def daemon(self, *command: str, name: str = "") -> None:
        with (self.folder / "daemons.log").open("ab") as words:
            self.daemons[name or command[0]] = subprocess.Popen(command, env=self.environment, stdout=words, stderr=words)

    def start_node(self, node: str) -> None:
        self.daemon("slurmd", "-D", "-N", node, name=node)

    def lose_node(self, node: str) -> None:
        """SIGKILL to its daemon and all that it runs, as when its power fails."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        for process in self.processes(node):
            with suppress(psutil.Error):
                process.kill()

    def processes(self, node: str, **variables: str) -> list[psutil.Process]:
        """Tasks on a node in whose environment these variables stand, and without any also what watches over them."""
        wanted, found = {"SLURMD_NODENAME": node, "SLURM_CONF": self.environment["SLURM_CONF"], **variables}, []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if wanted.items() <= process.environ().items():
                    parent = process.parent()
                    found += [parent] if not variables and parent and parent.name().startswith("slurmstepd") else []
                    found.append(process)
        return found

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def submit(self, script: Path) -> str:
        """The number of the job."""
        return self.ask("sbatch", "--parsable", str(script)).strip().partition(";")[0]

    def state(self, job: str) -> Mapping[str, str]:
        """What scontrol says of a job."""
        words = self.ask("scontrol", "show", "--oneliner", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def hurry(self) -> None:
        """Requeued jobs begin after ten seconds, not after Slurm's two minutes; at once it would revoke their credentials."""
        waiting = [line.split()[0] for line in self.ask("squeue", "-h", "-t", "PENDING", "-o", "%i %r").splitlines() if "BeginTime" in line]
        self.requeued = {job: self.requeued.get(job, time.monotonic()) for job in waiting}
        for job, since in self.requeued.items():
            if time.monotonic() > since + 10:
                with suppress(subprocess.SubprocessError):
                    self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(true: Callable[[], bool], seconds: float, what: str) -> None:
    last = time.monotonic() + seconds
    while not true():
        if time.monotonic() > last:
            raise TimeoutError(f"{what}: did not come within {seconds:.0f} s")
        time.sleep(0.5)


@contextmanager
def small_slurm(folder: Path) -> Iterator[SmallSlurm]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not found; on Debian `apt install --no-install-recommends slurm-wlm munge`")
    slurm = SmallSlurm(folder.resolve())
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
