"""Ends a training early where its curves say that it is lost."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.config import CurveCheck
from harness.diagnose.live import NON_FINITE, Stop, Watch, first_stop
from harness.errors import TrainError
from harness.records import Probe, TracePoint, finite_or_name
from harness.store import CellFolder, read_lines
from harness.train.agreement import first_process_says

logger = logging.getLogger(__name__)


class StopOnFinding(TrainerCallback):
    """Runs the checks of `stop_on` while a cell trains.

    The first process decides, for it alone has the probes, and tells the others: else one would wait for another forever.
    """

    def __init__(self, folder: CellFolder, checks: Sequence[CurveCheck]) -> None:
        self._folder = folder
        self._checks = checks
        self._watch: Watch | None = None
        self._probe_bytes = 0
        self.stop: Stop | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts with what was logged before the training was interrupted, if it was."""
        settings = {f"training.{name}": str(value) for name, value in args.to_dict().items()}
        self._watch = Watch(self._checks, state.max_steps, settings)
        if state.is_world_process_zero:
            probes = self._new_probes()
            self.stop = first_stop(self._watch, read_lines(self._folder.trace, TracePoint), probes)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Looks at the curves.

        Raises: TrainError: the training loss is not finite, so there is nothing left to be evaluated.
        """
        values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if not values.keys() & {"loss", "eval_loss"}:
            return
        # Every process has the same loss, so this needs no agreement.
        loss = values.get("loss", 0.0)
        if NON_FINITE in self._checks and not math.isfinite(loss):
            raise TrainError(
                f"step {state.global_step}: the training loss is {loss}, so the weights are lost; lower the learning rate, "
                f"warm up longer or clip gradients ({NON_FINITE} in stop_on ended it, "
                f"{max(0, state.max_steps - state.global_step)} steps saved; leave it out to train on regardless)"
            )
        if state.is_world_process_zero and self.stop is None and self._watch is not None:
            point = TracePoint(
                step=state.global_step, epoch=float(state.epoch or 0.0), seconds=0.0,
                values={name: finite_or_name(value) for name, value in values.items()},
            )  # fmt: skip
            self.stop = self._watch.add(point, self._new_probes)
        if first_process_says(self.stop is not None, args.device) and not control.should_training_stop:
            if self.stop is not None:
                logger.warning("%s", self.stop.sentence)
            control.should_training_stop = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = True

    def _new_probes(self) -> list[Probe]:
        """The lines that were added since the last call."""
        if not self._folder.probes.exists():
            return []
        with self._folder.probes.open(encoding="utf-8") as file:
            file.seek(self._probe_bytes)
            lines = file.readlines()
            self._probe_bytes = file.tell()
        return [Probe.model_validate_json(line) for line in lines]


def stop_of(callbacks: Iterable[TrainerCallback]) -> Stop | None:
    """Why one of these ended the training, if one did."""
    return next((callback.stop for callback in callbacks if isinstance(callback, StopOnFinding)), None)
