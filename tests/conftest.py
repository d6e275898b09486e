"""What the tests of the core share: tiny random models, a tiny corpus in LibriSpeech's layout, and their configuration.

Everything is made here in seconds; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import json
import logging
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # that weights are equal to the bit is claimed of the CPU
torch.set_num_threads(1)  # the models are tiny: more threads only wait for one another

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 2.0  # seconds, of the tiny Whisper
RATE = 16000  # Hz
SETS = {"train-clean-100": 24, "dev-clean": 6, "test-clean": 7}  # utterances
SUBJECTS = ("the farmer", "a doctor", "my sister", "the old captain", "her neighbour")
VERBS = ("finds", "buys", "hides", "repairs", "steals", "cleans")
OBJECTS = ("a red lamp", "the broken clock", "two green apples", "his letter", "an empty bottle")
PLACES = ("in the garden", "near the river", "behind the station", "at home")
SENTENCES = [" ".join(words) for words in itertools.product(SUBJECTS, VERBS, OBJECTS, PLACES)]

# What the tiny configuration changes in recipes/librispeech/conf/blsp.yaml.
CHANGES = {
    "system": "tiny",
    "seed": "7",
    "corpus": "{{name: tones, licence: none}}",
    "encoder": "{whisper}",
    "llm": "{llm}",
    "d_bottleneck": "8",
    "train_sets": "[train_clean_100]",
    "dev_sets": "[dev_clean]",
    "test_sets": "[test_clean]",
    "window": "2.0",
    "behaviours": """
  continuation: {{instruction: Continue the following text., response: generate}}
  repetition: {{instruction: Please repeat the following words., response: transcript}}
  transcription: {{instructions: {instructions}, response: transcript}}""",
    "mix": "{{continuation: 1, repetition: 1}}",
    "generation": "{{max_new_tokens: 12, temperature: 1.0, top_p: 0.9, num_beams: 1, seed: 0}}",
    "generation_batch": "5",
    "refusals": '["i\'m sorry"]',
    "epochs": "2",
    "batch_size": "8",
    "max_tokens": "120",
    "lr": "3.0e-3",
    "warmup_steps": "3",
    "schedule": "cosine",
    "log_interval": "2",
    "dev_interval": "4",
    "checkpoint_interval": "2",
    "examples": "2",
    "loader_processes": "0",
    "decoding": "{{max_new_tokens: 10, temperature: 0.0, top_p: 1.0, num_beams: 1, seed: 0}}",
    "decoding_batch": "3",
    "tasks": """
  asr: {{sets: [test_clean], instruction: Please repeat the following words., reference: text, metric: wer}}
  color: {{sets: [test_clean], instruction: Which color is named?, reference: text, metric: accuracy, labels: [red, green]}}""",
}


@dataclass(frozen=True)
class World:
    """Paths of the tiny models, the corpus and its configuration."""

    folder: Path
    whisper: Path
    llm: Path
    corpus: Path  # the folder LibriSpeech
    config: Path
    data: Path = Path()  # data directories, where they have been prepared


def _whisper(folder: Path) -> Path:
    torch.manual_seed(1)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<unk>"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], bos_token=special[0], additional_special_tokens=special[1:3]
    )
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_source_positions=round(WINDOW * 50),
        max_target_positions=16,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        init_std=0.3,  # large, so that the states of different utterances differ
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        max_length=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        no_timestamps_token_id=2,
        is_multilingual=False,
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=round(WINDOW)).save_pretrained(folder)
    return folder


def _llm(folder: Path, seed: int = 2) -> Path:
    torch.manual_seed(seed)
    lines = [*SENTENCES, *(f"###[Human]:Please repeat the following words. {s}" for s in SENTENCES[::7]), "###[Assistant]:"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = LlamaConfig(
        vocab_size=sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,  # large, so that the likeliest token is clear
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def speak(path: Path, text: str, seconds: float) -> None:
    """A tone per word, so that different sentences sound different."""
    n_samples = round(seconds * RATE)
    time = np.arange(n_samples) / RATE
    words = text.split()
    pitch = np.array([150 + 37 * (sum(map(ord, word)) % 50) for word in words])[np.arange(n_samples) * len(words) // n_samples]
    noise = np.random.default_rng(n_samples).normal(size=n_samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * noise, RATE)


def _corpus(folder: Path) -> Path:
    draw = random.Random(3)
    sentences = draw.sample(SENTENCES, sum(SETS.values()))
    for number, (split, size) in enumerate(SETS.items()):
        for i in range(size):
            text = sentences.pop()
            reader, chapter = str(10 * number + i % 3 + 10), str(100 + i % 2)
            utt_id = f"{reader}-{chapter}-{i:04d}"
            chapter_dir = folder / split / reader / chapter
            speak(chapter_dir / f"{utt_id}.flac", text, draw.uniform(0.3, 1.99))
            with open(chapter_dir / f"{reader}-{chapter}.trans.txt", "a") as f:
                f.write(f"{utt_id} {text.upper()}\n")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tiny models, corpus and configuration; shared by all tests, which leave them as they are."""
    folder = tmp_path_factory.mktemp("world")
    instructions = folder / "instructions.txt"
    instructions.write_text("# a comment\nTranscribe the speech.\nWrite down what is said.\n\nWhich words are spoken?\n")
    whisper, llm = _whisper(folder / "whisper"), _llm(folder / "llm")
    config = folder / "tiny.yaml"
    text = (ROOT / "recipes/librispeech/conf/blsp.yaml").read_text()
    for key, value in CHANGES.items():
        block = f"{key}: {value.format(whisper=whisper, llm=llm, instructions=instructions)}\n"
        text, found = re.subn(rf"(?ms)^{key}:.*?(?=^[^\s-]|\Z)", lambda _, block=block: block, text)
        assert found == 1, key
    config.write_text(text)
    return World(folder, whisper, llm, _corpus(folder / "LibriSpeech"), config)


