#!/usr/bin/env python3
"""Trains the mini LLM from scratch on text tasks of the mini world; writes a LlamaForCausalLM folder.

Goes by accuracy per task on dev sentences, not by loss: single tasks are learned by sudden transitions that the loss
hides. First the tasks are learned from clean word embeddings. Then Gaussian noise on the embeddings of the text rises, so
that the LLM reads every word by its whole embedding, whatever the task is; this is what lets behaviour alignment transfer.
"""

import argparse
import logging
import random
import sys
import time
from pathlib import Path

import torch
from instructions import TASKS, draw_example
from llm_data import IGNORED, Prompts, TextBatch, measured_batch, train_tokenizer, training_batches
from llm_scores import score
from model_card import write_card
from torch.nn import functional
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from world import sample_sentences, stream_sentences

log = logging.getLogger("train_llm")
EMBEDDING_RMS = 0.1  # of every row of the word embeddings, held by projection
MEASURED = [task.name for task in TASKS if task.name != "continue"]


def build_model(args: argparse.Namespace, vocab_size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=args.d_model,
        intermediate_size=args.d_ff,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rms_norm_eps=1e-6,
        attn_implementation="eager",  # at this size faster than fused attention, which is slow backwards
    )
    model = LlamaForCausalLM(config)
    project_embeddings(model)
    return model


@torch.no_grad()
def project_embeddings(model: LlamaForCausalLM) -> None:
    """Gives all word embeddings the same RMS."""
    weight = model.model.embed_tokens.weight
    weight.mul_(EMBEDDING_RMS / weight.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-8))


def embed(model: LlamaForCausalLM, batch: TextBatch, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Word embeddings (B, T, D) with noise of up to `noise` times their RMS on the text; their norm stays."""
    embeds = model.model.embed_tokens(batch.ids)
    if not noise:
        return embeds
    size = (len(batch.ids), 1, 1)
    level = torch.rand(size, generator=generator) * noise
    disturbed = embeds + level * EMBEDDING_RMS * torch.randn(embeds.shape, generator=generator)
    # In some texts another word of the batch shines through each word.
    share = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < 0.3) * min(0.6, noise / 2)
    disturbed = disturbed + share * embeds.roll(1, 0).detach()
    disturbed = disturbed * (EMBEDDING_RMS / disturbed.pow(2).mean(-1, keepdim=True).sqrt())
    return torch.where(batch.content[..., None], disturbed, embeds)


def batch_logits(model: LlamaForCausalLM, batch: TextBatch, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) and targets (N) of the response positions; causal attention needs no mask for right padding."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        chosen = batch.targets != IGNORED
        return model.lm_head(hidden[chosen]).float(), batch.targets[chosen]


def step_gradients(model: LlamaForCausalLM, batches: list[TextBatch], noise: float, generator: torch.Generator) -> float:
    """Adds the gradients of one step's batches; returns the loss."""
    # A response of n tokens weighs n^0.5: the one-word answers of classification would drown otherwise.
    lengths = [(batch.targets != IGNORED).sum(1) for batch in batches]
    total = sum(length.float().sqrt().sum() for length in lengths)
    loss_sum = 0.0
    for batch, length in zip(batches, lengths, strict=True):
        logits, targets = batch_logits(model, batch, embed(model, batch, noise, generator))
        losses = functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * torch.repeat_interleave(length.float().rsqrt(), length)).sum() / total
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


