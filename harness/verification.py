"""What was found when a trained checkpoint was loaded again."""

from harness.records import Record


class VerifiedItem(Record):
    """One check of a checkpoint that was loaded again."""

    name: str
    passed: bool
    message: str
    value: float | None = None
    tolerance: float | None = None


class Verification(Record):
    """Whether the saved checkpoint is what was trained."""

    items: tuple[VerifiedItem, ...]

    @property
    def failures(self) -> tuple[VerifiedItem, ...]:
        """What doesn't hold."""
        return tuple(item for item in self.items if not item.passed)
