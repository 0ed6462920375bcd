"""What is recorded while a cell trains: every logged step on disk first, then at the tracker."""

import json
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.records import NonFinite, TracePoint, finite_or_name
from harness.stopping import is_stop_asked
from harness.store import CellFolder, append_lines, write_text
from harness.tracking.base import Tracker
from harness.train.agreement import first_process_says

# Written once at the end by the trainer itself; the curves already say it.
IGNORED_LOGS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")


class TraceCallback(TrainerCallback):
    """Writes every log entry to `trace.jsonl` and hands it to the tracker."""

    def __init__(self, folder: CellFolder, tracker: Tracker, *, seconds_before: float = 0.0) -> None:
        self._path = folder.trace
        self._state_path = folder.state
        self._tracker = tracker
        self._seconds_before = seconds_before
        self._started = time.monotonic()
        self._last_tokens: tuple[float, float] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock, and says how many steps there are: with packing that is known only now."""
        self._started = time.monotonic()
        if state.global_step > 0:
            counted = args.include_num_input_tokens_seen == "no"
            tokens = state.num_input_tokens_seen if counted else logged_tokens(state)
            self._last_tokens = (tokens, self._seconds_before)
        if state.is_world_process_zero:
            write_text(self._state_path, json.dumps({"stage": "training", "planned_steps": state.max_steps}))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One trace point."""
        values = {
            name: float(value) for name, value in (logs or {}).items() if _is_number(value) and name not in IGNORED_LOGS
        }
        epoch = values.pop("epoch", float(state.epoch or 0.0))
        seconds = self._seconds_before + time.monotonic() - self._started
        if "num_tokens" in values and "loss" in values:
            if self._last_tokens is not None and seconds > self._last_tokens[1]:
                tokens, then = self._last_tokens
                values["tokens_per_second"] = (values["num_tokens"] - tokens) / (seconds - then)
            self._last_tokens = (values["num_tokens"], seconds)
        if not values:
            return
        recorded: dict[str, float | NonFinite] = {name: finite_or_name(value) for name, value in values.items()}
        point = TracePoint(step=state.global_step, epoch=epoch, seconds=seconds, values=recorded)
        if state.is_world_process_zero:
            append_lines(self._path, [point])
        self._tracker.log_metrics(values, state.global_step)


class EvaluateAtEnd(TrainerCallback):
    """Evaluates and saves after the last step, also where `eval_steps` doesn't divide the number of steps.

    It comes after every other callback: it must see whether one of them stops training.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Asks for both at the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Saves where training was stopped early, and wherever the best checkpoint could be."""
        if control.should_training_stop or args.load_best_model_at_end:
            control.should_save = True
        return control


class StopOnSignal(TrainerCallback):
    """Saves and stops after the step in which the process was told to stop."""

    has_stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The first of several processes decides: all must stop at the same step. An evaluation that is due takes place."""
        if first_process_says(is_stop_asked(), args.device) and not control.should_training_stop:
            self.has_stopped = True
            # There an evaluation and a save of the epoch's own follow.
            control.should_save = not (_is_epoch_end(state) and args.save_strategy == "epoch")
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The trainer takes the end of training for the end of an epoch."""
        if self.has_stopped and not _is_epoch_end(state):
            control.should_evaluate = control.should_save = False
        return control


class LogAtCheckpoint(TrainerCallback):
    """Logs at every step that is saved: the mean loss since the last log is in no checkpoint, and a resumed curve would be another."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Comes after whoever asks for a save; an evaluation may."""
        if args.logging_strategy != "no" and (control.should_save or control.should_evaluate):
            control.should_log = True
        return control

    on_epoch_end = on_step_end


def logged_tokens(state: TrainerState) -> int:
    """How many tokens a training had seen when it was last logged."""
    return next((int(entry["num_tokens"]) for entry in reversed(state.log_history) if "num_tokens" in entry), 0)


def _is_epoch_end(state: TrainerState) -> bool:
    return float(state.epoch or 0.0).is_integer()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
