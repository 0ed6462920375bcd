"""Makes the README's table again: `python benchmarks/quickstart.py`, in a fresh folder of its own."""

import platform
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Runs the quickstart from nothing, then a second time, and prints both times and the ranking."""
    with tempfile.TemporaryDirectory() as folder:
        for attempt in ("first run", "second run"):
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "harness", "run", "quickstart"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"{attempt}: {time.monotonic() - started:.0f} s on {platform.processor() or platform.machine()}")
        print(done.stdout)


if __name__ == "__main__":
    main()
