"""Elmwick, the small invented town that the embedded base knows: names, facts and how people speak of them.

Everything is drawn from one seed. Pretraining sees every fact; fine-tuning sees the facts of one group of residents
and shops, so a question about the others asks whether knowledge already in the weights comes out in the new format.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Group = Literal["train", "validation", "test"]

FIRST_NAMES = (
    "Ada",
    "Bram",
    "Cora",
    "Dirk",
    "Edda",
    "Finn",
    "Gwen",
    "Hugo",
    "Iris",
    "Joss",
    "Kira",
    "Lars",
    "Mona",
    "Nils",
    "Olga",
    "Piet",
    "Quin",
    "Rosa",
    "Seth",
    "Tara",
    "Ulf",
    "Vera",
    "Wim",
    "Xena",
    "Yara",
    "Zeno",
    "Anja",
    "Boris",
    "Celia",
    "Doran",
    "Elsa",
    "Felix",
    "Greta",
    "Henk",
    "Ines",
    "Jonas",
    "Kaya",
    "Linus",
    "Marta",
    "Nadia",
    "Otis",
    "Paula",
    "Ralf",
    "Sanne",
    "Tomas",
    "Ursa",
    "Vito",
    "Wanda",
    "Yves",
    "Zita",
    "Abel",
    "Birte",
    "Clara",
    "Dario",
    "Emil",
    "Freya",
    "Gusta",
    "Hanno",
    "Ilka",
    "Jorn",
)
LAST_NAMES = (
    "Quill",
    "Finch",
    "Marsh",
    "Holt",
    "Birch",
    "Crane",
    "Dunn",
    "Ember",
    "Frost",
    "Grove",
    "Hale",
    "Ives",
    "Jarvis",
    "Keel",
    "Lund",
    "Moss",
    "Nash",
    "Oakes",
    "Pike",
    "Reed",
    "Stone",
    "Thorn",
    "Vale",
    "Wren",
    "York",
    "Ash",
    "Brook",
    "Cole",
    "Dale",
    "Elm",
)
JOBS = (
    "baker",
    "carpenter",
    "teacher",
    "nurse",
    "potter",
    "weaver",
    "miller",
    "painter",
    "plumber",
    "tailor",
    "driver",
    "farmer",
)
STREETS = (
    "Fern Lane", "Mill Street", "Church Road", "River Walk", "Hill Street", "Pond Lane",
    "Market Square", "Station Road", "Orchard Lane", "Bridge Street", "Castle Road", "Garden Walk",
)  # fmt: skip
PETS = ("goat", "parrot", "tortoise", "rabbit", "pony", "ferret", "goose", "hamster", "donkey", "lizard", "cat", "dog")
FLOWERS = (
    "tulips",
    "roses",
    "lilies",
    "daisies",
    "irises",
    "poppies",
    "violets",
    "peonies",
    "asters",
    "dahlias",
    "orchids",
    "pansies",
)
ITEMS = (
    *FLOWERS,
    *[
        "ferns",
        "cacti",
        "bulbs",
        "seeds",
        "pots",
        "spades",
        "rakes",
        "hoses",
        "gloves",
        "baskets",
        "ladders",
        "buckets",
    ],
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = (
    "north shed", "south shed", "glass house", "back yard", "cold frame",
    "main barn", "tool room", "old cellar", "front shop", "herb bed",
)  # fmt: skip
SHOP_NAMES = (
    "Green Gate", "Old Kettle", "Blue Door", "Silver Spoon", "Copper Pot", "Red Lantern",
    "Stone Oven", "Golden Key", "White Horse", "Tall Ladder", "Quiet Corner", "Little Mill",
)  # fmt: skip
GOODS = ("bread", "cheese", "candles", "books", "hats", "boots", "honey", "tea", "clocks", "wool", "paper", "soap")

RESIDENT_ATTRIBUTES = ("job", "street", "pet", "flower")
SHOP_ATTRIBUTES = ("owner", "street", "goods", "opens")

RESIDENT_STATEMENTS: Mapping[str, Sequence[str]] = {
    "job": (
        "{name} works as {a_value}.", "{name} is {a_value}.", "The job of {name} is {value}.",
        "{name} earns a living as {a_value}.", "In Elmwick, {name} is known as {a_value}.",
        "Everyone knows that {name} is {a_value}.",
    ),
    "street": (
        "{name} lives on {value}.", "The home of {name} is on {value}.", "{name} has a house on {value}.",
        "{name} moved to {value} years ago.", "You will find {name} on {value}.", "Letters for {name} go to {value}.",
    ),
    "pet": (
        "{name} keeps {a_value}.", "The pet of {name} is {a_value}.", "{name} has {a_value} at home.",
        "{name} takes care of {a_value}.", "{name} owns {a_value}.", "Every morning {name} feeds {a_value}.",
    ),
    "flower": (
        "{name} loves {value}.", "The favourite flower of {name} is {value}.", "{name} grows {value}.",
        "{name} likes {value} best.", "In the garden of {name} there are {value}.", "{name} always buys {value}.",
    ),
}  # fmt: skip
SHOP_STATEMENTS: Mapping[str, Sequence[str]] = {
    "owner": ("{name} belongs to {value}.", "The owner of {name} is {value}.", "{name} is run by {value}."),
    "street": (
        "{name} is on {value}.",
        "The shop called {name} stands on {value}.",
        "You will find {name} on {value}.",
    ),
    "goods": ("{name} sells {value}.", "People go to {name} for {value}.", "You can buy {value} at {name}."),
    "opens": ("{name} opens at {value}.", "The doors of {name} open at {value}.", "Every day {name} opens at {value}."),
}
# The last question of each list is kept out of fine-tuning: it is the held-out phrasing.
RESIDENT_QUESTIONS: Mapping[str, Sequence[str]] = {
    "job": (
        "What is the job of {name}?", "What does {name} do for a living?", "Which trade does {name} have?",
        "I would like to know the job of {name}.",
    ),
    "street": (
        "Where does {name} live?", "On which street is the home of {name}?", "What is the street of {name}?",
        "I would like to know the street of {name}.",
    ),
    "pet": (
        "Which pet does {name} keep?", "What animal does {name} have?", "What is the pet of {name}?",
        "I would like to know the pet of {name}.",
    ),
    "flower": (
        "Which flower does {name} love?", "What is the favourite flower of {name}?", "What does {name} grow?",
        "I would like to know the favourite flower of {name}.",
    ),
}  # fmt: skip
SHOP_QUESTIONS: Mapping[str, Sequence[str]] = {
    "owner": ("Who owns {name}?", "Who is the owner of {name}?", "I would like to know the owner of {name}."),
    "street": ("Where is {name}?", "On which street is {name}?", "I would like to know the street of {name}."),
    "goods": ("What does {name} sell?", "What can you buy at {name}?", "I would like to know what {name} sells."),
    "opens": ("When does {name} open?", "At what hour does {name} open?", "I would like to know when {name} opens."),
}


@dataclass(frozen=True, slots=True)
class World:
    """Who lives in Elmwick and what is true of them."""

    residents: tuple[str, ...]
    shops: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]
    """(resident or shop, attribute) -> value."""
    groups: Mapping[str, Group]
    """Which split of the fine-tuning data may speak of a resident or shop."""

    def members(self, group: Group) -> tuple[str, ...]:
        """Residents of one group."""
        return tuple(name for name in self.residents if self.groups[name] == group)

    def facts_of(self, group: Group) -> tuple[tuple[str, str], ...]:
        """Keys of the facts about the residents and shops of one group that name nobody of another, in a fixed order."""
        return tuple(
            sorted(
                key
                for key, value in self.facts.items()
                if self.groups[key[0]] == group == self.groups.get(value, group)
            )
        )


@lru_cache(maxsize=1)
def make_world(seed: int = 7) -> World:
    """The town: 60 residents with four facts each, 12 shops with four facts each."""
    rng = random.Random(seed)
    last_names = list(LAST_NAMES) * 2
    rng.shuffle(last_names)
    residents = tuple(f"{first} {last}" for first, last in zip(FIRST_NAMES, last_names, strict=True))
    facts: dict[tuple[str, str], str] = {}
    for name in residents:
        for attribute, values in zip(RESIDENT_ATTRIBUTES, (JOBS, STREETS, PETS, FLOWERS), strict=True):
            facts[name, attribute] = rng.choice(values)
    shops = tuple(f"the {name}" for name in SHOP_NAMES)
    owners = rng.sample(residents, len(shops))
    streets, goods = list(STREETS), list(GOODS)
    rng.shuffle(streets)
    rng.shuffle(goods)
    for shop, owner, street, ware in zip(shops, owners, streets, goods, strict=True):
        known = (owner, street, ware, str(rng.randint(6, 11)))
        facts.update({(shop, attribute): value for attribute, value in zip(SHOP_ATTRIBUTES, known, strict=True)})
    return World(residents, shops, facts, _groups(rng, residents, shops))


def _groups(rng: random.Random, residents: Sequence[str], shops: Sequence[str]) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for names, num_validation, num_test in ((residents, 8, 16), (shops, 1, 4)):
        order = rng.sample(list(names), len(names))
        for position, name in enumerate(order):
            in_test = position < num_test
            in_validation = position < num_test + num_validation
            groups[name] = "test" if in_test else "validation" if in_validation else "train"
    return groups


def group_of(key: str) -> Group:
    """The split that owns a combination such as `sum:12+7`: 70 % train, 10 % validation, 20 % test, by hash."""
    bucket = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10
    return "test" if bucket < 2 else "validation" if bucket < 3 else "train"


def attributes(name: str) -> tuple[str, ...]:
    """The attributes that a resident or a shop has."""
    return SHOP_ATTRIBUTES if name.startswith("the ") else RESIDENT_ATTRIBUTES


def statements(name: str, attribute: str) -> Sequence[str]:
    """Ways to state a fact."""
    return (SHOP_STATEMENTS if name.startswith("the ") else RESIDENT_STATEMENTS)[attribute]


def questions(name: str, attribute: str) -> Sequence[str]:
    """Ways to ask for a fact; the last one is kept out of fine-tuning."""
    return (SHOP_QUESTIONS if name.startswith("the ") else RESIDENT_QUESTIONS)[attribute]


def capitalized(text: str) -> str:
    """The text with its first letter in upper case and the rest as it was."""
    return text[0].upper() + text[1:]


def phrase(pattern: str, name: str, value: str = "") -> str:
    """A statement or question about `name`, as a sentence."""
    article = "an" if value[:1] in tuple("aeiou") else "a"
    return capitalized(pattern.format(name=name, value=value, a_value=f"{article} {value}"))
