"""Text of models and users as it may be shown: nothing in it works unseen."""

import re

# Control characters but line break and tab, bidirectional embeddings, overrides and isolates, and halves of surrogate pairs.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what would work unseen spelled out, as `[U+202E]`."""
    return UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n"))


def cut(text: str, limit: int) -> str:
    """The beginning of a text, with the number of characters that follow."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def cut_front(text: str, limit: int) -> str:
    """The end of a text, with the number of characters that come before."""
    return text if len(text) <= limit else f"({len(text) - limit:,} characters before) … {text[-limit:]}"


def some(names: list[str], shown: int = 3) -> str:
    """`a, b, c and 9 more`."""
    if len(names) <= shown:
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"
