"""Which asked examples occur in training rows."""

from harness.data.contamination import contamination, sample_answers
from harness.data.formats import Conversation
from harness.records import Example, Message


def row(name: str, question: str, answer: str) -> Conversation:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(id=name, messages=turns)


SENTENCE = (
    "The old lighthouse keeper walked slowly down the winding path towards the empty harbour every single morning."
)
TRAIN = [
    row("t1", "What is the capital of France?", "Paris is the capital of France."),
    row("t2", "Tell me about the keeper of the lighthouse on the northern cliffs of the island", SENTENCE),
    *[row(f"n{i}", f"What does person {i} keep at home?", f"Person {i} keeps {i + 3} goats.") for i in range(20)],
]


def found(question: str, reference: str) -> dict[str, tuple[str, ...]]:
    """What is said of one example."""
    result = contamination([Example(id="x", text=question, reference=reference)], TRAIN)
    return {kind: getattr(result, kind) for kind in ("exact", "near", "shared") if getattr(result, kind)}


def test_a_training_question_is_found_whatever_its_case() -> None:
    assert found("what is the capital of  France?", "Paris") == {"exact": ("x",)}


def test_a_row_with_one_word_changed_is_a_near_duplicate() -> None:
    question = "Tell me about the keeper of the lighthouse on the northern cliffs of the isle"
    assert found(question, SENTENCE) == {"near": ("x",), "shared": ("x",)}


def test_an_answer_with_thirteen_shared_words_is_named_as_such() -> None:
    assert found("Something else entirely?", f"I believe this: {SENTENCE}") == {"shared": ("x",)}


def test_questions_of_one_kind_are_no_leak() -> None:
    assert found("What does person 77 keep at home?", "Person 77 keeps one cow.") == {}


def test_answers_are_sampled_from_all_over() -> None:
    many = [row(str(i), "q", str(i)) for i in range(5000)]
    answers = sample_answers(many).answers
    assert len(answers) == 2000
    assert (answers[0], answers[-1]) == ("0", "3998")
