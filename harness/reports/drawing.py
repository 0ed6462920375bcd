"""Vega-Lite specifications as scripts and pictures that need no network."""

from functools import lru_cache
from typing import Any

from markupsafe import Markup


@lru_cache(maxsize=1)
def vega_bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script; nothing in it can end the script element early."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return Markup(bundle.replace("</script", "<\\/script"))


def drawn_svg(spec: Any) -> Markup:
    """The chart for viewers and printers that run no scripts; vl-convert escapes its text."""
    import vl_convert

    return Markup(vl_convert.vegalite_to_svg(drawable(spec)))


def drawn_png(spec: Any) -> bytes:
    """The chart as a picture, at twice its size."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(drawable(spec), scale=2))


def drawable(node: Any) -> Any:
    """A specification, or part of one, without what can't be drawn: the library ends the process at a control character."""
    if isinstance(node, str):
        return "".join(character if character.isprintable() else "\ufffd" for character in node)
    if isinstance(node, dict):
        return {drawable(key): drawable(value) for key, value in node.items()}
    return [drawable(item) for item in node] if isinstance(node, list) else node
