#!/usr/bin/env python3
"""Trains the mini Whisper from scratch on the spoken mini world; writes a WhisperForConditionalGeneration folder.

Loss: cross-entropy of the decoder + 10 x CTC over characters on the encoder's states up to the audio's end; the CTC head
goes. Without CTC the encoder learns to align late or never. Settings were chosen on the development sets; test sets are only
reported. A run that was killed goes on from its last checkpoint.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import soundfile
import torch
from checkpoint import Checkpoint
from jiwer import wer
from model_card import write_card
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from whisper_data import (
    CHARACTERS,
    EOT,
    LANGUAGES,
    NO_TIMESTAMPS,
    SOT,
    TRANSCRIBE,
    TRANSLATE,
    WINDOW,
    Recording,
    character_targets,
    extract_features,
    feature_extractor,
    read_clips,
    read_split,
    token_targets,
    train_tokenizer,
)

from blsp.base import command

log = logging.getLogger("train_whisper")
DEV_UTTERANCES = 100  # of each dev set, while training
CHECK_EVERY = 300  # steps
GERMAN_TIMES = 3  # each German utterance in an epoch: there are eight times as many English ones
CHARACTER_WEIGHT = 10.0


def build_model(args: argparse.Namespace, tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    ids = tokenizer.convert_tokens_to_ids
    eot, sot = ids([EOT, SOT])
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=args.d_model,
        encoder_layers=args.encoder_layers,
        encoder_attention_heads=args.heads,
        encoder_ffn_dim=4 * args.d_model,
        decoder_layers=1,
        decoder_attention_heads=args.heads,
        decoder_ffn_dim=4 * args.d_model,
        max_source_positions=WINDOW * 50,
        max_target_positions=64,
        dropout=args.dropout,
        pad_token_id=eot,
        bos_token_id=eot,
        eos_token_id=eot,
        decoder_start_token_id=sot,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        attn_implementation="eager",  # at this size faster backwards than fused attention
    )
    model = WhisperForConditionalGeneration(config)
    # Whisper's own initialization (0.02 throughout) is for wide models; narrow ones learn several times more slowly.
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear) and module is not model.proj_out:
            nn.init.xavier_uniform_(module.weight)
    model.generation_config = GenerationConfig(
        max_length=40,
        pad_token_id=eot,
        bos_token_id=eot,
        eos_token_id=eot,
        decoder_start_token_id=sot,
        no_timestamps_token_id=ids(NO_TIMESTAMPS),
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids(f"<|{language}|>") for language in LANGUAGES},
        task_to_id={"transcribe": ids(TRANSCRIBE), "translate": ids(TRANSLATE)},
        return_timestamps=False,
    )
    return model


def augment(features: torch.Tensor) -> torch.Tensor:
    """Changes the level of each utterance a little and adds noise. (SpecAugment's masks hurt: they hide whole vowels.)"""
    n = len(features)
    return features + 0.05 * torch.randn(n, 1, 1) + 0.05 * torch.rand(n, 1, 1) * torch.randn(features.shape)


def ctc(logits: torch.Tensor, n_states: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
    """CTC loss per symbol; logits (B, S, symbols), blank is 0; n_states (B,) up to the audio's end."""
    n_symbols = torch.tensor([len(target) for target in targets])
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    return functional.ctc_loss(log_probabilities, torch.cat(targets), n_states, n_symbols, zero_infinity=True)


class Trainer:
    """The training loop's state."""

    def __init__(
        self, args: argparse.Namespace, tokenizer: WhisperTokenizer, recordings: list[Recording], n_states: torch.Tensor
    ):
        self.args, self.n_states = args, n_states
        self.model = build_model(args, tokenizer)
        self.ctc_head = nn.Linear(args.d_model, len(CHARACTERS) + 1)
        self.parameters = [*self.model.parameters(), *self.ctc_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.targets = token_targets(tokenizer, recordings)
        self.characters = character_targets([recording.text for recording in recordings])

    def step(self, features: torch.Tensor, chosen: torch.Tensor, lr: float) -> float:
        """One optimizer step on the utterances `chosen`; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        targets = self.targets[chosen]
        inputs = targets[:, :-1].clamp(min=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.model(input_features=augment(features[chosen].float()), decoder_input_ids=inputs)
            character_logits = self.ctc_head(output.encoder_last_hidden_state)
        targets = targets[:, 1:].clone()
        targets[:, 1:3] = -100  # task and no timestamps: always given; the language is detected where it is not
        cross_entropy = functional.cross_entropy(output.logits.float().transpose(1, 2), targets, label_smoothing=0.05)
        characters = [self.characters[i] for i in chosen.tolist()]
        loss = cross_entropy + CHARACTER_WEIGHT * ctc(character_logits, self.n_states[chosen], characters)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()

    def state(self) -> dict[str, dict]:
        parts = {"model": self.model, "ctc_head": self.ctc_head, "optimizer": self.optimizer}
        return {name: part.state_dict() for name, part in parts.items()}

    def load(self, state: dict[str, dict]) -> None:
        self.model.load_state_dict(state["model"])
        self.ctc_head.load_state_dict(state["ctc_head"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def standardize_encoder(model: WhisperForConditionalGeneration, features: torch.Tensor, n_frames: torch.Tensor) -> None:
    """Rescales the encoder's output to mean 0 and variance 1 per dimension; what the decoder says stays the same.

    An adapter learns several times faster from it. The last LayerNorm takes the scale, the decoder's keys and values take
    it back; a constant in the keys changes no softmax. features: (N, 80, 400); n_frames: (N), where the audio ends.
    """
    model.eval()
    hidden = torch.cat([model.model.encoder(batch.float()).last_hidden_state for batch in features.split(50)])
    heard = torch.cat([rows[: (n + 1) // 2] for rows, n in zip(hidden, n_frames.tolist(), strict=True)])
    mean, std = heard.mean(0), heard.std(0)
    for layer in model.model.decoder.layers:
        attention = layer.encoder_attn
        attention.v_proj.bias += attention.v_proj.weight @ mean
        attention.v_proj.weight *= std
        attention.k_proj.weight *= std
    norm = model.model.encoder.layer_norm
    norm.bias.sub_(mean).div_(std)
    norm.weight.div_(std)
    model.train()


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, features: torch.Tensor, size: int = 50
) -> list[str]:
    """Greedy transcripts by transformers' ordinary generate(), which detects the language."""
    model.eval()
    texts = []
    for batch in features.split(size):
        mask = torch.ones_like(batch[:, 0], dtype=torch.long)
        ids = model.generate(input_features=batch.to(model.dtype), attention_mask=mask, task="transcribe")
        texts += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    model.train()
    return texts


def save(model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, folder: Path) -> None:
    """Writes bf16 weights, configurations and the tokenizer."""
    copy = WhisperForConditionalGeneration(model.config).to(torch.bfloat16)
    copy.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})
    copy.generation_config = model.generation_config
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    feature_extractor().save_pretrained(folder)


def read_set(args: argparse.Namespace, name: str) -> list[Recording]:
    """Of English, a split of LibriSpeech; de-NAME is a split of German."""
    if name.startswith("de-"):
        return read_clips(args.german / f"{name.removeprefix('de-')}.tsv", "de")
    return read_split(args.corpus / name)


def train(args: argparse.Namespace) -> None:
    recordings = read_set(args, "train-clean-100") + GERMAN_TIMES * read_set(args, "de-train")
    texts = [recording.text for recording in recordings]
    checkpoint = Checkpoint(args.out, {**vars(args), "texts": texts})
    if checkpoint.is_finished():
        print(f"{args.out}: is there, trained with these settings on these texts")
        return
    features = extract_features(recordings, args.cache)
    dev = {name: read_set(args, name)[:DEV_UTTERANCES] for name in ("dev-clean", "dev-other", "de-dev")}
    dev_features = {split: extract_features(found, args.cache).float() for split, found in dev.items()}
    tokenizer = train_tokenizer(texts)
    seconds = [soundfile.info(recording.path).duration for recording in recordings]
    n_states = torch.tensor([round(50 * s) for s in seconds]).clamp(max=50 * WINDOW)
    trainer = Trainer(args, tokenizer, recordings, n_states)
    log.info("%d utterances, %d parameters", len(texts), sum(p.numel() for p in trainer.model.parameters()))
    order = torch.Generator().manual_seed(args.seed)
    queue = torch.empty(0, dtype=torch.long)
    begin = 0
    if state := checkpoint.load():
        trainer.load(state["trainer"])
        order.set_state(state["order"])
        queue, begin = state["queue"], state["step"]
        log.info("going on after step %d", begin)
    running, started = 0.0, time.time()
    for step in tqdm(range(begin, args.steps), unit="step", initial=begin, total=args.steps, disable=None):
        if len(queue) < args.batch:
            queue = torch.randperm(len(texts), generator=order)
        chosen, queue = queue[: args.batch], queue[args.batch :]
        torch.manual_seed(args.seed * 1_000_003 + step)  # a run that goes on draws what one without a pause draws
        lr = args.lr * min(1.0, (step + 1) / args.warmup, 2 * (args.steps - step) / args.steps)
        running += trainer.step(features, chosen, lr)
        if (step + 1) % CHECK_EVERY == 0:
            shown = {split: transcribe(trainer.model, tokenizer, dev_features[split]) for split in dev}
            scores = {split: round(100 * wer([r.text for r in dev[split]], shown[split]), 2) for split in dev}
            log.info("step %d loss %.3f WER %s %.0f s", step + 1, running / CHECK_EVERY, scores, time.time() - started)
            running = 0.0
            checkpoint.save({"trainer": trainer.state(), "order": order.get_state(), "queue": queue, "step": step + 1})
    chosen = torch.arange(0, len(texts), max(1, len(texts) // 400))
    standardize_encoder(trainer.model, features[chosen], 2 * n_states[chosen])
    save(trainer.model, tokenizer, args.out)
    scores = evaluate(args)
    log.info("saved model: %s", scores)
    for name in ("dev-other", "de-dev"):
        if scores[name]["WER"] > args.accept_wer:
            raise ValueError(
                f"{args.out}: WER {scores[name]['WER']} on {name} is above {args.accept_wer};"
                " train longer (--steps) or from another --seed"
            )
    write_card(
        args.out,
        "whisper-mini",
        f"A WhisperForConditionalGeneration of {sum(p.numel() for p in trainer.model.parameters()) / 1e6:.1f} M parameters"
        f" with a window of {WINDOW} s, trained from scratch on the spoken mini world. It stands for Whisper in egs/mini.",
        f"{len({r.utt_id for r in recordings})} utterances that egs/mini/local/speak.py and, in German, speak_layouts.py"
        " speak with espeak-ng; those of the experiments are of other seeds; synthetic",
        scores,
    )
    checkpoint.finish()


def evaluate(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Word error rates in percent of the model as saved, in bf16 weights and float32 arithmetic."""
    model = WhisperForConditionalGeneration.from_pretrained(args.out, dtype=torch.float32)
    tokenizer = WhisperTokenizer.from_pretrained(args.out)
    scores = {}
    for split in ("dev-clean", "dev-other", "de-dev", "test-clean", "test-other", "de-test"):
        recordings = read_set(args, split)
        hypotheses = transcribe(model, tokenizer, extract_features(recordings, args.cache).float())
        scores[split] = {"WER": round(100 * wer([r.text for r in recordings], hypotheses), 2)}
    return scores


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="LibriSpeech folder that speak.py wrote")
    parser.add_argument("--german", type=Path, required=True, help="Common Voice folder that speak_layouts.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    parser.add_argument("--cache", type=Path, help="folder for features, to save the next run a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=50, help="steps")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument(
        "--accept-wer", type=float, default=5.0, help="largest WER on dev-other and de-dev; above it the run fails"
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        train(args)
    except (OSError, ValueError) as error:
        sys.exit(f"train_whisper.py: {error}")


if __name__ == "__main__":
    command.run(main)