@pytest.fixture(scope="session")
def other_llm(world: World) -> Path:
    """Another LLM of the same shape."""
    return _llm(world.folder / "other_llm", seed=99)


@pytest.fixture(scope="session")
def untrained(world: World) -> Path:
    """A model's folder as it is before training."""
    from blsp.model.adapter import Adapter
    from blsp.model.blsp import BLSP
    from blsp.model.encoder import SpeechEncoder
    from blsp.model.llm import load_llm
    from blsp.model.prompts import Prompter

    torch.manual_seed(3)
    llm = load_llm(str(world.llm))
    model = BLSP(SpeechEncoder.from_pretrained(str(world.whisper)), Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer))
    model.save_pretrained(world.folder / "untrained", str(world.whisper), str(world.llm), {})
    return world.folder / "untrained"


@pytest.fixture(scope="session")
def prepared(world: World) -> World:
    """The world with data directories, features and responses (stages 0 to 2); tests leave them as they are."""
    data = world.folder / "data"
    prepare_corpus(world.corpus, data)
    common = ("--config", world.config, "--data-dir", data)
    call("features", *common, "--nj", 1)
    call("continuation", *common)
    return replace(world, data=data)


def plain_llm(folder: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An LLM and its tokenizer as Transformers gives them: what ours is compared with."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


def untrained_model(world: World, seed: int = 3):
    """A model as it is before training."""
    from blsp.model.adapter import Adapter
    from blsp.model.blsp import BLSP
    from blsp.model.encoder import SpeechEncoder
    from blsp.model.llm import load_llm
    from blsp.model.prompts import Prompter

    torch.manual_seed(seed)
    llm = load_llm(str(world.llm))
    return BLSP(SpeechEncoder.from_pretrained(str(world.whisper)), Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer)).eval()


def prepare_corpus(corpus: Path, data: Path) -> None:
    """Stage 0 of recipes/librispeech, in this process."""
    from blsp.data.preparation import prepare

    prepare(load_file(ROOT / "recipes/librispeech/local/prepare.py").parse, corpus, data, WINDOW)


def load_file(path: Path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(program: str, *arguments: object) -> None:
    """Run the main function of a program of blsp in this process, as its command line would."""
    before = sys.argv
    sys.argv = [f"{program}.py", *map(str, arguments)]
    try:
        importlib.import_module(f"blsp.bin.{program}").main()
    finally:
        sys.argv = before


def start(action: Callable[[], None], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> int:
    """Start a process that does `action`, without the seconds that a new Python imports for. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        stream = open(log, "a", buffering=1)  # noqa: SIM115
        sys.stdout = sys.stderr = stream
        for name in list(logging.root.manager.loggerDict):
            own = logging.getLogger(name).handlers
            consoles = [h for h in own if type(h) is logging.StreamHandler]  # a library's
            for handler in [h for h in own if isinstance(h, logging.StreamHandler)]:
                if handler in consoles[:1]:
                    handler.stream = stream  # not setStream(), which flushes the old one: that may be closed
                else:  # of an experiment of the parent, or of its test runner
                    logging.getLogger(name).removeHandler(handler)
        os.environ.update(env or {})
        os.chdir(cwd or os.getcwd())
        action()
        status = 0
    except SystemExit as e:
        status = e.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """The exit status of a process, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_program(program: str, *arguments: object, log: Path, patch: Callable[[], None] = lambda: None, **how: object) -> int:
    """Run a program of blsp to its end in a process of its own, in which `patch` was called first. Returns its status."""
    from blsp.base import command

    importlib.import_module(f"blsp.bin.{program}")  # here once, for all the processes to come

    def action() -> None:
        patch()
        command.run(lambda: call(program, *arguments))

    return wait(start(action, log, **how))


def recipe(corpus: str, *arguments: object, log: Path) -> int:
    """What a recipe's run.sh does: every command that it prints under --dry-run, until one fails. Returns its status."""
    from blsp.base import command

    folder = ROOT / "recipes" / corpus
    shell = ["bash", folder / "run.sh", "--dry-run", *map(str, arguments)]
    printed = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        if not line.startswith("python "):
            assert not line or line.startswith("=="), line
            continue
        _, *words = shlex.split(line)
        if words[0] == "-m":
            importlib.import_module(words[1])
            action = lambda words=words: call(words[1].removeprefix("blsp.bin."), *words[2:])  # noqa: E731
        else:
            action = lambda words=words: _call_file(words)  # noqa: E731
        if status := wait(start(lambda action=action: command.run(action), log, cwd=folder)):
            return status
    return 0


def _call_file(words: list[str]) -> None:
    from blsp.data import preparation

    module = load_file(Path(words[0]).resolve())
    preparation.main(module.parse, module.__doc__, words[1:])


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[World], World]:
    """A function that copies a world's data directories, for tests that change them."""

    def copy(world: World) -> World:
        shutil.copytree(world.data, tmp_path / "data")
        return replace(world, data=tmp_path / "data")

    return copy


def mtimes(folder: Path, pattern: str = "**/*") -> dict[str, int]:
    """When each file below a folder was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob(pattern) if p.is_file()}
