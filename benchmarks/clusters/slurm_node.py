"""A Slurm cluster of one node in a temporary folder, on loopback, for as long as it is needed."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
# Two GPUs that are none, so that jobs can ask for one: the node needs files of that number to believe in them.
GPU_FILES = "/dev/null,/dev/zero"
CONFIGURATION = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Jobs that are requeued wait until the credential of their last start has expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=20
MinJobAge=300
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=node1 Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=high Nodes=node1 MaxTime=INFINITE PriorityTier=2 State=UP
"""


def missing_programs() -> tuple[str, ...]:
    """What has to be installed before; also `root`, for daemons that start jobs."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    lacking = tuple(name for name in PROGRAMS if shutil.which(name, path=path) is None)
    return lacking if os.geteuid() == 0 else (*lacking, "root")


@contextmanager
def slurm_node(cpus: int = 2) -> Iterator[Path]:
    """Starts the cluster, points this process's environment at it, and ends it; yields the folder of its logs.

    Every job may take CPUs as if the node had so many. The partition `high` preempts what runs in `low`, the default.
    """
    lacking = missing_programs()
    assert not lacking, f"{', '.join(lacking)} needed; Debian, as root: apt install slurm-wlm munge"
    before = os.environ.get("SLURM_CONF")
    folder = Path(tempfile.mkdtemp(prefix="harness-slurm-"))
    try:
        with ExitStack() as daemons:
            # munged refuses sockets that others can't reach, and slurmd runs jobs of any user.
            folder.chmod(0o755)
            _configure(folder, cpus)
            os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
            _start(daemons, folder, _munge(folder))
            _wait_for(["munge", "--socket", str(folder / "munge/socket"), "--no-input"], "STATUS", folder, silent=True)
            _start(daemons, folder, ["/usr/sbin/slurmctld", "-D"])
            _start(daemons, folder, ["/usr/sbin/slurmd", "-D", "-N", "node1"])
            _wait_for(["sinfo", "--noheader", "--format=%T", "--partition=low"], "idle", folder)
            try:
                yield folder
            finally:
                subprocess.run(["scancel", "--user", "root"], capture_output=True, check=False)
                _wait_for(["sinfo", "--noheader", "--format=%T", "--partition=low"], "idle", folder)
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, cpus: int) -> None:
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller_port, node_port = _free_ports(2)
    text = CONFIGURATION.format(
        host=socket.gethostname(), folder=folder, cpus=cpus, controller_port=controller_port, node_port=node_port
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in GPU_FILES.split(",")))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainCores=no\n")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]
    finally:
        for free in sockets:
            free.close()


def _munge(folder: Path) -> list[str]:
    files = {"key-file": "munge.key", "socket": "munge/socket", "pid-file": "munge/pid", "log-file": "munge/log", "seed-file": "munge/seed"}  # fmt: skip
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    return ["/usr/sbin/munged", "--foreground", "--force", "--num-threads=1", *options]


def _start(daemons: ExitStack, folder: Path, command: Sequence[str]) -> None:
    """Starts a daemon that ends, with the stack, by its own id."""
    name = Path(command[0]).name
    with (folder / f"{name}.out").open("w") as output:
        # A session of its own: Ctrl-C is for the one who uses the cluster.
        daemon = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    daemons.callback(_end, daemon)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _wait_for(command: Sequence[str], answer: str, folder: Path, *, silent: bool = False) -> None:
    """Asks until the answer is right, or any at all where `silent`."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (silent or done.stdout.split() == [answer]):
            return
        if time.monotonic() > deadline:
            logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}\n{logs}")
        time.sleep(0.2)
