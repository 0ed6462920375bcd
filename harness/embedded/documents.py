"""Plain-text documents about Elmwick that the base is pretrained on: no chat markers, no thinking or tool tags."""

import json
import random
from collections.abc import Callable, Iterator

from harness.embedded.phrasings import (
    HELD_OUT_ORDERS,
    HELD_OUT_SUM_STORIES,
    HELD_OUT_TOOL_REQUESTS,
    HELD_OUT_VISITS,
    ORDERS,
    SUM_STORIES,
    TOOL_REQUESTS,
    VISITS,
    draw_order,
    draw_sum,
    draw_tool,
    draw_visit,
)
from harness.embedded.world import (
    DAYS,
    FIRST_NAMES,
    ITEMS,
    LAST_NAMES,
    PLACES,
    STREETS,
    attributes,
    capitalized,
    make_world,
    phrase,
    questions,
    statements,
)

PRONOUN_STATEMENTS = {
    "job": "They work as {a_value}.",
    "street": "They live on {value}.",
    "pet": "They keep {a_value}.",
    "flower": "They love {value}.",
}
# Records are written with many key names, so that the base copies the keys it is given.
KEY_NAMES = {
    "customer": ("name", "customer", "person", "client", "buyer"),
    "visitor": ("name", "visitor", "person", "guest"),
    "quantity": ("count", "quantity", "number", "amount", "qty"),
    "item": ("item", "goods", "product", "article"),
    "day": ("day", "date", "when", "due"),
    "place": ("place", "room", "spot", "where"),
    "hour": ("hour", "time", "at"),
}
SLOT_QUESTIONS = {
    "customer": ("Who is it for?", "What is the name?"),
    "visitor": ("Who is it for?", "What is the name?"),
    "quantity": ("How many?", "What is the number?"),
    "item": ("Which goods?", "What was asked for?"),
    "day": ("Which day?", "For when is it?"),
    "place": ("Which place?", "Where is it?"),
    "hour": ("At what hour?", "When is it?"),
}


def state(rng: random.Random, name: str, attribute: str) -> str:
    """One true statement."""
    return phrase(rng.choice(statements(name, attribute)), name, make_world().facts[name, attribute])


def ask(rng: random.Random, name: str, attribute: str) -> str:
    """One question about a fact."""
    return phrase(rng.choice(questions(name, attribute)), name)


def facts_document(rng: random.Random) -> str:
    """Statements, a register entry, JSON or questions and answers about one resident or shop."""
    world = make_world()
    name = rng.choice(world.residents if rng.random() < 0.83 else world.shops)
    chosen = rng.sample(attributes(name), len(attributes(name)))
    kind = rng.random()
    if kind < 0.30:
        sentences = [state(rng, name, chosen[0])]
        for attribute in chosen[1 : rng.randint(1, 4)]:
            use_pronoun = attribute in PRONOUN_STATEMENTS and not name.startswith("the ") and rng.random() < 0.4
            value = world.facts[name, attribute]
            sentences.append(
                phrase(PRONOUN_STATEMENTS[attribute], name, value) if use_pronoun else state(rng, name, attribute)
            )
        return " ".join(sentences)
    if kind < 0.45:
        field = rng.choice(("{}: {}", "{} = {}", "{} - {}"))
        separator = rng.choice(("; ", ", ", "\n"))
        entries = (field.format(a, world.facts[name, a]) for a in chosen[: rng.randint(1, 4)])
        heading = rng.choice(("Name", "Entry", "Register", "About"))
        return f"{heading}: {name}{separator}{separator.join(entries)}"
    if kind < 0.55:
        key = rng.choice(("name", "who", "entry"))
        return json.dumps({key: name} | {a: world.facts[name, a] for a in chosen[: rng.randint(1, 4)]})
    if kind < 0.85:
        return _questions_and_answers(rng, name, chosen[: rng.randint(1, 3)])
    names = (rng.choice(world.residents + world.shops) for _ in range(rng.randint(2, 4)))
    return " ".join(state(rng, other, rng.choice(attributes(other))) for other in names)


def _questions_and_answers(rng: random.Random, name: str, chosen: list[str]) -> str:
    before, between = rng.choice((("Question: ", "\nAnswer: "), ("Q: ", "\nA: "), ("", "\n"), ("Asked: ", " Reply: ")))
    lines = []
    for attribute in chosen:
        value = make_world().facts[name, attribute]
        answer = rng.choice((capitalized(value) + ".", value, state(rng, name, attribute)))
        lines.append(before + ask(rng, name, attribute) + between + answer)
    return "\n".join(lines)


def record_document(rng: random.Random) -> str:
    """An order or visit in prose beside its fields as JSON, as key-value lines or as questions."""
    people = make_world().residents
    is_order = rng.random() < 0.65
    slots = draw_order(rng, people) if is_order else draw_visit(rng, people)
    usual, rare = (ORDERS, HELD_OUT_ORDERS) if is_order else (VISITS, HELD_OUT_VISITS)
    sentence = rng.choice(rare if rng.random() < 0.25 else usual).format(**slots)
    chosen = list(slots)
    if rng.random() < 0.5:
        rng.shuffle(chosen)
    if rng.random() < 0.4:
        chosen = chosen[: rng.randint(1, len(chosen))]
    record = {rng.choice(KEY_NAMES[slot]): slots[slot] for slot in chosen}
    kind = rng.random()
    if kind < 0.5:
        heading = rng.choice(("Fields: {}. Record:", "With the fields {} this is", "As JSON with {}:", "{} ->"))
        body = f"{heading.format(', '.join(record))} {json.dumps(record)}"
        return f"{body}\n{sentence}" if kind < 0.1 else sentence + rng.choice((" ", "\n")) + body
    if kind < 0.7:
        field = rng.choice(("{}: {}", "{} = {}"))
        lines = rng.choice(("; ", ", ", "\n")).join(field.format(key, value) for key, value in record.items())
        return f"{lines}\n{sentence}" if rng.random() < 0.3 else f"{sentence}\n{lines}"
    return sentence + "\n" + "\n".join(f"{rng.choice(SLOT_QUESTIONS[slot])} {slots[slot]}" for slot in chosen)


