"""Lines for the terminal, without secrets and without what would work unseen; needs nothing that takes time to import."""

import logging

from harness.reports.visible import visible
from harness.secrets import RedactingFormatter, redacted


class SafeFormatter(RedactingFormatter):
    """Formats a message and its traceback for the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """One message."""
        return visible(super().format(record))


def safe(text: str) -> str:
    """A text as it may be shown."""
    return visible(redacted(text))
