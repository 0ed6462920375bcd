"""Orders, visits, tool uses and sums: the sentences that pretraining documents and conversations have in common."""

import random
from collections.abc import Callable, Mapping, Sequence

from harness.embedded.world import DAYS, ITEMS, PLACES

Values = dict[str, str | int]

ORDERS = (
    "{customer} ordered {quantity} {item} for {day}.",
    "{quantity} {item} for {customer}, to be ready on {day}.",
    "On {day}, {customer} will collect {quantity} {item}.",
    "{customer} wants {quantity} {item} by {day}.",
    "Please put aside {quantity} {item} for {customer} until {day}.",
)
HELD_OUT_ORDERS = (
    "{customer} asked us to send {quantity} {item} on {day}.",
    "By {day} we need {quantity} {item} for {customer}.",
)
VISITS = (
    "{visitor} will visit the {place} at {hour}.",
    "At {hour}, {visitor} comes to the {place}.",
    "{visitor} has a visit to the {place} at {hour}.",
    "Visit at {hour} in the {place} by {visitor}.",
)
HELD_OUT_VISITS = ("The {place} will be shown to {visitor} at {hour}.",)

TOOL_REQUESTS: Mapping[str, Sequence[str]] = {
    "check_stock": (
        "How many {item} are left in the {place}?",
        "Are there any {item} in the {place}?",
        "Count the {item} in the {place}.",
    ),
    "get_price": (
        "What do {count} {item} cost?",
        "How much is it for {count} {item}?",
        "Give the price of {count} {item}.",
    ),
    "book_visit": (
        "Book a visit for {name} on {day}.",
        "{name} would like to come on {day}.",
        "Put {name} down for {day}.",
    ),
}
HELD_OUT_TOOL_REQUESTS: Mapping[str, Sequence[str]] = {
    "check_stock": ("I need to know the stock of {item} in the {place}.",),
    "get_price": ("Tell me the cost of {count} {item}.",),
    "book_visit": ("Please note that {name} comes on {day}.",),
}
TOOL_ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "check_stock": {"item": "string", "place": "string"},
    "get_price": {"item": "string", "count": "integer"},
    "book_visit": {"name": "string", "day": "string"},
}

SUM_STORIES = (
    "{name} had {a} {item} and got {b} more.",
    "{name} planted {a} {item} in the morning and {b} in the evening.",
)
HELD_OUT_SUM_STORIES = ("There were {a} {item}, then {name} brought {b}.",)
LARGEST_SUMMAND = 30


def draw_order(rng: random.Random, people: Sequence[str]) -> Values:
    """Slots of an order."""
    return {
        "customer": rng.choice(people),
        "item": rng.choice(ITEMS),
        "quantity": rng.randint(1, 60),
        "day": rng.choice(DAYS),
    }


def draw_visit(rng: random.Random, people: Sequence[str]) -> Values:
    """Slots of a visit."""
    return {"visitor": rng.choice(people), "place": rng.choice(PLACES), "hour": rng.randint(6, 20)}


def draw_sum(rng: random.Random) -> tuple[int, int]:
    """Two summands."""
    return rng.randint(1, LARGEST_SUMMAND), rng.randint(1, LARGEST_SUMMAND)


def draw_tool(rng: random.Random, people: Sequence[str]) -> tuple[str, Values]:
    """A tool's name and its arguments."""
    draw: Mapping[str, Callable[[], Values]] = {
        "check_stock": lambda: {"item": rng.choice(ITEMS), "place": rng.choice(PLACES)},
        "get_price": lambda: {"item": rng.choice(ITEMS), "count": rng.randint(1, 60)},
        "book_visit": lambda: {"name": rng.choice(people), "day": rng.choice(DAYS)},
    }
    name = rng.choice(list(draw))
    return name, draw[name]()
