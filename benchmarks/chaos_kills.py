"""SIGKILLs at random moments of a grid like the quickstart's, of random victims, until the grid is done all the same."""

import logging
import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from benchmarks.chaos_checks import Damage, damage, untrue
from benchmarks.chaos_drive import ROOT, environment, live, members, reference_run, size, start, wait_for_orphans
from benchmarks.chaos_snapshot import read_snapshot

logger = logging.getLogger(__name__)

VICTIMS = ("parent", "worker", "group")
SHARE = 0.35
"""Of the time that the grid takes uninterrupted: the longest wait before the next kill. A start takes a good part of it."""
PATIENCE_SECONDS = 900.0
RECONCILED = 0.25
"""How often somebody looks after a kill, before the next start does."""


class Kills(NamedTuple):
    """What random kills did."""

    victims: dict[str, int]
    """Victim -> kills."""
    grids: int
    """Times that the grid came to its end."""
    damage: Damage

    @property
    def total(self) -> int:
        """Kills of all victims."""
        return sum(self.victims.values())

    def row(self) -> dict[str, object]:
        """For the table."""
        lost, duplicated, wrong = self.damage
        whom = ", ".join(f"{name} {count}" for name, count in sorted(self.victims.items()))
        return {
            "fault": f"{self.total} random SIGKILLs", "stage": "any", "to": whom, "exit_code": 0, "status": f"{self.grids} grids FINISHED",
            "lost": len(lost), "duplicated": len(duplicated), "wrong_status": len(wrong), "what": [*lost, *duplicated, *wrong],
        }  # fmt: skip


def write_quickstart(folder: Path) -> str:
    """The quickstart with its cells, model and data, and fewer steps and examples; gives the name of the experiment."""
    described = yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())
    template = ROOT / "experiments" / "chatml_end_not_trained.jinja"
    described["name"] = "kills"
    described["data"]["limit"] = 96
    described["training"] |= {"max_steps": 24, "eval_steps": 4, "per_device_train_batch_size": 8, "max_length": 128}
    described["variants"]["end-of-turn-not-trained"]["template.name"] = str(template)
    for suite in described["evals"]:
        suite |= {"limit": 16, "max_new_tokens": 12}
    described["ranking"]["gates"] = []
    described |= {"tracking": {"system_metrics": False}, "launch": {"workers": 2}}
    folder.mkdir(parents=True)
    (folder / "kills.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return "kills"


class Killer:
    """Kills a grid again and again."""

    def __init__(self, folder: Path, *, seed: int, until: float) -> None:
        """Runs the grid once without a kill.

        Args:
            folder: an empty one.
            seed: of moments and victims.
            until: on the monotonic clock, when no more kills are begun.
        """
        self._folder = folder
        self._random = random.Random(seed)
        self._until = until
        self._victims = dict.fromkeys(VICTIMS, 0)
        self._wrong: list[str] = []
        self._lives: list[int] = []
        self._name = write_quickstart(folder / "whole")
        self._longest_seconds = SHARE * reference_run(folder / "whole", "kills.yaml")

    def run(self, kills: int) -> Kills:
        """As many kills as there is time for, over as many grids as they take; every grid is brought to its end."""
        found, grids = Damage(), 0
        while self._has_more(kills):
            grids += 1
            place = self._folder / f"grid{grids}"
            write_quickstart(place)
            self._lives.clear()
            while not self._lives_to_the_end(place, kills):
                pass
            reference = read_snapshot(self._folder / "whole", self._name)
            found += damage(reference, read_snapshot(place, self._name))
        found += Damage(wrong_status=tuple(self._wrong))
        for name, texts in found._asdict().items():
            for text in texts:
                logger.warning("%s: %s", name, text)
        return Kills(self._victims, grids, found)

    def _has_more(self, kills: int) -> bool:
        return sum(self._victims.values()) < kills and time.monotonic() < self._until

    def _lives_to_the_end(self, place: Path, kills: int) -> bool:
        """One `harness run`, killed or not; whether it came to its end with all cells finished."""
        said = size(place / "out.txt")
        process = start(place, "run", "kills.yaml", env=environment())
        self._lives.append(process.pid)
        deadline = time.monotonic() + PATIENCE_SECONDS
        moment = time.monotonic() + self._random.uniform(0, self._longest_seconds)
        while process.poll() is None:
            if time.monotonic() > deadline:
                self._wrong.append(f"{place.name}: `harness run` hangs")
                os.killpg(process.pid, signal.SIGKILL)
            if time.monotonic() >= moment and self._has_more(kills):
                self._kill(process.pid)
                moment = time.monotonic() + self._random.uniform(0, self._longest_seconds)
            time.sleep(0.02)
        self._judge(place, process.returncode, (place / "out.txt").read_bytes()[said:].decode(errors="replace"))
        return process.returncode == 0

    def _kill(self, parent: int) -> None:
        """One of three victims; a worker where there is one."""
        victim = self._random.choice(VICTIMS)
        workers = _workers(parent)
        if victim == "worker" and not workers:
            victim = "parent"
        try:
            if victim == "group":
                os.killpg(parent, signal.SIGKILL)
            else:
                os.kill(self._random.choice(workers) if victim == "worker" else parent, signal.SIGKILL)
        except ProcessLookupError:  # it ended just now
            return
        self._victims[victim] += 1
        logger.info("kill %d: %s", sum(self._victims.values()), victim)

    def _judge(self, place: Path, code: int, said: str) -> None:
        """Exit code and statuses; mostly the next start comes while orphans of this one still live, as an impatient user's does."""
        # 1: a worker was killed twice in one life, and its cell is given up until the next one.
        if code not in (0, 1, -signal.SIGKILL) or "Traceback" in said:
            self._wrong.append(f"{place.name}: exit code {code}: {said[-3000:]}")
        is_looked_after = code == -signal.SIGKILL and self._random.random() < RECONCILED
        if code == -signal.SIGKILL and not is_looked_after:
            return
        left = [command for life in self._lives for command in wait_for_orphans(life)]
        self._wrong += [f"{place.name}: it goes on without `harness run`: {command}" for command in left]
        # A life may be too short to make itself known to MLflow.
        if is_looked_after and read_snapshot(place, self._name).runs:
            closed = live(place, "reconcile", "kills.yaml", env=environment())
            if closed.exit_code != 0:
                self._wrong.append(f"{place.name}: harness reconcile: {closed.output[-300:]}")
        found = read_snapshot(place, self._name)
        seen = f"{place.name}, life {len(self._lives)}, exit code {code}"
        self._wrong += [f"{seen}: {text}" for text in untrue(found, may_run=False, allowed={})]


def _workers(parent: int) -> list[int]:
    """Children of the fork server: it and the resource tracker are the parent's own."""
    found = []
    for process in members(parent):
        try:
            if process.pid != parent and process.ppid() != parent and process.parent() is not None:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found