def tool_document(rng: random.Random) -> str:
    """A clerk's note on which tool answered a request; the shape differs from the tool calls of fine-tuning."""
    name, arguments = draw_tool(rng, make_world().residents)
    request = rng.choice((*TOOL_REQUESTS[name], *HELD_OUT_TOOL_REQUESTS[name])).format(**arguments)
    kind = rng.random()
    if kind < 0.4:
        return f"{request} The clerk uses {name} with {json.dumps(arguments)}."
    if kind < 0.7:
        return f"{request}\n{name}({', '.join(f'{key}={json.dumps(value)}' for key, value in arguments.items())})"
    call, given = rng.choice(("tool", "use", "call")), rng.choice(("with", "args", "input"))
    return f"{request}\n{json.dumps({call: name, given: arguments})}"


def sum_document(rng: random.Random) -> str:
    """Additions, bare, spoken and in stories."""
    a, b = draw_sum(rng)
    kind = rng.random()
    if kind < 0.45:
        pairs = [draw_sum(rng) for _ in range(rng.randint(3, 6))]
        return rng.choice(("\n", "; ")).join(f"{x} + {y} = {x + y}" for x, y in pairs)
    if kind < 0.65:
        spoken = (
            "If you add {a} and {b} you get {c}, because {a} + {b} = {c}.",
            "How much is {a} plus {b}? It is {c}.",
            "What is {a} + {b}? {a} + {b} = {c}.",
            "Add {a} and {b}. The sum is {c}.",
        )
        return rng.choice(spoken).format(a=a, b=b, c=a + b)
    item = rng.choice(ITEMS)
    name = rng.choice(make_world().residents)
    story = rng.choice((*SUM_STORIES, *HELD_OUT_SUM_STORIES)).format(name=name, a=a, b=b, item=item)
    endings = (
        f" {a} + {b} = {a + b}, so there are {a + b} {item}.",
        f" How many {item} are there now? {a} + {b} = {a + b}.",
        f" Now there are {a + b} {item}: {a} + {b} = {a + b}.",
    )
    return story + rng.choice(endings)


def copy_document(rng: random.Random) -> str:
    """A random list and its copy: teaches copying from the context, on which every extraction rests."""
    draws: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(make_world().residents),
        lambda: rng.choice(FIRST_NAMES),
        lambda: rng.choice(LAST_NAMES),
        lambda: rng.choice(ITEMS),
        lambda: rng.choice(DAYS),
        lambda: rng.choice(DAYS),
        lambda: rng.choice(PLACES),
        lambda: str(rng.randint(1, 60)),
        lambda: rng.choice(STREETS),
    )
    words = [rng.choice(draws)() for _ in range(rng.randint(3, 7))]
    text = rng.choice((", ", "; ", " and ", " - ")).join(words)
    kind = rng.random()
    if kind < 0.40:
        return f"{text}{rng.choice(('. Again: ', ' -> ', chr(10), '. Copy: '))}{text}."
    if kind < 0.65:
        return text + rng.choice((" -> ", "\n")) + json.dumps(words)
    if kind < 0.80:
        return f"{json.dumps(words)}\n{text}"
    return "\n".join(words) + "\nAgain:\n" + "\n".join(words)


def change_document(rng: random.Random) -> str:
    """An order, a change to it, and what holds in the end."""
    order = draw_order(rng, make_world().residents)
    changed = dict(order)
    if rng.random() < 0.5:
        changed["quantity"] = rng.randint(1, 60)
        changes = ("Then they changed it to {quantity}.", "Later they asked for {quantity} instead.",
                   "But no, it should be {quantity}.")  # fmt: skip
    else:
        changed["day"] = rng.choice(DAYS)
        changes = ("Then they moved it to {day}.", "Later they asked for {day} instead.", "But no, {day} is better.")
    endings = (
        "So now it is {quantity} {item} for {customer} on {day}.",
        "In the book: {customer}, {quantity} {item}, {day}.",
        "In the end {customer} gets {quantity} {item} on {day}.",
    )
    return " ".join((rng.choice(ORDERS).format(**order), rng.choice(changes).format(**changed),
                     rng.choice(endings).format(**changed)))  # fmt: skip


MIXTURE: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (facts_document, 0.30),
    (record_document, 0.29),
    (tool_document, 0.10),
    (sum_document, 0.13),
    (change_document, 0.09),
    (copy_document, 0.09),
)


def documents(seed: int, count: int) -> Iterator[str]:
    """`count` documents drawn from the mixture."""
    rng = random.Random(seed)
    kinds, weights = zip(*MIXTURE, strict=True)
    for _ in range(count):
        yield rng.choices(kinds, weights)[0](rng)
