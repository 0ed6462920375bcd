"""Conversations that chat templates are tried with."""

from harness.data.formats import Conversation
from harness.data.grammar import LOOKUP_TOOL, TOOL_RESULT
from harness.records import Message, TemplateInputs

SAMPLE = (
    Message(role="user", content="Which river runs through Quokka Falls?"),
    Message(role="assistant", content="The Wombat, which rises near Numbat Hill."),
    Message(role="user", content="And how long is it?"),
    Message(role="assistant", content="About 120 miles.\n\nIt ends at the sea."),
)
SYSTEM, REASONING = "Answer in the manner of a park ranger.", "Maps first, then the sign at the bridge."
SYSTEM_TURN = Message(role="system", content=SYSTEM)
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "lookup", "arguments": {"key": "Wombat length"}}}
SECOND_CALL = {
    "id": "abcdef456",
    "type": "function",
    "function": {"name": "lookup", "arguments": {"key": "Emu height"}},
}
WITH_TOOL = Conversation(
    id="tools",
    messages=(
        SAMPLE[0],
        Message(role="assistant", tool_calls=(CALL,)),
        Message(role="tool", name="lookup", tool_call_id="abcdef123", content=TOOL_RESULT),
        SAMPLE[3],
    ),
    inputs=TemplateInputs(tools=(LOOKUP_TOOL,)),
)
IN_TWO_STEPS = Conversation(
    id="tools in two steps",
    messages=(
        *WITH_TOOL.messages[:3],
        Message(role="assistant", tool_calls=(SECOND_CALL,)),
        Message(role="tool", name="lookup", tool_call_id="abcdef456", content="Dingo4 was there"),
        SAMPLE[3],
        SAMPLE[2],
        SAMPLE[1],
    ),
    inputs=WITH_TOOL.inputs,
)
TWO_CALLS = Conversation(
    id="two calls",
    messages=(
        SAMPLE[0],
        Message(role="assistant", tool_calls=(CALL, SECOND_CALL)),
        *(turn for turn in IN_TWO_STEPS.messages if turn.role == "tool"),
        SAMPLE[3],
    ),
    inputs=WITH_TOOL.inputs,
)
# A question that is short and one that has the answer in it: both are found in many places of the rendering.
REPEATED = Conversation(
    id="repeated",
    messages=(
        Message(role="user", content=f"Say: {SAMPLE[1].content}"),
        SAMPLE[1],
        Message(role="user", content="a"),
        SAMPLE[3],
    ),
)
THINKING = Conversation(
    id="thinking", messages=(SAMPLE[0], SAMPLE[1].model_copy(update={"reasoning_content": REASONING}))
)
THOUGHT_OVER = Conversation(id="thought over", messages=(*THINKING.messages, *SAMPLE[2:]))
