"""The launcher that an experiment file asks for."""

from harness.launch.base import Launcher
from harness.launch.local import LocalLauncher
from harness.launch_config import LaunchConfig
from harness.store import ExperimentFolder


def choose_launcher(config: LaunchConfig, folder: ExperimentFolder) -> Launcher:
    """The launcher of an experiment, ready to run packs.

    Raises: LaunchError: what it needs isn't there.
    """
    if config.kind == "slurm":
        from harness.launch.slurm import SlurmLauncher

        return SlurmLauncher(config, folder)
    if config.kind == "ray":
        from harness.launch.ray_cluster import RayLauncher

        return RayLauncher(config, folder)
    return LocalLauncher(config)
