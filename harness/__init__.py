"""Find out which fine-tune is actually better."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harness.api import compare, load, rank, report, run

__all__ = ["__version__", "compare", "load", "rank", "report", "run"]


def __getattr__(name: str) -> Any:
    """The functions of `harness.api`, imported when they are used: the command line starts without them."""
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
