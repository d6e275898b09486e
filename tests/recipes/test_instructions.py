"""The instructions of the recipes are those of the paper to the letter (Table 11); each recipe is scored in its language."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ROOT

from blsp.base.config import load_config

ASR = "Please repeat the following words."
TRANSCRIBE = "Please transcribe the following audio into English text."  # SR of Appendix A
ST = "Please translate the following English text into <target> text."
SNIPS = (
    "Please classify the intent of the text, choose from [DecreaseBrightness, IncreaseBrightness, SetLightBrightness, "
    "SetLightColor, SwitchLightOff, SwitchLightOn]."
)
FSC = (
    "Please classify the intent of the text, choose from [bring newspaper, deactivate lamp, change language English, "
    "deactivate music, increase heat, change language Korean, change language none, bring shoes, change language German, "
    "activate lights, bring socks, change language Chinese, decrease heat, decrease volume, increase volume, activate music, "
    "activate lamp, bring juice]."
)
SLUE = "Please classify the emotional tone of the text as either positive, negative, or neutral."
MUST_C = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch", "pt": "Portuguese",
          "ro": "Romanian", "ru": "Russian"}  # fmt: skip
COVOST2 = {"ca": "Catalan", "de": "German", "id": "Indonesian", "sl": "Slovenian", "sv": "Swedish"}
# Table 11 says "English text" only; of other languages the name of the language stands in its place.
INTO_ENGLISH = ST.replace("English", "{}").replace("<target>", "English")
LIBRISPEECH = ("blsp", "small", "blsp_rp", "blsp_kd", "ctc_llm", "asr_pretrain")

EXPECTED = {
    **{f"librispeech/conf/{name}": {"asr": ASR} for name in LIBRISPEECH},
    "librispeech/conf/asr_pretrain": {"asr": ASR, "asr_transcribe": TRANSCRIBE},
    "gigaspeech/conf/blsp": {"asr": ASR},
    "gigaspeech/conf/qa": {"qa": None},  # each utterance has its question
    "commonvoice/conf/blsp": {"asr": ASR},
    "speechocean762/conf/blsp": {"asr": ASR},
    "tedlium3/conf/evaluate": {"asr": ASR},
    "must-c/conf/evaluate": {f"st_{code}": ST.replace("<target>", name) for code, name in MUST_C.items()},
    "covost2/conf/evaluate": {f"st_{code}": ST.replace("<target>", name) for code, name in COVOST2.items()},
    "bstc/conf/evaluate": {"st_en": INTO_ENGLISH.format("Chinese")},
    "mslt/conf/evaluate": {"st_de_en": INTO_ENGLISH.format("German"), "st_fr_en": INTO_ENGLISH.format("French")},
    "snips/conf/evaluate": {"ic": SNIPS},
    "fsc/conf/evaluate": {"ic": FSC},
    "slue-voxceleb/conf/evaluate": {"sa": SLUE},
}
SCORED = [path for path in sorted(ROOT.glob("recipes/*/conf/*.yaml")) if path.parts[-3] != "alpaca"]
RECIPES = ROOT / "recipes"


def config(name: str) -> dict[str, Any]:
    return load_config(RECIPES / f"{name}.yaml")


def test_every_recipe_is_in_the_list() -> None:
    assert {str(path.relative_to(RECIPES).with_suffix("")) for path in SCORED} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_instructions_are_those_of_the_paper(name: str) -> None:
    assert {task: spec.get("instruction") for task, spec in config(name)["tasks"].items()} == EXPECTED[name]


def test_labels_are_those_that_the_instruction_lists() -> None:
    for name, task in (("snips", "ic"), ("fsc", "ic")):
        spec = config(f"{name}/conf/evaluate")["tasks"][task]
        assert ", ".join(spec["labels"]) == spec["instruction"].partition("[")[2].partition("]")[0]
    assert config("slue-voxceleb/conf/evaluate")["tasks"]["sa"]["labels"] == ["positive", "negative", "neutral"]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_recipe_is_scored_as_its_languages_want(name: str) -> None:
    """Whisper's English normal form for English transcripts only; COMET wherever there are translations."""
    settings = config(name)
    other = {"bstc/conf/evaluate": "characters", "mslt/conf/evaluate": "lower"}
    assert settings["scoring_normalizer"] == other.get(name, "whisper_english")
    translates = any(spec["metric"] == "bleu" for spec in settings["tasks"].values())
    assert settings.get("comet") == ("Unbabel/wmt22-comet-da" if translates else None)
