"""Whisper+LLM's recognizer: the same transcripts from a Whisper's folder, whatever of its settings the folder lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS, NON_SPEECH_TOKENS_MULTI
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from blsp.base.files import InputError
from blsp.data import mel
from blsp.model.whisper import WhisperRecognizer

LAST = 24  # positions of the tiny decoders
GIVEN = ("is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id", "max_length", "suppress_tokens",
         "begin_suppress_tokens", "alignment_heads", "decoder_start_token_id", "eos_token_id")  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """In what OpenAI's models and their offspring differ, the width apart."""

    n_mels: int
    vocabulary: int
    languages: int
    decoder_layers: int


SHAPES = {
    "small": Shape(80, 51865, 99, 2),
    "small.en": Shape(80, 51864, 99, 2),  # its tokenizer has languages that the model is not told
    "large-v3": Shape(128, 51866, 100, 3),
    "distil-large-v3": Shape(128, 51866, 100, 2),
}


def make(folder: Path, shape: Shape) -> Path:
    """A random Whisper as OpenAI's are published, with words for their tokens of text."""
    english = shape.vocabulary == 51864
    n_text = 50256 if english else 50257
    languages = [f"<|{code}|>" for code in list(LANGUAGES)[: shape.languages]]
    control = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, *control]
    tokens = {token: i for i, token in enumerate([*(f"w{i}" for i in range(n_text)), *special])}
    backend = Tokenizer(models.WordLevel(tokens, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, bos_token=end, pad_token=end, unk_token=end,
                                        additional_special_tokens=special[1:])  # fmt: skip
    torch.manual_seed(shape.vocabulary)
    config = WhisperConfig(
        vocab_size=shape.vocabulary,
        num_mel_bins=shape.n_mels,
        d_model=16,
        encoder_layers=3,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=shape.decoder_layers,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_source_positions=100,
        max_target_positions=LAST,
        decoder_start_token_id=tokens["<|startoftranscript|>"],
        pad_token_id=n_text,
        bos_token_id=n_text,
        eos_token_id=n_text,
        begin_suppress_tokens=[220, n_text],
        init_std=0.5,  # large, so that different speech gives different words
    )
    model = WhisperForConditionalGeneration(config)
    model.model.decoder.embed_tokens.weight.data[tokens["<|notimestamps|>"] + 1 :] = 0  # never the likeliest, as after training
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    silent = NON_SPEECH_TOKENS if english else NON_SPEECH_TOKENS_MULTI
    stated = {
        "is_multilingual": not english,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "max_length": LAST,
        "suppress_tokens": [i for i in silent if i < n_text] + sorted(tokens[t] for t in (*control[:-1], special[1])),
        "begin_suppress_tokens": [220, n_text],
        "alignment_heads": [[1, 0]],
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
        "eos_token_id": n_text,
        "pad_token_id": n_text,
        "return_timestamps": False,
    }
    if not english:
        stated["lang_to_id"] = {token: tokens[token] for token in languages}
        stated["task_to_id"] = {"transcribe": tokens["<|transcribe|>"], "translate": tokens["<|translate|>"]}
    (folder / "generation_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def make_once(name: str) -> Path:
        if name not in folders:
            folders[name] = make(tmp_path_factory.mktemp(name), SHAPES[name])
        return folders[name]

    return make_once


def speech(n_mels: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.rand(n, n_mels, generator=random) * 2 - 1 for n in (60, 113, 190)]


def changed(folder: Path, copy: Path, file: str, change: Callable[[dict], dict | None]) -> Path:
    """A copy of a model's folder in which a JSON file is another, or not there."""
    if copy != folder:
        shutil.copytree(folder, copy)
    new = change(json.loads((copy / file).read_text()))
    (copy / file).unlink()
    if new is not None:
        (copy / file).write_text(json.dumps(new))
    return copy


@pytest.mark.parametrize("name", SHAPES)
def test_transcripts_are_those_of_transformers_with_or_without_a_generation_config(name: str, made, tmp_path: Path) -> None:
    folder, features = made(name), speech(SHAPES[name].n_mels)
    whisper = WhisperRecognizer.from_pretrained(str(folder), "en")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    options = {} if name.endswith(".en") else {"language": "en", "task": "transcribe"}
    ids = model.generate(mel.pad(features, 200).transpose(1, 2), **options)
    expected = [t.strip() for t in whisper.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    generated = whisper.transcribe(features)
    assert [g.text for g in generated] == expected
    assert len(set(expected)) > 1 and all(expected)
    assert [whisper.transcribe([f])[0] for f in features] == generated
    bare = changed(folder, tmp_path / "bare", "generation_config.json", lambda _: None)
    assert WhisperRecognizer.from_pretrained(str(bare), "en").transcribe(features) == generated


@pytest.mark.parametrize("name", ["small", "small.en"])
def test_half_a_generation_config_is_enough(name: str, made, tmp_path: Path) -> None:
    folder, features = made(name), speech(SHAPES[name].n_mels)
    stated = json.loads((folder / "generation_config.json").read_text())
    whisper = WhisperRecognizer.from_pretrained(str(folder), "en")
    expected = whisper.transcribe(features)
    for missing in (*([key] for key in GIVEN), GIVEN[:5], GIVEN):
        half = {key: value for key, value in stated.items() if key not in missing}
        whisper.model.generation_config = GenerationConfig.from_dict(half)
        again = WhisperRecognizer(whisper.model, whisper.tokenizer, "en")
        assert again.transcribe(features) == expected, missing
        assert again.languages == whisper.languages


@pytest.mark.parametrize("name", ["small", "small.en", "large-v3"])
def test_settings_of_the_old_kind_stand_in_config_json(name: str, made, tmp_path: Path) -> None:
    folder, features = made(name), speech(SHAPES[name].n_mels)
    stated = json.loads((folder / "generation_config.json").read_text())
    forced = [stated["no_timestamps_token_id"]]
    if "lang_to_id" in stated:
        forced = [stated["lang_to_id"]["<|de|>"], stated["task_to_id"]["translate"], *forced]
    old = {"forced_decoder_ids": [[i, token] for i, token in enumerate(forced, 1)], "max_length": 20,
           "suppress_tokens": stated["suppress_tokens"], "begin_suppress_tokens": stated["begin_suppress_tokens"]}  # fmt: skip
    copy = changed(folder, tmp_path / "old", "generation_config.json", lambda _: None)
    changed(copy, copy, "config.json", lambda config: config | old)
    expected = WhisperRecognizer.from_pretrained(str(folder), "en").transcribe(features)
    assert WhisperRecognizer.from_pretrained(str(copy), "en").transcribe(features) == expected
    # Without any of its tokens: those that WhisperConfig puts there are tiny.en's.
    changed(copy, copy, "config.json", lambda config: {k: v for k, v in config.items() if "token" not in k})
    assert WhisperRecognizer.from_pretrained(str(copy), "en").transcribe(features) == expected


def test_a_fine_tuned_model_that_suppresses_nothing_is_let_to(made, tmp_path: Path) -> None:
    features = speech(80)
    free = changed(made("small"), tmp_path / "free", "generation_config.json",
                   lambda stated: stated | {"suppress_tokens": [], "begin_suppress_tokens": [], "num_beams": 5})  # fmt: skip
    decoding = WhisperRecognizer.from_pretrained(str(free), "en").decoding
    assert not decoding.suppress_tokens and not decoding.begin_suppress_tokens
    assert len(WhisperRecognizer.from_pretrained(str(free), "en").transcribe(features)) == 3  # greedy whatever it says


def test_the_prompt_holds_the_language_that_was_named_or_heard(made) -> None:
    folder, features = made("large-v3"), speech(128)
    for language, token in (("yue", "<|yue|>"), ("de", "<|de|>"), ("German", "<|de|>"), ("en", "<|en|>")):
        whisper = WhisperRecognizer.from_pretrained(str(folder), language)
        inputs = mel.pad(features, 200).transpose(1, 2)
        prompts = whisper._prompts(whisper.model.get_encoder()(inputs))
        expected = ["<|startoftranscript|>", token, "<|transcribe|>", "<|notimestamps|>"]
        assert [whisper.tokenizer.convert_ids_to_tokens(p) for p in prompts.tolist()] == [expected] * 3
    heard = WhisperRecognizer.from_pretrained(str(folder), "auto")
    prompts = heard._prompts(heard.model.get_encoder()(inputs))
    expected = heard.model.detect_language(
        inputs, generation_config=WhisperForConditionalGeneration.from_pretrained(folder).generation_config
    )
    assert prompts[:, 1].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "language", "message"),
    [
        ("small", "yue", "does not know the source_language 'yue'; it is one of af, am, "),
        ("small", "klingon", "does not know the source_language 'klingon'"),
        ("small", None, "does not know the source_language 'None'"),
        ("small.en", "de", "does not know the source_language 'de'; it is one of en, or auto"),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_language_that_the_model_does_not_know_is_refused(name, language, message, bare, made, tmp_path: Path) -> None:
    folder = made(name)
    if bare:
        folder = changed(folder, tmp_path / "bare", "generation_config.json", lambda _: None)
    with pytest.raises(InputError, match=message) as e:
        WhisperRecognizer.from_pretrained(str(folder), language)
    assert "\n" not in str(e.value)


def test_what_loops_to_the_last_position_is_cut_off(made) -> None:
    whisper = WhisperRecognizer.from_pretrained(str(made("small")), "en")
    whisper.decoding.suppress_tokens = [*whisper.decoding.suppress_tokens, whisper.decoding.eos_token_id]
    for generated in whisper.transcribe(speech(80)):
        assert (generated.finish_reason, generated.n_tokens) == ("length", LAST - 4)
    long = torch.cat(speech(80)[1:])  # two pieces
    (generated,) = whisper.transcribe([long])
    assert (generated.finish_reason, generated.n_tokens) == ("length", 2 * (LAST - 4))


def test_a_whisper_that_ends_its_transcripts_does_so_without_a_generation_config(tmp_path: Path) -> None:
    """whisper-mini of egs/mini, whose vocabulary is none of OpenAI's."""
    mini = ROOT / "egs/mini/models/whisper-mini"
    random = torch.Generator().manual_seed(1)
    features = [torch.rand(n, 80, generator=random) - 1 for n in (100, 250)]
    bare = changed(mini, tmp_path / "bare", "generation_config.json", lambda _: None)
    for language in ("en", "de"):
        expected = WhisperRecognizer.from_pretrained(str(mini), language).transcribe(features)
        assert "stop" in {g.finish_reason for g in expected}
        assert WhisperRecognizer.from_pretrained(str(bare), language).transcribe(features) == expected


def test_a_tokenizer_that_is_missing_or_another_models_is_refused(made, world, tmp_path: Path) -> None:
    for name, tokenizer in (("none", None), ("another", world.whisper)):
        folder = tmp_path / name
        folder.mkdir()
        for path in made("small.en").glob("*"):
            if not path.name.startswith("tokenizer"):
                shutil.copy(path, folder)
        for path in tokenizer.glob("tokenizer*") if tokenizer else ():
            shutil.copy(path, folder)
        with pytest.raises(InputError, match="tokenizer") as e:
            WhisperRecognizer.from_pretrained(str(folder), "en")
        assert "\n" not in str(e.value)
