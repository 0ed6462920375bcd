"""A console on which nothing that is shown can steer the terminal: names, answers and errors may come from elsewhere."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.reports.visible import visible


class SafeConsole(Console):
    """A console that spells out control characters in whatever it shows; its own colours and cursor moves still work."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something that is shown."""
        for segment in super().render(renderable, options):
            # A segment with `control` is rich's own; texts, markup too, arrive in the others.
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
