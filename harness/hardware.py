"""Which GPUs are here, found out without touching CUDA, so that workers can still be forked."""

import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path


def visible_gpus() -> list[str]:
    """Ids of the GPUs that may be used: those of CUDA_VISIBLE_DEVICES, else all."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [part for part in listed.split(",") if part.strip() and part.strip() != "-1"]
    found = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    # WSL and some containers have GPUs without that folder.
    found = found or sum(line.startswith("GPU ") for line in _nvidia_smi("-L"))
    return [str(index) for index in range(found)]


def smallest_gpu_gib() -> float | None:
    """Memory of the smallest GPU; None without a GPU."""
    if not visible_gpus():
        return None
    sizes = [line.strip() for line in _nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits")]
    return min((int(size) / 1024 for size in sizes if size.isdigit()), default=None)


@lru_cache(maxsize=4)
def _nvidia_smi(*arguments: str) -> tuple[str, ...]:
    if not shutil.which("nvidia-smi"):
        return ()
    done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=False)
    return tuple(done.stdout.splitlines()) if done.returncode == 0 else ()
