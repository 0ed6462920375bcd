"""`harness chat`."""

import click

from harness.chat import Dialogue, open_partner
from harness.cli.chat_screen import Chat, said_while_loading
from harness.models.respondent import Sampling


@click.command("chat", short_help="Talk to a trained cell in the terminal, or to two side by side.")
@click.argument("run")
@click.argument("run_b", required=False)
@click.option("--system", default="", metavar="TEXT", help="System prompt.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: greedy.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of one answer.")
@click.option("--seed", default=0, show_default=True, help="Of sampled answers.")
def command(run: str, run_b: str | None, system: str, temperature: float, max_new_tokens: int, seed: int) -> None:
    """Talk to RUN with the template that it was trained with.

    RUN is a cell's id, name or MLflow run id, the reference `base`, or the folder of a model. With RUN_B, both answer
    side by side. Answers are greedy, as in the evaluation. Without a terminal, every line of stdin is a turn, and
    answers alone go to stdout.

    Example: harness chat lora base
    """
    sampling = Sampling(max_new_tokens, temperature=temperature, seed=seed)
    targets = [target for target in (run, run_b) if target is not None]
    dialogues = [Dialogue(said_while_loading(open_partner, target), sampling, system) for target in targets]
    Chat(dialogues, temperature).run()
