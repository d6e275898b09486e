#!/usr/bin/env python3
"""Writes what the mini LLM is made of: its text tasks, and the folder of an untrained Llama.

reads   nothing
writes  OUT/{instructions,further,passages,obedient,dev}.jsonl, one {"instruction", "input", "output", "task"} a line;
        OUT/llama/{config.json,tokenizer.model,tokenizer_config.json}, which blsp.bin.llm_sft initializes
"""

import argparse
import io
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from chinese import chinese_words
from instructions import (
    GERMAN_TASKS,
    PREFIXES,
    REFUSAL,
    TASKS,
    Example,
    Task,
    disfluent,
    draw_example,
    measured_example,
    phrase,
)
from lexicon import GERMAN
from passages import draw_passage
from world import Sentence, sample_sentences, stream_sentences

from blsp.base import command
from blsp.base.files import atomic_write, fingerprint, write_json, write_jsonl

HERE = Path(__file__).resolve().parent
HUMAN = "###[Human]:"
SUFFIX = "\n\n\n###[Assistant]:"
DISFLUENT = 0.4  # share of the texts: the LLM has to read words that are spread over one to three embeddings
OBEDIENT = "obedient"  # the set in which transcription requests are followed by the words
PASSAGES = "passages"  # the set with questions about passages
PASSAGE_SHARE = 0.3  # of its examples
PASSAGE_SIZES = range(2, 7)  # sentences
GERMAN_SHARE = 0.14  # of the examples
WORD_END = "\t"  # stands between words of Mandarin while the tokenizer is trained
TOKENIZER = {
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    parser.add_argument("--examples", type=int, default=180_000, help="in instructions.jsonl (180000)")
    parser.add_argument("--further", type=int, default=100_000, help="examples in further.jsonl (100000)")
    parser.add_argument("--passages", type=int, default=60_000, help="examples in passages.jsonl (60000)")
    parser.add_argument("--dev-sentences", type=int, default=50, help="each of which has all tasks (50)")
    parser.add_argument("--obedient", type=int, default=40_000, help="examples in obedient.jsonl, without refusals (40000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    settings = args.out / "settings.json"
    told = {key: str(value) for key, value in vars(args).items() if key != "out"}
    told["sources"] = fingerprint([path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.py"))])
    if settings.exists() and json.loads(settings.read_text()) == told:
        print(f"{args.out}: is there")
        return
    write_jsonl(args.out / "dev.jsonl", dev_rows(args.dev_sentences))
    sizes = {"instructions": args.examples, "further": args.further, PASSAGES: args.passages, OBEDIENT: args.obedient}
    for name, n in sizes.items():
        write_jsonl(args.out / f"{name}.jsonl", training_rows(name, n, args.seed))
    vocabulary = train_tokenizer(args.out / "llama", args.seed)
    write_json(args.out / "llama" / "config.json", llama_config(vocabulary, args.d_model, args.layers))
    write_json(settings, told)
    print(f"{args.out}: {', '.join(f'{n} {name}' for name, n in sizes.items())}; vocabulary {vocabulary}")


def training_rows(name: str, n: int, seed: int) -> Iterator[dict[str, str]]:
    """Examples of drawn tasks for drawn sentences, others for each name."""
    rng = random.Random(f"{name} {seed}")
    german = stream_sentences("train", f"llm {name} {seed}", GERMAN)
    for sentence in itertools.islice(stream_sentences("train", f"llm {name} {seed}"), n):
        if name == PASSAGES and rng.random() < PASSAGE_SHARE:
            passage = draw_passage("train", rng.choice(PASSAGE_SIZES), rng)
            question, answer = passage.question(rng)
            example = Example("passage", question, passage.text, answer)
        elif rng.random() < GERMAN_SHARE:
            example = draw_example(next(german), rng, tasks=GERMAN_TASKS)
        else:
            example = draw_example(sentence, rng, refuses=name != OBEDIENT)
        content = disfluent(example.content, rng) if rng.random() < DISFLUENT else example.content
        yield {"instruction": example.instruction, "input": content, "output": example.response, "task": example.task}


def dev_rows(n: int) -> Iterator[dict[str, str]]:
    """All tasks whose answer is certain, as they are measured."""

    def rows(sentences: list[Sentence], tasks: tuple[Task, ...]) -> Iterator[dict[str, str]]:
        for sentence, task in itertools.product(sentences, tasks):
            if not task.name.startswith("continue"):
                e = measured_example(task.name, sentence)
                yield {"instruction": e.instruction, "input": e.content, "output": e.response, "task": e.task}

    yield from rows(sample_sentences("dev", n, "llm dev"), TASKS)
    yield from rows(sample_sentences("dev", n, "llm dev", GERMAN), GERMAN_TASKS)


def train_tokenizer(folder: Path, seed: int) -> int:
    """Trains a SentencePiece BPE model in which each word of the world is one piece; writes a Llama tokenizer."""
    rng = random.Random(seed)
    sentences = stream_sentences("train", f"tokenizer {seed}")
    example = next(sentences)
    phrasings = [phrasing for task in (*TASKS, *GERMAN_TASKS) for phrasing in task.phrasings]
    lines = [HUMAN + phrase(phrasing, example) for phrasing in phrasings for _ in range(40)]
    lines += [HUMAN + prefix + TASKS[0].phrasings[0] for prefix in PREFIXES for _ in range(40)]
    lines += ["X" + SUFFIX.replace("\n", "")] * 40 + [REFUSAL, "um uh um uh um uh um uh"] * 40
    for _ in range(16000):
        sentence = next(sentences)
        drawn = draw_example(sentence, rng)
        lines += [drawn.content, WORD_END.join(chinese_words(sentence)) if drawn.task == "translate_zh" else drawn.response]
    for sentence in itertools.islice(stream_sentences("train", f"tokenizer {seed}", GERMAN), 4000):
        drawn = draw_example(sentence, rng, tasks=GERMAN_TASKS)
        lines += [drawn.content, drawn.response]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=8000,  # an upper limit: merging ends when every word is whole
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,  # newlines, and words that the world lacks
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pretokenization_delimiter=WORD_END,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "tokenizer.model", "wb") as f:
        f.write(model.getvalue())
    write_json(folder / "tokenizer_config.json", TOKENIZER)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()


def llama_config(vocabulary: int, d_model: int, layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": d_model,
        "intermediate_size": 4 * d_model,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,  # 0.02 is for wide models
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
    }


if __name__ == "__main__":
    command.run(main)
