"""What an answer should look like, as declared in an experiment file."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Count = Annotated[int, Field(ge=0)]


class StyleRules(BaseModel):
    """How answers should look; a rule that isn't given isn't checked. Thinking is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    must_match: tuple[str, ...] = ()
    """Regular expressions (of the package `regex`) that must each be found in the answer."""
    must_not_match: tuple[str, ...] = ()
    """Regular expressions that must not be found in it."""
    min_words: Count | None = None
    """Fewest words, divided by blanks."""
    max_words: Count | None = None
    """Most words."""
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = None
    """ISO 639-1 code, such as `en`; answers too short to tell pass."""
    openers: tuple[str, ...] = ()
    """The answer begins with one of these, in whatever case."""
    markdown: Literal["allowed", "required", "none"] = "allowed"
    """Whether the answer has Markdown: headings, bold text, bullet lists, fences, links or tables."""

    @field_validator("must_match", "must_not_match")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        import regex

        for pattern in patterns:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self
