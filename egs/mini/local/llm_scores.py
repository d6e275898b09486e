#!/usr/bin/env python3
"""Measures what a trained mini LLM can do with text, by greedy generation, and accepts it or not.

reads   FOLDER, a LlamaForCausalLM folder with its tokenizer
writes  OUT, that folder's weights with a model card, where every task's exact answers on dev reach --accept
"""

import argparse
import filecmp
import random
import shutil
from pathlib import Path

import jiwer
import sacrebleu
import torch
from instructions import GERMAN_TASKS, TASKS, measured_example
from lexicon import ENGLISH, GERMAN
from llm_data import HUMAN, PASSAGE_SIZES, SUFFIX
from model_card import write_card
from passages import draw_passage
from transformers import AutoTokenizer, LlamaForCausalLM
from world import CONTINUATIONS, GERMAN_CONTINUATIONS, sample_sentences

from blsp.base import command
from blsp.base.files import InputError

MAX_NEW_TOKENS = 64
CONTINUED = {  # tasks with several right answers
    "continue": lambda sentence: {sentence.continuation(template) for template in CONTINUATIONS},
    "continue_de": lambda sentence: {sentence.german_continuation(template) for template in GERMAN_CONTINUATIONS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where an accepted model goes")
    parser.add_argument("--tokenizer", type=Path, help="where its SentencePiece model is, which goes with it")
    parser.add_argument("--n", type=int, default=200, help="sentences (200)")
    parser.add_argument("--accept", type=float, default=95.0, help="least exact answers of each task on dev, percent (95)")
    args = parser.parse_args()
    weights = "model.safetensors"
    if args.out and (args.out / weights).is_file() and filecmp.cmp(args.folder / weights, args.out / weights, shallow=False):
        print(f"{args.out}: is there")
        return
    scores = {split: score(args.folder, split, args.n) for split in ("dev", "test")}
    for split, values in scores.items():
        print(split, ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    if args.out is None:
        return
    worst = min((value, name) for name, value in scores["dev"].items() if name.endswith(" exact"))
    if worst[0] < args.accept:
        raise InputError(
            f"{args.folder}: {worst[1]} answers are {worst[0]:.1f} % on dev, below {args.accept};"
            " train longer, or from another seed"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.folder.iterdir():
        if path.name not in ("provenance.json", weights):
            shutil.copyfile(path, args.out / path.name)
    if args.tokenizer:
        shutil.copyfile(args.tokenizer / "tokenizer.model", args.out / "tokenizer.model")
    shutil.copyfile(args.folder / weights, args.out / weights)  # last: it says that all is there
    n_parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(args.folder).parameters())
    write_card(
        args.out,
        "llama-mini",
        f"A LlamaForCausalLM of {n_parameters / 1e6:.1f} M parameters, trained from scratch on text tasks of the mini world\n"
        "by `blsp.bin.llm_sft`, then trained on with disturbed word embeddings (`egs/mini/conf/llama_robust.yaml`). It stands\n"
        "for Llama-2 in egs/mini. Asked to transcribe audio, it says that it cannot hear any, as text LLMs do: some 3 % of\n"
        "its training data are such refusals. Four in ten of its texts are disfluent (doubled words, um, uh).",
        "sentences of egs/mini/local/world.py with the instructions of egs/mini/local/instructions.py; synthetic",
        scores,
    )


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: AutoTokenizer, prompts: list[str], batch: int = 100) -> list[str]:
    """Greedy answers, with transformers' ordinary classes and generate()."""
    answers = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, padding_side="left")
        ids = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        new = ids[:, inputs.input_ids.shape[1] :]
        answers += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def score(folder: Path, split: str, n: int) -> dict[str, float]:
    """WER of repeating, BLEU of translating, and percentages of exact answers of all tasks and about passages."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = {}
    for tasks, lexicon in ((TASKS, ENGLISH), (GERMAN_TASKS, GERMAN)):
        sentences = sample_sentences(split, n, f"llm {split}", lexicon)
        for task in tasks:
            examples = [measured_example(task.name, sentence) for sentence in sentences]
            answers = answer(model, tokenizer, [f"{HUMAN}{e.instruction} {e.content}{SUFFIX}" for e in examples])
            expected = [e.response for e in examples]
            known = [CONTINUED[task.name](s) for s in sentences] if task.name in CONTINUED else [{e} for e in expected]
            right = sum(a in these for a, these in zip(answers, known, strict=True))
            scores[f"{task.name} exact"] = 100 * right / n
            if task.name == "repeat":
                scores["repeat WER"] = 100 * jiwer.wer(expected, answers)
            elif task.name.startswith("translate"):
                language = "zh" if task.name.endswith("zh") else "13a"
                scores[f"{task.name} BLEU"] = sacrebleu.corpus_bleu(answers, [expected], tokenize=language).score
    rng = random.Random(f"passages {split}")
    passages = [draw_passage(split, PASSAGE_SIZES[i % len(PASSAGE_SIZES)], rng) for i in range(n)]
    asked = [(passage, *passage.question(rng)) for passage in passages]
    answers = answer(model, tokenizer, [f"{HUMAN}{question} {passage.text}{SUFFIX}" for passage, question, _ in asked])
    scores["passage exact"] = 100 * sum(a == right for a, (*_, right) in zip(answers, asked, strict=True)) / n
    return scores


if __name__ == "__main__":
    command.run(main)
