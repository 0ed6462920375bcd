"""How long ranking and reporting take on 60 configurations with 3 seeds: `python benchmarks/synthetic_experiment.py [--json]`.

Makes the records of such an experiment from a stated model (`synthetic_records.py`; nothing is trained), then times
`harness rank`, once with nothing remembered and once more, and `harness report`, weighs the page, and loads it in headless
Chromium where that is installed. `--folder FOLDER` keeps the experiment, and uses the one that is there.
"""

import argparse
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.synthetic_records import NAME, write_experiment
from harness.store import experiment_folder

GOALS = {"rank": 10.0, "rank_again": 10.0, "report": 20.0, "browser_load": 2.0, "browser_settled": 2.0}
"""Seconds."""
GOAL_BYTES = 8_000_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_SECONDS = 60
QUIET_MILLISECONDS = 1500
# Loads the page in a frame of its own and says when it had loaded, and when the last long task (over 50 ms) ended after which
# nothing happened for a while: scripts run and the charts in view drawn.
WRAPPER = f"""<!DOCTYPE html><body><script>
let last = 0;
new PerformanceObserver((list) => {{ for (const e of list.getEntries()) last = Math.max(last, e.startTime + e.duration); }})
  .observe({{ type: "longtask", buffered: true }});
const frame = document.createElement("iframe");
frame.style = "width: 1200px; height: 900px";
frame.src = "/report.html";
const start = performance.now();
frame.onload = () => {{
  const load = performance.now();
  const wait = () => {{
    const now = performance.now();
    if (now - Math.max(last, load) < {QUIET_MILLISECONDS}) return setTimeout(wait, 100);
    const charts = frame.contentDocument.querySelectorAll(".chart .vega-embed").length;
    fetch(`/done?load=${{(load - start) / 1000}}&settled=${{(Math.max(last, load) - start) / 1000}}&charts=${{charts}}`);
  }};
  wait();
}};
document.body.append(frame);
</script></body>"""


class Loaded(NamedTuple):
    """What a browser made of the page."""

    load: float
    """Seconds until its load event."""
    settled: float
    """Seconds until its last long task ended."""
    charts: int
    """Drawn by script by then: those near the first screen."""


class Seconds(NamedTuple):
    """How long a command took."""

    elapsed: float
    processor: float
    """Of all its processes: the same on a busy machine."""


def timed(command: list[str], folder: Path) -> Seconds:
    """Seconds of a harness command, in a process of its own.

    Raises: SystemExit: it failed.
    """
    started, before = time.monotonic(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"harness {' '.join(command)} failed: {done.stderr}")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Seconds(time.monotonic() - started, processor)


def loaded_in_browser(report: Path) -> Loaded | None:
    """The page in headless Chromium, served from this machine; None where there is no such browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        return None
    answer: list[Loaded] = []
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            pages = {"/": WRAPPER.encode(), "/report.html": report.read_bytes()}
            if path == "/done":
                told = dict(item.split("=") for item in query.split("&"))
                answer.append(Loaded(float(told["load"]), float(told["settled"]), int(told["charts"])))
                done.set()
            body = pages.get(path, b"")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                   "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done.wait(BROWSER_SECONDS)
        process.terminate()
        process.wait()
        server.shutdown()
    return answer[0] if answer else None


def measure(folder: Path) -> dict[str, float | int | None]:
    """Every figure of the table."""
    figures: dict[str, float | int | None] = {}
    home = experiment_folder(NAME, folder / "mlruns" / "harness")
    if not home.config.exists():
        started = time.monotonic()
        os.chdir(folder)
        figures["cells"] = len(write_experiment(folder).cells)
        figures["write_records"] = time.monotonic() - started
    file = f"{NAME}.yaml"
    for name, command in (("rank", "rank"), ("rank_again", "rank"), ("report", "report")):
        figures[name], figures[f"{name}_processor"] = timed([command, file], folder)
    figures["report_bytes"] = home.report("html").stat().st_size
    loaded = loaded_in_browser(home.report("html"))
    figures["browser_load"] = loaded.load if loaded else None
    figures["browser_settled"] = loaded.settled if loaded else None
    figures["charts_drawn"] = loaded.charts if loaded else None
    return figures


def main() -> None:
    """Makes the experiment, times the commands, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the experiment is kept; by default it is deleted at the end")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{'figure':<18} {'measured':>12} {'goal':>12}")
    for name, value in figures.items():
        goal = GOAL_BYTES if name == "report_bytes" else GOALS.get(name)
        shown = "no browser" if value is None else f"{value:,.2f} s" if isinstance(value, float) else f"{value:,}"
        print(f"{name:<18} {shown:>12} {'' if goal is None else f'{goal:,}':>12}")


if __name__ == "__main__":
    main()
