"""What a comparison of one answer with one reference gives."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """A value, and what kind of failure it is."""

    value: float | None
    """None: couldn't be told; never counted as zero."""
    failure: str = ""
    """Machine-readable, such as `no_number`; empty where there is nothing to say."""
