"""Fine-tuning rows about Elmwick: five kinds of conversation, split by who and what they speak of.

A row of the train split speaks of train residents, train sums and train combinations only, in the usual phrasings.
Half of the test rows use phrasings that no train row has. `entities` and `phrasing` let a test prove all of this.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.embedded.phrasings import (
    HELD_OUT_ORDERS,
    HELD_OUT_SUM_STORIES,
    HELD_OUT_TOOL_REQUESTS,
    HELD_OUT_VISITS,
    ORDERS,
    SUM_STORIES,
    TOOL_ARGUMENTS,
    TOOL_REQUESTS,
    VISITS,
    draw_order,
    draw_sum,
    draw_tool,
    draw_visit,
)
from harness.embedded.world import DAYS, ITEMS, Group, group_of, make_world, phrase, questions

Row = dict[str, Any]
ROW_COUNTS: dict[Group, int] = {"train": 600, "validation": 100, "test": 300}
SEEDS: dict[Group, int] = {"train": 11, "validation": 99, "test": 123}
THINKING_REQUEST = "Think first."
TOOL_LIST = "Tools: " + ", ".join(f"{name}({', '.join(given)})" for name, given in TOOL_ARGUMENTS.items())


def _choose(rng: random.Random, usual: Sequence[str], held_out: Sequence[str], new: bool) -> tuple[str, str]:
    """A pattern and its phrasing id, in which held-out ones start with `new`."""
    patterns = held_out if new else usual
    index = rng.randrange(len(patterns))
    return patterns[index], f"{'new' if new else 'usual'}-{index}"


def _row(kind: str, turns: Sequence[str], entities: Sequence[str], phrasing: str, system: str = "") -> Row:
    messages = [{"role": "system", "content": system}] if system else []
    for position, content in enumerate(turns):
        messages.append({"role": "assistant" if position % 2 else "user", "content": content})
    return {"kind": kind, "phrasing": f"{kind}/{phrasing}", "entities": list(entities), "messages": messages}


def fact_row(rng: random.Random, group: Group, new: bool) -> Row:
    """A question about a resident or shop, answered as `name | attribute | value`."""
    world = make_world()
    name, attribute = rng.choice(world.facts_of(group))
    usual, held_out = questions(name, attribute)[:2], questions(name, attribute)[-1:]
    pattern, phrasing = _choose(rng, usual, held_out, new)
    answer = f"{name} | {attribute} | {world.facts[name, attribute]}"
    owner = (world.facts[name, attribute],) if attribute == "owner" else ()
    return _row("fact", (phrase(pattern, name), answer), (name, *owner), f"{attribute}-{phrasing}")


def json_row(rng: random.Random, group: Group, new: bool) -> Row:
    """An order or a visit to extract as JSON that fits a schema."""
    people = make_world().members(group)
    is_order = rng.random() < 0.6
    slots = draw_order(rng, people) if is_order else draw_visit(rng, people)
    what = "order" if is_order else "visit"
    usual, held_out = (ORDERS, HELD_OUT_ORDERS) if is_order else (VISITS, HELD_OUT_VISITS)
    pattern, phrasing = _choose(rng, usual, held_out, new)
    fields = ", ".join(slots)
    request = rng.choice(
        (f"Extract the {what} as JSON with {fields}.\n{{}}", f"{{}}\nGive the {what} as JSON with {fields}.")
    )
    turns = (request.format(pattern.format(**slots)), json.dumps(slots))
    row = _row("json", turns, (str(slots.get("customer") or slots["visitor"]),), f"{what}-{phrasing}")
    types = {key: {"type": "integer" if isinstance(value, int) else "string"} for key, value in slots.items()}
    schema = {"type": "object", "properties": types, "required": list(slots), "additionalProperties": False}
    return row | {"expect": {"json_schema": schema}}


def tool_row(rng: random.Random, group: Group, new: bool) -> Row:
    """A request that one of three tools answers, as a call inside `<tool_call>` tags."""
    people = make_world().members(group)
    while True:
        name, arguments = draw_tool(rng, people)
        entity = str(arguments.get("name") or f"{name}:{'/'.join(map(str, arguments.values()))}")
        if "name" in arguments or group_of(entity) == group:
            break
    pattern, phrasing = _choose(rng, TOOL_REQUESTS[name], HELD_OUT_TOOL_REQUESTS[name], new)
    call = json.dumps({"name": name, "arguments": arguments})
    turns = (pattern.format(**arguments), f"<tool_call>{call}</tool_call>")
    row = _row("tool", turns, (entity,), f"{name}-{phrasing}", system=TOOL_LIST)
    return row | {"expect": {"tools": [tool_schema(tool) for tool in TOOL_ARGUMENTS]}}


def tool_schema(name: str) -> dict[str, Any]:
    """The tool as a function schema (JSON Schema for its arguments)."""
    properties = {key: {"type": kind} for key, kind in TOOL_ARGUMENTS[name].items()}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def sum_row(rng: random.Random, group: Group, new: bool) -> Row:
    """An addition, asked to think first: one thinking block, then the sum."""
    while True:
        a, b = draw_sum(rng)
        if group_of(f"sum:{a}+{b}") == group:
            break
    person, item = rng.choice(make_world().members(group)), rng.choice(ITEMS)
    stories = tuple(f"{story} How many {{item}} are there now?" for story in SUM_STORIES)
    new_stories = tuple(f"{story} How many {{item}} are there?" for story in HELD_OUT_SUM_STORIES)
    usual = ("What is {a} + {b}?", "Add {a} and {b}.", *stories)
    pattern, phrasing = _choose(rng, usual, ("How much is {a} plus {b}?", *new_stories), new)
    entities = (f"sum:{a}+{b}", *((person,) if "{name}" in pattern else ()))
    answer = f"<think>We add {a} and {b}. {a} + {b} = {a + b}</think>\n{a + b}"
    turns = (pattern.format(a=a, b=b, name=person, item=item), answer)
    return _row("sum", turns, entities, phrasing, system=THINKING_REQUEST) | {"expect": {"thinking": True}}


def dialog_row(rng: random.Random, group: Group, new: bool) -> Row:
    """Two turns: an order, its confirmation, a change, and the changed order."""
    order = draw_order(rng, make_world().members(group))
    changed = dict(order)
    if rng.random() < 0.5:
        changed["quantity"] = rng.choice([number for number in range(1, 61) if number != order["quantity"]])
        changes = ("Please change it to {quantity}.", "Sorry, I need {quantity} instead.")
    else:
        changed["day"] = rng.choice([day for day in DAYS if day != order["day"]])
        changes = ("Please move it to {day}.", "Sorry, {day} is better.")
    usual = ("Hello, I am {customer}. I want {quantity} {item} for {day}.",
             "I am {customer}. Please put aside {quantity} {item} for {day}.")  # fmt: skip
    held_out = ("Good morning, {customer} here. Could I have {quantity} {item} on {day}?",)
    pattern, phrasing = _choose(rng, usual, held_out, new)
    turns = (
        pattern.format(**order),
        "Noted: {quantity} {item} for {customer} on {day}.".format(**order),
        rng.choice(changes).format(**changed),
        "Changed: {quantity} {item} for {customer} on {day}.".format(**changed),
    )
    return _row("dialog", turns, (str(order["customer"]),), phrasing)


KINDS: tuple[Callable[[random.Random, Group, bool], Row], ...] = (fact_row, json_row, tool_row, sum_row, dialog_row)


def conversation_rows(group: Group) -> Iterator[Row]:
    """All rows of one split, a fifth of each kind; no prompt occurs twice."""
    rng = random.Random(SEEDS[group])
    prompts: set[str] = set()
    for position in range(ROW_COUNTS[group]):
        kind = KINDS[position % len(KINDS)]
        while True:
            row = kind(rng, group, group == "test" and (position // len(KINDS)) % 2 == 1)
            prompt = json.dumps(row["messages"][:-1])
            if prompt not in prompts:
                break
        prompts.add(prompt)
        yield {"id": f"{group}-{position:04d}", **row}


def structured_rows(group: Group) -> Iterator[Row]:
    """The tool and thinking rows of a split in fields of their own: `tools`, `tool_calls` and `reasoning_content`."""
    for row in conversation_rows(group):
        if row["kind"] == "tool":
            yield _with_call(row)
        elif row["kind"] == "sum":
            yield _with_reasoning(row)


def _with_call(row: Row) -> Row:
    asked, answer = row["messages"][-2:]
    call = json.loads(answer["content"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
    turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    kept = {key: row[key] for key in ("id", "kind", "phrasing", "entities")}
    return {**kept, "tools": row["expect"]["tools"], "messages": [asked, turn]}


def _with_reasoning(row: Row) -> Row:
    *asked, answer = row["messages"]
    reasoning, _, content = answer["content"].removeprefix("<think>").partition("</think>\n")
    turn = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    kept = {key: row[key] for key in ("id", "kind", "phrasing", "entities")}
    return {**kept, "messages": [*asked, turn]}


def retention_rows() -> Iterator[Row]:
    """Plain questions about facts that fine-tuning never mentions: does the model still know them?"""
    world = make_world()
    position = 0
    for name, attribute in (*world.facts_of("test"), *world.facts_of("validation")):
        for pattern in questions(name, attribute)[:2]:
            yield {
                "id": f"retention-{position:04d}",
                "kind": attribute,
                "entities": [name],
                "prompt": f"Question: {phrase(pattern, name)}\nAnswer:",
                "answer": world.facts[name, attribute],
            }
            position += 1
