#!/usr/bin/env python3
"""Measures a saved LLM on text: reads a LlamaForCausalLM folder, prints the scores of its tasks by greedy generation."""

import argparse
import json
from pathlib import Path

import jiwer
import sacrebleu
import torch
from instructions import TASK_BY_NAME
from llm_data import HUMAN, SUFFIX
from transformers import AutoTokenizer, LlamaForCausalLM
from world import CONTINUATIONS, Sentence, sample_sentences

MAX_NEW_TOKENS = {"continue": 64, "repeat": 24, "translate": 32}


@torch.no_grad()
def answer(folder: Path, task: str, sentences: list[Sentence], batch: int = 100) -> list[str]:
    """Greedy answers to the paper's instruction, with transformers' ordinary classes and generate()."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    instruction = TASK_BY_NAME[task].phrasings[0]
    answers = []
    for start in range(0, len(sentences), batch):
        prompts = [f"{HUMAN}{instruction} {s.text}{SUFFIX}" for s in sentences[start : start + batch]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        ids = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=MAX_NEW_TOKENS.get(task, 12),
            do_sample=False,
        )
        new = ids[:, inputs.input_ids.shape[1] :]
        answers += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def score(folder: Path, split: str, n: int) -> dict[str, float]:
    """WER of repeating, BLEU of translating, and percentages of exact answers of the other tasks."""
    sentences = sample_sentences(split, n, f"llm {split}")
    scores = {}
    for task in ("repeat", "translate", "intent", "sentiment", "continue", "refuse"):
        answers = answer(folder, task, sentences)
        if task == "repeat":
            scores["repeat WER"] = 100 * jiwer.wer([s.text for s in sentences], answers)
        elif task == "translate":
            scores["translate BLEU"] = sacrebleu.corpus_bleu(answers, [[s.german for s in sentences]]).score
        elif task == "continue":
            right = sum(a in {s.continuation(t) for t in CONTINUATIONS} for a, s in zip(answers, sentences, strict=True))
            scores["continue exact"] = 100 * right / n
        else:
            expected = [TASK_BY_NAME[task].answer(s, None) for s in sentences]
            scores[f"{task} exact"] = 100 * sum(a == e for a, e in zip(answers, expected, strict=True)) / n
    return {name: round(value, 2) for name, value in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--n", type=int, default=400, help="sentences")
    args = parser.parse_args()
    print(json.dumps(score(args.folder, args.split, args.n)))


if __name__ == "__main__":
    main()
