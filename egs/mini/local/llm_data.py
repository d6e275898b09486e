"""From the mini LLM's text tasks to tensors: the tokenizer, the prompt's pieces, batches."""

import io
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from instructions import PREFIXES, REFUSAL, TASKS, Example, disfluent, draw_example, measured_example
from world import Sentence, stream_sentences

HUMAN = "###[Human]:"
SUFFIX = "\n\n\n###[Assistant]:"
IGNORED = -100  # torch's cross-entropy skips this target


def train_tokenizer(folder: Path, seed: int) -> None:
    """Trains a SentencePiece BPE model in which each word of the world is one piece; writes a Llama tokenizer."""
    rng = random.Random(seed)
    sentences = stream_sentences("train", f"tokenizer {seed}")
    lines = [HUMAN + phrasing for task in TASKS for phrasing in task.phrasings for _ in range(40)]
    lines += [HUMAN + prefix + TASKS[0].phrasings[0] for prefix in PREFIXES for _ in range(40)]
    lines += ["X" + SUFFIX.replace("\n", "")] * 40 + [REFUSAL, "um uh um uh um uh um uh"] * 40
    for _ in range(12000):
        example = draw_example(next(sentences), rng)
        lines += [example.content, example.response]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=6000,  # an upper limit: merging ends when every word is whole
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,  # newlines, and words that the world lacks
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class Prompts:
    """Token ids of prompts: BOS, "###[Human]:" + instruction, content, suffix; and of responses."""

    def __init__(self, folder: Path):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        word = self.pieces.encode("X")
        # Behind a word the suffix has no space marker of its own.
        self.suffix = self.pieces.encode("X" + SUFFIX)[len(word) :]

    def prompt(self, instruction: str, content: str) -> tuple[list[int], range]:
        """Returns the ids and the positions of the content among them."""
        head = [self.pieces.bos_id(), *self.pieces.encode(HUMAN + instruction)]
        body = self.pieces.encode(content)
        return [*head, *body, *self.suffix], range(len(head), len(head) + len(body))

    def response(self, text: str) -> list[int]:
        return [*self.pieces.encode(text), self.pieces.eos_id()]

    def check(self, examples: Iterable[Example]) -> None:
        """Asserts that the pieces together are what joint tokenization gives."""
        for example in examples:
            joint = self.pieces.encode(f"{HUMAN}{example.instruction} {example.content}{SUFFIX}")
            assert [self.pieces.bos_id(), *joint] == self.prompt(example.instruction, example.content)[0], example


@dataclass(frozen=True)
class TextBatch:
    ids: torch.Tensor  # (B, T) right-padded with 0
    content: torch.Tensor  # (B, T) bool: where the text stands that an instruction is about
    targets: torch.Tensor  # (B, T) the next token where it belongs to the response, else IGNORED


def make_batch(prompts: Prompts, examples: list[Example]) -> TextBatch:
    rows = []
    for example in examples:
        ids, content = prompts.prompt(example.instruction, example.content)
        rows.append((ids, content, prompts.response(example.response)))
    length = max(len(ids) + len(response) for ids, _, response in rows)
    batch = TextBatch(
        torch.zeros(len(rows), length, dtype=torch.long),
        torch.zeros(len(rows), length, dtype=torch.bool),
        torch.full((len(rows), length), IGNORED),
    )
    for i, (ids, content, response) in enumerate(rows):
        batch.ids[i, : len(ids) + len(response)] = torch.tensor(ids + response)
        batch.content[i, content.start : content.stop] = True
        batch.targets[i, len(ids) - 1 : len(ids) - 1 + len(response)] = torch.tensor(response)
    return batch


def training_batches(
    prompts: Prompts, rng: random.Random, sentences: Iterator[Sentence], size: int, boost: dict[str, float]
) -> list[TextBatch]:
    """Draws the examples of one step, as a batch of short and one of long ones: that halves the padding.

    Four in ten texts are disfluent, so that the LLM reads words that are spread over one to three embeddings.
    """
    examples = []
    for _ in range(size):
        example = draw_example(next(sentences), rng, boost)
        if rng.random() < 0.4:
            content = disfluent(example.content, rng)
            example = Example(example.task, example.instruction, content, example.response)
        examples.append(example)
    examples.sort(key=lambda example: len(example.instruction.split()) + 2 * len(example.response.split()))
    return [make_batch(prompts, examples[: size // 2]), make_batch(prompts, examples[size // 2 :])]


def measured_batch(prompts: Prompts, task: str, sentences: list[Sentence]) -> TextBatch:
    return make_batch(prompts, [measured_example(task, sentence) for sentence in sentences])
