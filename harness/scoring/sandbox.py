"""Runs one program behind limits, and says how it ended. Started as a script of its own, with nothing but the standard library.

Three processes: this one enters new namespaces and waits; its child is the first process of the new process namespace
and keeps the time; the child's child drops every privilege and runs the program. When the second ends, the kernel ends
whatever is left in the namespace, and with the last of them the folder in memory that held all files.

Reads a `Job` from standard input and writes one line of JSON to standard output.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
MAX_PROCESSES = 32
MAX_FILES = 64
MAX_FILE_BYTES = 16 << 20
MAX_REPORT_BYTES = 4096
FOLDER_BYTES = 64 << 20
POLL_SECONDS = 0.005
MAX_KILL_ROUNDS = 200

# From <linux/sched.h>, <linux/mount.h>, <linux/prctl.h> and <linux/capability.h>.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 2, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
# The same on all machines but Alpha; the C library doesn't have it by name everywhere.
SYS_MOUNT_SETATTR = 442

SYSTEM_FOLDERS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Calls the C library.

    Raises: OSError: the kernel refused.
    """
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mounts."""
    texts = (source, target, kind)
    encoded = [text.encode() if text is not None else None for text in texts]
    call("mount", *encoded, ctypes.c_ulong(flags), options.encode() if options is not None else None)


def bind(path: str, root: str) -> None:
    """Shows a path of the machine at the same place below `root`, read-only where it is a folder."""
    target = Path(root + path)
    if Path(path).is_dir():
        target.mkdir(parents=True, exist_ok=True)
        mount(path, str(target), None, MS_BIND | MS_REC)
        attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
        size = ctypes.c_size_t(len(attributes))
        where = str(target).encode()
        call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), AT_FDCWD, where, AT_RECURSIVE, attributes, size)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        mount(path, str(target), None, MS_BIND)


def enter_namespaces(folder: str) -> None:
    """Leaves the machine's users, processes, network and files for a root of its own, in memory, of `FOLDER_BYTES`.

    Of the machine, it holds the system's libraries and Python, read-only: no home, no /etc, no /proc, no sockets.

    Raises: OSError: the kernel or the container around it doesn't allow that.
    """
    uid, gid = os.getuid(), os.getgid()
    # Real root needs no user namespace: it can become nobody, whose number of processes can be limited.
    user = 0 if uid == 0 else CLONE_NEWUSER
    call("unshare", user | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={FOLDER_BYTES},nr_inodes=8192,mode=755")
    paths = [path for path in SYSTEM_FOLDERS if Path(path).exists()]
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        for place in (prefix, str(Path(prefix).resolve())):
            paths += [] if any(f"{place}/".startswith(f"{path}/") for path in paths) else [place]
    for path in (*paths, *(device for device in DEVICES if Path(device).exists())):
        bind(path, folder)
    work = Path(folder, "tmp")
    work.mkdir(exist_ok=True)
    work.chmod(0o777)
    os.chdir(folder)
    # The manual page of pivot_root(2) explains why the same folder twice is enough.
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/tmp")


def give_up_privileges(folder: str | None) -> None:
    """Becomes nobody where it is root, and loses every capability for good.

    Args:
        folder: the working folder, which nobody must own, where there are no namespaces.

    Raises: OSError: nobody can't read the standard library.
    """
    if os.getuid() == 0:
        if folder is not None:
            os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        Path(os.__file__).open("rb").close()
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    call("capset", header, bytes(24))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Cleared by the change of user above, so that this comes last.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_limits(timeout_seconds: float, memory_bytes: int) -> None:
    """Limits of every process of the program, each for itself but for their number."""
    seconds = int(timeout_seconds) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES, MAX_FILE_BYTES),
        (resource.RLIMIT_NPROC, MAX_PROCESSES, MAX_PROCESSES),
        (resource.RLIMIT_NOFILE, MAX_FILES, MAX_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        ceiling = resource.getrlimit(kind)[1]
        top = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
        resource.setrlimit(kind, (min(soft, top), top))


def outcome(code: str, tests: str) -> tuple[str, str]:
    """Runs the code, then its tests in the same module: the kind of its end, and the error in one line."""
    # A module that is registered, because dataclasses and pickle look it up; not `__main__`, so that a script's own
    # entry point doesn't wait for input.
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        compiled = compile(code, "answer.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
        return "syntax_error", f"{type(error).__name__}: {error}"
    try:
        exec(compiled, module.__dict__)
        exec(compile(tests, "tests.py", "exec", dont_inherit=True), module.__dict__)
    except AssertionError as error:
        return "failed_assertion", str(error)
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"
    return "passed", ""


def run_program(job: dict[str, Any], report: int, folder: str | None) -> NoReturn:
    """Runs the program in this process and leaves it."""
    os.setsid()
    os.environ["HOME"] = os.environ["TMPDIR"] = str(Path.cwd())
    give_up_privileges(folder)
    set_limits(job["timeout_seconds"], job["memory_bytes"])
    os.write(report, b"+")
    kind, message = outcome(job["code"], job["tests"])
    os.write(report, json.dumps([kind, message[:500]]).encode())
    os._exit(0)


def descendants() -> list[int]:
    """Ids of all processes below this one; needs `PR_SET_CHILD_SUBREAPER` to find those whose parent has ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for process in found:
        found.extend(children.get(process, []))
    return found[1:]


def end_descendants() -> None:
    """Kills all processes below this one, until none is left."""
    for _ in range(MAX_KILL_ROUNDS):
        processes = descendants()
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(POLL_SECONDS)


def supervised(job: dict[str, Any], output: int, folder: str | None) -> tuple[str, str]:
    """Starts the program, waits for its end or its time, and gives the kind of its end."""
    receive, send = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(receive)
        os.close(output)
        try:
            run_program(job, send, folder)
        finally:
            os._exit(1)
    os.close(send)
    deadline = time.monotonic() + job["timeout_seconds"]
    status = None
    while status is None and time.monotonic() < deadline:
        # Reaps orphans too, which come to this process.
        process, ended = os.waitpid(-1, os.WNOHANG)
        if process == program:
            status = ended
        elif process == 0:
            time.sleep(POLL_SECONDS)
    os.set_blocking(receive, False)
    try:
        said = os.read(receive, MAX_REPORT_BYTES)
    except BlockingIOError:
        said = b""
    if not said:
        return "unavailable", "the program couldn't give up its privileges or set its limits"
    return verdict(status, said[1:])


def verdict(status: int | None, said: bytes) -> tuple[str, str]:
    """The kind of an end, from the program's exit status (None: it was still running) and its own last words."""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "timeout", ""
    if os.WIFSIGNALED(status):
        return "error", f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    try:
        kind, message = json.loads(said)
    except ValueError:
        return "error", "left before its tests had ended"
    return str(kind), str(message)


def main() -> None:
    """Reads the job, runs it, writes how it ended."""
    job = json.load(sys.stdin)
    os.umask(0o022)
    output = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    isolation, folder = "namespaces", None
    try:
        enter_namespaces(job["folder"])
    except OSError:
        isolation, folder = "limits", job["folder"]
        os.chdir(folder)
    keeper = os.fork()
    if keeper:
        os.waitpid(keeper, 0)
        return
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kind, message = supervised(job, output, folder)
    if os.getpid() != 1:
        end_descendants()
    os.write(output, json.dumps({"kind": kind, "message": message, "isolation": isolation}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
