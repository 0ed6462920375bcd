"""The final number of an answer."""

from decimal import Decimal

import pytest

from harness.scoring.numeric import final_number, numeric_match


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("A: 18", "18"),
        ("A: 18, because 3 times 6", "18"),
        ("9 * 2 = $<<9*2=18>>18 every day\n#### 18", "18"),
        ("#### 18\nQuestion: what is 2 + 2?\n#### 4", "18"),
        ("#### 1. Add the apples\n5 + 5 = 10\n#### 10", "10"),
        ("#### $3,000", "3000"),
        ("The answer is 42 apples.", "42"),
        ("The answer is 42. I used 3 steps.", "42"),
        ("The answer is 3 + 4 = 7", "7"),
        ("**Answer:** $42 in 3 days", "42"),
        ("**Answer**: 42 in 3 days", "42"),
        ("Final answer: \\(x = 5\\)", "5"),
        ("so \\boxed{18\\text{ dollars}} in 3 days", "18"),
        ("\\boxed{3} and then \\boxed{\\frac{3}{4}}", "0.75"),
        ("\\boxed{1{,}234}", "1234"),
        ("\\boxed{yes}, with 4", "4"),
        ("\\boxed{4", "4"),
        ("1,234.50", "1234.5"),
        ("1,234,567", "1234567"),
        ("1,00,000", "100000"),
        ("10,20,30", "30"),
        ("-7 degrees", "-7"),
        ("−7 degrees", "-7"),
        ("-$5", "-5"),
        ("$-5.", "-5"),
        ("16-3", "3"),
        ("2024-03-20", "20"),
        ("50%", "50"),
        ("3/4", "0.75"),
        ("-\\frac{1}{2}", "-0.5"),
        ("1/2/2024", "2024"),
        ("1.5e3", "1500"),
        ("1.5 × 10^3", "1500"),
        ("2 \\times 10^{-3} m", "0.002"),
        ("10^6", "1000000"),
        (".5", "0.5"),
        ("<think>12</think>about 13.", "13"),
        ("４２", "42"),
    ],
)
def test_final_number(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "four", "1/0", "$", "-", "...", "<think>12</think>", "1e" + "9" * 40])
def test_text_without_a_number(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "value", "failure"),
    [
        ("The answer is 18.00 dollars.", "... #### 18", 1, ""),
        ("17", "#### 18", 0, "wrong_number"),
        ("eighteen", "#### 18", 0, "no_number"),
        ("18", "eighteen", None, "reference_without_number"),
        ("0.333", "1/3", 0, "wrong_number"),
        ("2/6", "1/3", 1, ""),
        ("1e999999999", "1", 0, "wrong_number"),
        ("9" * 100_000, "9" * 100_000, 1, ""),
        ("9" * 99_999 + "8", "9" * 100_000, 0, "wrong_number"),
        ("-" + "9" * 60, "-" + "9" * 60, 1, ""),
    ],
)
def test_numeric_match(answer: str, reference: str, value: float | None, failure: str) -> None:
    assert numeric_match(answer, reference) == (value, failure)
