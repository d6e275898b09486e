"""Where the only transcript file of a corpus is no text, the one line that stage 0 gives names this file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from recipe_run import refused, write_audio

GARBAGE = {
    "random": random.Random(1).randbytes(5000),
    "zeros": bytes(5000),
    "samples": b"".join(random.Random(2).randint(-500, 500).to_bytes(2, "little", signed=True) for _ in range(3000)),
    "archive": b"\x1f\x8b\x08\0" + random.Random(3).randbytes(500),
}
VALIDATED = "client_id\tpath\tsentence\nspk\ta.mp3\tOne.\n"
LAYOUTS = {  # corpus -> transcript file, the others (a recording, a text)
    "librispeech": ("dev-clean/1/2/1-2.trans.txt", {"dev-clean/1/2/1-2-0001.flac": None}),
    "gigaspeech": ("GigaSpeech.json", {"audio/podcast/P1/POD1.opus": None}),
    "commonvoice": ("dev.tsv", {"clips/a.mp3": None}),
    "covost2": ("covost_v2.en_de.tsv", {"en/clips/a.mp3": None, "en/validated.tsv": VALIDATED}),
    "covost2, Common Voice": (
        "en/validated.tsv",
        {"en/clips/a.mp3": None, "covost_v2.en_de.tsv": "path\ttranslation\tsplit\na.mp3\tEins.\tdev\n"},
    ),
    "must-c": (
        "en-de/data/dev/txt/dev.yaml",
        {"en-de/data/dev/wav/t.wav": None, "en-de/data/dev/txt/dev.en": "One.\n", "en-de/data/dev/txt/dev.de": "Eins.\n"},
    ),
    "must-c, translation": (
        "en-de/data/dev/txt/dev.de",
        {
            "en-de/data/dev/wav/t.wav": None,
            "en-de/data/dev/txt/dev.en": "One.\n",
            "en-de/data/dev/txt/dev.yaml": "- {duration: 0.4, offset: 0.0, speaker_id: s, wav: t.wav}\n",
        },
    ),
    "tedlium3": ("legacy/dev/stm/Al_2010.stm", {"legacy/dev/sph/Al_2010.sph": None}),
    "fsc": ("data/test_data.csv", {"wavs/speakers/s/a.wav": None}),
    "snips": ("speech_corpus/metadata.json", {"dataset.json": json.dumps({"intents": {}}), "speech_corpus/audio/0.wav": None}),
    "slue-voxceleb": ("slue-voxceleb_dev.tsv", {"dev_raw/id1_a_1.flac": None}),
    "bstc": ("data/dev/1.asr.json", {"data/dev/1.wav": None}),
    "bstc, whole talks": (
        "bstc_transcription_translation/dev/ref_text/1.txt",
        {"bstc_transcription_translation/dev/streaming_transcription/1.txt": "你\n你好\n", "devdata/1.wav": None},
    ),
    "mslt": (
        "Data/MSLT_Test_DE_20160516/MSLT_Test_DE_0001.T2.de.snt",
        {
            "Data/MSLT_Test_DE_20160516/MSLT_Test_DE_0001.T0.de.wav": None,
            "Data/MSLT_Test_DE_20160516/MSLT_Test_DE_0001.T3.en.snt": "One.",
        },
    ),
    "alpaca": ("alpaca_data.json", {}),
}


@pytest.mark.parametrize(
    ("corpus", "kind"), [(c, list(GARBAGE)[n % 4]) for n, c in enumerate(LAYOUTS)] + [("tedlium3", "zeros")]
)
def test_the_file_at_fault_is_named(tmp_path: Path, corpus: str, kind: str) -> None:
    transcript, others = LAYOUTS[corpus]
    root = tmp_path / "corpus"
    for name, text in others.items():
        if text is None:
            options = {"format": "NIST"} if name.endswith("sph") else {"format": "OGG", "subtype": "OPUS"}
            write_audio(root / name, **(options if name.endswith(("sph", "opus")) else {}))
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
    (root / transcript).parent.mkdir(parents=True, exist_ok=True)
    (root / transcript).write_bytes(GARBAGE[kind])
    line = refused(corpus.partition(",")[0], root, tmp_path / "data")
    assert str(root / transcript) in line and len(line) < 600
