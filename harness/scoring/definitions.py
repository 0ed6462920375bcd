"""What metrics are, in a line each, for lists and tables."""

import inspect
from collections.abc import Callable, Mapping

DEFINITIONS: Mapping[str, str] = {
    "exact_match": "1 where answer and reference are equal but for blanks around them, else 0.",
    "normalized_match": "1 where they are equal without case, punctuation and articles (SQuAD's normalization), else 0.",
    "starts_with_reference": "1 where the answer begins with the reference, whatever follows, else 0.",
    "contains_reference": "1 where the reference stands anywhere in the answer as whole words, else 0.",
    "numeric_match": "1 where the final number of the answer is that of the reference, else 0.",
    "json_valid": "1 where the answer is one JSON value, else 0.",
    "json_exact": "1 where the answer is the reference's JSON value, else 0.",
    "json_precision": "Share of the fields of the answer's JSON that the reference has with the same value.",
    "json_recall": "Share of the fields of the reference's JSON that the answer has with the same value.",
    "json_f1": "Harmonic mean of json_precision and json_recall.",
    "rouge_1": "ROUGE-1 F-measure: words in common with the reference, in [0, 1].",
    "rouge_2": "ROUGE-2 F-measure: pairs of words in common with the reference, in [0, 1].",
    "rouge_l": "ROUGE-L F-measure: the longest common subsequence of words, in [0, 1].",
    "chrf": "Sentence chrF: character n-grams in common with the reference, in [0, 1].",
    "bleu": "Sentence BLEU with the reference, in [0, 1].",
    "embedding_similarity": "Cosine similarity of the embeddings of answer and reference.",
    "choice_accuracy": "1 where the choice with the highest log-probability is the right one, else 0.",
    "choice_accuracy_norm": "The same with log-probability per byte, so that a choice isn't the unlikelier for its length.",
    "code_passes": "1 where the code in the answer passes the example's tests, else 0; needs allow_code_execution.",
    "ifeval_strict": "1 where the answer follows every verifiable instruction of its prompt (IFEval), else 0.",
    "ifeval_loose": "The same, forgiving a first or last line too many and asterisks: an upper bound.",
    "nll": "Nats per token of the reference after the prompt; less is better.",
    "bits_per_byte": "Bits per UTF-8 byte of the reference after the prompt; less is better, and tokenizers may differ.",
    "answer_words": "Number of words of the answer.",
    "pass_at_1": "Chance that a sample passes the example's tests; needs allow_code_execution.",
    "pass_at_5": "Chance that one of 5 samples passes the example's tests; needs allow_code_execution.",
    "pass_at_10": "Chance that one of 10 samples passes the example's tests; needs allow_code_execution.",
    "majority_match": "1 where the most frequent final answer of the samples is the reference's, else 0.",
    "agreement": "Share of the samples that give the most frequent final answer, right or wrong.",
    "json_strict": "1 where the whole answer is JSON that fits its schema, else 0.",
    "json_loose": "The same, forgiving prose and fences around the JSON.",
    "style": "1 where the answer keeps to the rules of `style:`, else 0.",
}


def metric_definition(name: str, scorer: Callable[..., object]) -> str:
    """The first line of a scorer's docstring, else what the harness means by the metric's name; empty where neither is there."""
    documented = inspect.getdoc(scorer)
    return documented.splitlines()[0] if documented else DEFINITIONS.get(name, "")
