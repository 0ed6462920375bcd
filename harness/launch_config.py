"""The `launch` section of the experiment file: where cells run."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.eval_config import Section

SLURM_TIME = re.compile(r"(\d+-)?\d{1,3}(:[0-5]\d){1,2}")
SLURM_FIELDS = (
    "partition", "account", "qos", "time", "gpus_per_task", "cpus_per_task", "mem", "setup", "additional_parameters",
    "signal_delay_s",
)  # fmt: skip
RAY_FIELDS = ("address", "resources_per_cell")


class LaunchConfig(Section):
    """Where cells run."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """local: processes on this machine; slurm: a job array; ray: tasks of a Ray cluster."""
    workers: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    """Cells at a time; auto: one a GPU, or one a CPU core; on a cluster, as many as it has room for."""
    processes_per_cell: Annotated[int, Field(gt=0)] = 1
    """Processes (and GPUs) that train one cell together, under `accelerate launch`; multiplies the effective batch."""
    accelerate_config: str | None = None
    """File of `accelerate config`, for FSDP2 say; by default plain data parallelism (DDP)."""

    partition: str | None = None
    """Slurm: by default the cluster's own."""
    account: str | None = None
    """Slurm: who is charged."""
    qos: str | None = None
    """Slurm: quality of service."""
    time: str | None = None
    """Slurm: needed there; limit of a job, in quotes: "12:00:00" or "2-00:00:00". A job that reaches it saves, and goes on in a new one."""
    gpus_per_task: Annotated[int, Field(ge=0)] | None = None
    """Slurm: GPUs of a cell; by default as many as `processes_per_cell` where that is more than 1, else the partition's."""
    cpus_per_task: Annotated[int, Field(gt=0)] = 1
    """Slurm: CPU cores of a cell, and its threads."""
    mem: str | None = None
    """Slurm: memory of a job, such as 64G."""
    setup: tuple[str, ...] = ()
    """Slurm: shell lines that run before each job, such as `module load cuda`."""
    additional_parameters: dict[str, Any] = {}
    """Slurm: other options of `sbatch` by their long names, such as `constraint: h100`."""
    signal_delay_s: Annotated[int, Field(gt=0)] = 90
    """Slurm: seconds before a job's end at which it is told to save."""

    address: str | None = None
    """Ray: `ray://HOST:10001` or `HOST:6379`; by default the cluster that `ray start` made on this machine."""
    resources_per_cell: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Ray: what a cell takes, such as `{CPU: 8, GPU: 1}`; by default one GPU where the cluster has any, else one CPU."""

    @field_validator("time", mode="before")
    @classmethod
    def _quoted_time(cls, value: object) -> object:
        # YAML reads 12:00:00 without quotes as the number 43200.
        if value is not None and not (isinstance(value, str) and SLURM_TIME.fullmatch(value)):
            raise ValueError(f'{value!r} is no time limit; write it in quotes, as "12:00:00" or "2-00:00:00"')
        return value

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        others = {"slurm": SLURM_FIELDS, "ray": RAY_FIELDS}
        for kind, fields in others.items():
            # Records state every field, so one at its default was not asked for.
            given = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
            if given and self.kind != kind:
                raise ValueError(f"{', '.join(given)}: for `kind: {kind}` only; change `kind` (it is {self.kind}) or delete it")  # fmt: skip
        if self.kind == "slurm" and self.time is None:
            raise ValueError('kind: slurm needs `time`, the limit of a job; add time: "12:00:00", say')
        return self
