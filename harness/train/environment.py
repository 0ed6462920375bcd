"""What a run stood on: versions, hardware and git commit."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

import harness

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "mlflow", "tokenizers")


def environment() -> dict[str, str]:
    """Name -> version or description."""
    found = {"sft-harness": harness.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    found["git_commit"] = _git("rev-parse", "HEAD") or "not a git checkout"
    if found["git_commit"] != "not a git checkout":
        found["git_dirty"] = str(bool(_git("status", "--porcelain")))
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def peak_memory_gib() -> float | None:
    """Most GPU memory that this process allocated; None without a GPU, where a process's memory says little."""
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated()) / 2**30
