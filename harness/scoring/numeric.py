"""Whether the final number of an answer is that of its reference."""

import re
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation

from harness.scoring.thinking import without_thinking
from harness.scoring.verdict import Verdict

# Commas group digits by three, or by two and three as in 1,00,000. The number of groups is bounded, so that a long list
# of digits and commas is read in linear time.
DIGITS = r"(?:(?:\d{1,3}(?:,\d{2,3}){0,12},\d{3}(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
TIMES = r"[ ]?(?:×|x|\*|\\times|\\cdot)[ ]?"
NUMBER = re.compile(
    # A minus after a digit, a letter or a bracket subtracts.
    r"(?P<sign>(?:(?<![\w)\]}])[-−–])?(?:[$€£¥₹][-−]?)?)(?:"
    rf"\\[dt]?frac\{{(?P<over>-?{DIGITS})\}}\{{(?P<under>{DIGITS})\}}"
    rf"|(?:(?P<mantissa>{DIGITS}){TIMES})?10\^\{{?(?P<power>[-−+]?\d+)\}}?"
    # Not a date, which has a second slash.
    rf"|(?<!/)(?P<numerator>{DIGITS})[ ]?/[ ]?(?P<denominator>\d+)(?![\d/])"
    rf"|(?P<plain>{DIGITS})(?:[eE](?P<exponent>[-+]?\d+))?"
    r")"
)
LEAD = r"[ \t*_:=~≈$€£¥₹\\(]*"
HASHES = re.compile(rf"####{LEAD}(?=[-−.\d])")
ANSWER_IS = re.compile(rf"(?:\banswer\**(?: is\b|:| ?=)|\A\s*A:){LEAD}(?=[-−.\d])", re.IGNORECASE)
BOX = r"\boxed{"
# "#### 1. Add the apples" is a heading, and "the answer is 3 + 4 = 7" has a later number.
ENUMERATED = re.compile(r"[.)][ \t]+\w")
CALCULATED = re.compile(r"[^\n.=]{0,100}=|[ \t]*(?:[-−+*/×÷=^]|\\times|\\cdot|\\div)[ \t]*[-−$\d(\\]")

DIVISION = Context(prec=50, traps=[])


def final_number(text: str) -> Decimal | None:
    r"""The number that a text ends up with, or None where there is none.

    The first of these that the text has: the number right after the first `####` (GSM8K), in the last `\boxed{}` (MATH),
    right after the first "answer is" or "answer:" or an "A:" at the beginning, and else the last number of all.
    Thinking, currency, units, percent signs and grouping commas are left out, so that 50% is 50; a point is decimal.
    Fractions and powers of ten are worked out, mixed numbers (1 1/2) and numbers in words are not.
    """
    text = without_thinking(text)
    for written, meant in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", "$")):
        text = text.replace(written, meant)
    ways: tuple[Callable[[str], Decimal | None], ...] = (_after_hashes, _in_last_box, _after_answer_is, _last_number)
    return next((number for way in ways if (number := way(text)) is not None), None)


def numeric_match(answer: str, reference: str) -> Verdict:
    """1 where the final numbers are exactly equal as values, else 0; unscored where the reference has none."""
    wanted = final_number(reference)
    if wanted is None:
        return Verdict(None, "reference_without_number")
    given = final_number(answer)
    if given is None:
        return Verdict(0.0, "no_number")
    return Verdict(1.0) if given == wanted else Verdict(0.0, "wrong_number")


def _after_hashes(text: str) -> Decimal | None:
    return _marked(text, HASHES, ENUMERATED)


def _after_answer_is(text: str) -> Decimal | None:
    return _marked(text, ANSWER_IS, CALCULATED)


def _marked(text: str, mark: re.Pattern[str], refused: re.Pattern[str]) -> Decimal | None:
    """The number after the first mark, unless something follows it that shows that it is another kind of number."""
    for found in mark.finditer(text):
        match = NUMBER.match(text, found.end())
        if match is not None and not refused.match(text, match.end()):
            return _value(match)
    return None


def _in_last_box(text: str) -> Decimal | None:
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 0
    for position in range(start + len(BOX) - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return _last_number(text[start + len(BOX) : position])
    return None


def _last_number(text: str) -> Decimal | None:
    last = None
    for match in NUMBER.finditer(text):
        last = match
    return _value(last) if last is not None else None


def _value(match: re.Match[str]) -> Decimal | None:
    """The value of a number, as exact as it is written; None where it is too large for arithmetic or divides by zero."""
    power = match["power"] or match["exponent"] or "0"
    digits = match["over"] or match["mantissa"] or match["numerator"] or match["plain"] or "1"
    divisor = match["under"] or match["denominator"]
    try:
        value = Decimal(f"{digits.replace(',', '')}e{power.replace('−', '-')}")
        if divisor is not None:
            value = DIVISION.divide(value, Decimal(divisor.replace(",", "")))
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    # Unlike the minus operator, this doesn't round.
    return value.copy_negate() if set(match["sign"]) & set("-−–") else value
