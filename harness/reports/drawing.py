"""Vega-Lite specifications as scripts and pictures that need no network."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from markupsafe import Markup

from harness.forked import each

STATIC_WIDTH = 700
HOVERED = "hovered"
"""Name of a layer that shows nothing but tooltips."""


@lru_cache(maxsize=1)
def vega_bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script; nothing in it can end the script element early."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return Markup(bundle.replace("</script", "<\\/script"))


class Drawing(NamedTuple):
    """A chart that stands still."""

    svg: Markup
    """Transparent."""
    png: bytes
    """On white, at twice its size."""


def drawings_of(specs: Sequence[Any]) -> list[Drawing]:
    """Every chart as pictures, on all cores: each takes half a second."""

    def draw(position: int) -> Drawing:
        svg = drawn_svg(specs[position])
        return Drawing(svg, png_of(on_paper(svg)))

    return list(each(draw, len(specs), worth_it=2))


def drawn_svg(spec: Any) -> Markup:
    """The chart for viewers and printers that run no scripts; vl-convert escapes its text."""
    import vl_convert

    return Markup(vl_convert.vegalite_to_svg(json.dumps(drawable(_still(spec)))))


def drawn_png(spec: Any) -> bytes:
    """The chart as a picture, at twice its size."""
    return png_of(drawn_svg(spec))


def on_paper(svg: str) -> str:
    """A transparent drawing on white, for a picture that stands by itself."""
    return str(svg).replace(">", '><rect width="100%" height="100%" fill="white"/>', 1)


def png_of(svg: str) -> bytes:
    """A drawing as a picture, at twice its size."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(svg, scale=2))


def _still(spec: Any) -> Any:
    """The specification with a width of its own where it would take that of the page, and without what is only hovered over."""
    fixed = {**spec, "width": STATIC_WIDTH} if spec.get("width") == "container" else spec
    layers = fixed.get("layer")
    return fixed if layers is None else {**fixed, "layer": [part for part in layers if part.get("name") != HOVERED]}


def drawable(node: Any) -> Any:
    """A specification, or part of one, without what can't be drawn: the library ends the process at a control character."""
    if isinstance(node, str):
        return "".join(character if character.isprintable() else "\ufffd" for character in node)
    if isinstance(node, dict):
        return {drawable(key): drawable(value) for key, value in node.items()}
    return [drawable(item) for item in node] if isinstance(node, list) else node