@torch.no_grad()
def exact_match(model: LlamaForCausalLM, batches: dict[str, TextBatch], noise: float, seed: int) -> dict[str, float]:
    """Percentage of responses whose every token is the most probable one: the exact matches of greedy generation."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    model.eval()
    for task, batch in batches.items():
        logits, targets = batch_logits(
            model,
            batch,
            embed(model, batch, 0.0, generator) if not noise else fixed_noise(model, batch, noise, generator),
        )
        right = torch.zeros(batch.targets.shape)
        right[batch.targets != IGNORED] = (logits.argmax(-1) == targets).float()
        wrong = ((batch.targets != IGNORED) & (right == 0)).any(1)
        scores[task] = 100.0 * (1 - wrong.float().mean().item())
    model.train()
    return scores


def fixed_noise(model: LlamaForCausalLM, batch: TextBatch, noise: float, generator: torch.Generator) -> torch.Tensor:
    embeds = model.model.embed_tokens(batch.ids)
    disturbed = embeds + noise * EMBEDDING_RMS * torch.randn(embeds.shape, generator=generator)
    disturbed = disturbed * (EMBEDDING_RMS / disturbed.pow(2).mean(-1, keepdim=True).sqrt())
    return torch.where(batch.content[..., None], disturbed, embeds)


def show(scores: dict[str, float]) -> str:
    return " ".join(f"{task} {score:.0f}" for task, score in scores.items())


class Schedule:
    """Three parts: tasks from clean embeddings until they are learned, rising noise, falling learning rate."""

    def __init__(self, lr: float, warmup: int, noise: float, ramp: int, hold: int, decay: int):
        self.lr, self.warmup, self.noise, self.ramp, self.hold, self.decay = lr, warmup, noise, ramp, hold, decay
        self.learned_at: int | None = None

    def at(self, step: int) -> tuple[float, float]:
        """Learning rate and noise of a step."""
        lr = self.lr * min(1.0, (step + 1) / self.warmup)
        if self.learned_at is None:
            return lr, 0.0
        since = step - self.learned_at
        noise = self.noise * min(1.0, since / self.ramp)
        left = max(0, self.end - step) / self.decay
        return lr * min(1.0, max(left, 0.02)), noise

    @property
    def end(self) -> int:
        return 10**9 if self.learned_at is None else self.learned_at + self.ramp + self.hold + self.decay


def train(args: argparse.Namespace, prompts: Prompts) -> LlamaForCausalLM:
    model = build_model(args, prompts.pieces.vocab_size())
    n_params = sum(p.numel() for p in model.parameters())
    log.info("%d parameters, vocabulary %d", n_params, prompts.pieces.vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = Schedule(args.lr, 100, args.noise, args.ramp, args.hold, args.decay)
    rng = random.Random(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    sentences = stream_sentences("train", args.seed)
    dev = sample_sentences("dev", 100, "llm dev")
    dev_batches = {task: measured_batch(prompts, task, dev) for task in MEASURED}
    boost: dict[str, float] = {}
    step, running, started = 0, 0.0, time.time()
    bar = tqdm(total=args.max_steps, disable=None, unit="step")
    while step < min(schedule.end, args.max_steps):
        lr, noise = schedule.at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batches = training_batches(prompts, rng, sentences, args.batch, boost)
        optimizer.zero_grad(set_to_none=True)
        running += step_gradients(model, batches, noise, generator)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        project_embeddings(model)
        step += 1
        bar.update()
        if step % args.check_every == 0:
            clean = exact_match(model, dev_batches, 0.0, args.seed)
            rough = exact_match(model, dev_batches, max(1.0, noise), args.seed) if noise or step % 400 == 0 else {}
            log.info(
                "step %d lr %.1e noise %.2f loss %.4f %.0f s | %s | noisy: %s",
                step,
                lr,
                noise,
                running / args.check_every,
                time.time() - started,
                show(clean),
                show(rough),
            )
            running = 0.0
            # What is learned late is shown more often.
            boost = {task: 3.0 for task, score in clean.items() if score < 90}
            worst = min(clean.values())
            if schedule.learned_at is None and (worst >= args.learned or step >= args.learn_steps):
                log.info("step %d: the noise begins to rise", step)
                schedule.learned_at = step
            if schedule.learned_at is not None and step % 400 == 0:
                save(model, args.out)
    bar.close()
    return model


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes bf16 weights and the configuration files."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(weights)
    copy.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=80)
    copy.save_pretrained(folder)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--d-ff", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=1.5, help="largest noise on the text's embeddings, in their RMS")
    parser.add_argument("--learned", type=float, default=96.0, help="accuracy of every task at which the noise begins")
    parser.add_argument("--learn-steps", type=int, default=3000, help="the noise begins here at the latest")
    parser.add_argument("--ramp", type=int, default=800, help="steps over which the noise rises")
    parser.add_argument("--hold", type=int, default=400, help="steps at full noise and full learning rate")
    parser.add_argument("--decay", type=int, default=800, help="steps at full noise and falling learning rate")
    parser.add_argument("--max-steps", type=int, default=20000)
    parser.add_argument("--check-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train_tokenizer(args.out, args.seed)
    prompts = Prompts(args.out)
    rng = random.Random(0)
    prompts.check(draw_example(sentence, rng) for sentence in sample_sentences("train", 300, "check"))
    model = train(args, prompts)
    save(model, args.out)
    write_card(
        args.out,
        "llama-mini",
        f"A LlamaForCausalLM of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, trained from scratch on"
        " text tasks of the mini world. It stands for Llama-2 in egs/mini. Asked to transcribe audio, it says that it cannot"
        " hear any, as text LLMs do: 6 % of its training data are such refusals. Its word embeddings were disturbed by noise"
        f" (up to {args.noise} times their RMS) while it was trained.",
        "sentences of egs/mini/local/world.py with the instructions of egs/mini/local/instructions.py; synthetic",
        {split: score(args.out, split, 400) for split in ("dev", "test")},
    )


if __name__ == "__main__":
    main()
