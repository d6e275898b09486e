"""Stage 0 of BSTC: Mandarin talks with English translations, in either of its two distributions.

    CCMT_2019_BSTC/                             <- --corpus-dir
        data/development_data/                  (development_data.zip, unpacked)
            105.wav                             a whole talk
            105.asr.json                        one object a line: offset, duration (seconds), transcript, translation

Set dev: each sentence is a part of its talk. Or

    FOLDER/                                     <- --corpus-dir (the AutoSimTrans distribution)
        devdata/105.wav
        bstc_transcription_translation/
            dev/streaming_transcription/105.txt the sentences as they grow, one character more on each line
            dev/ref_text/105.txt                one translation a line, as many as sentences
            train/1.json                        as .asr.json above
        traindata/1.wav                         audio of train, if you have it

Its dev set has no sentence times, so an utterance of dev is a whole talk; talks longer than the encoder's window are
rejected. Train has sentences; it is passed over without traindata. Table `translation.en`; the talk is the speaker.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, read_json
from blsp.data import preparation
from blsp.data.corpus_files import glob, iter_lines, read_lines
from blsp.data.preparation import Found, Rejected, Sets


def parse(corpus_dir: Path) -> Sets:
    texts = corpus_dir / "bstc_transcription_translation"
    if texts.is_dir():
        return autosimtrans(texts, corpus_dir)
    if (corpus_dir / "dev" / "streaming_transcription").is_dir():
        return autosimtrans(corpus_dir, corpus_dir.parent)
    return ccmt(corpus_dir)


def ccmt(corpus_dir: Path) -> Sets:
    data = corpus_dir / "data"
    folders = [corpus_dir, data] + [path for path in glob(corpus_dir, "*") + glob(data, "*") if path.is_dir()]
    talks: dict[str, dict[Path, Path]] = defaultdict(dict)  # set -> transcript -> audio
    for folder in dict.fromkeys(folders):
        transcripts = glob(folder, "*.asr.json")
        name = next((name for name in ("train", "test") if folder.name.startswith(name)), "dev")
        for transcript in transcripts:
            talks[name][transcript] = folder / transcript.name.replace(".asr.json", ".wav")
        for audio in glob(folder, "*.wav"):
            if audio.with_suffix(".asr.json") not in talks[name]:
                raise InputError(f"{audio.with_suffix('.asr.json')}: is missing beside {audio.name}; unpack it again")
    if not any(talks.values()) and (packed := glob(data, "*.zip")):
        raise InputError(f"{packed[0]}: is still packed; unzip it where it lies")
    return {name: partial(sentences, pairs) for name, pairs in talks.items() if pairs}


def autosimtrans(texts: Path, audio_dir: Path) -> Sets:
    sets: dict[str, Any] = {}
    dev = texts / "dev" / "streaming_transcription"
    if dev.is_dir():
        sets["dev"] = partial(whole_talks, dev, texts / "dev" / "ref_text", audio_dir / "devdata")
    elif (audio_dir / "devdata").is_dir():
        raise InputError(f"{dev}: is missing; download bstc_transcription_translation.tar.gz and unpack it")
    if train := glob(texts / "train", "*.json"):
        if (audio_dir / "traindata").is_dir():
            sets["train"] = partial(sentences, {path: audio_dir / "traindata" / f"{path.stem}.wav" for path in train})
        else:
            print(f"train: passed over: {len(train)} transcripts, but no audio in {audio_dir / 'traindata'}")
    return sets


def sentences(talks: dict[Path, Path]) -> Iterator[Found | Rejected]:
    """Every line of the transcripts with times. `talks`: transcript -> audio."""
    for transcript, audio in talks.items():
        talk = "_".join(audio.stem.split())  # an id holds no white space
        seen: dict[tuple[float, float, str], str] = {}  # one sentence given twice is a duplicate
        for i, entry in enumerate(entries(transcript)):
            name = f"{talk}_{i}"
            if not isinstance(entry, dict):
                yield Rejected(name, f"broken line: not a JSON object ({transcript.name}:{i + 1})")
                continue
            start, duration = seconds(entry.get("offset")), seconds(entry.get("duration"))
            text = entry.get("transcript") or entry.get("asr") or ""  # either name occurs
            translation = entry.get("translation") or ""
            if start is None or duration is None:
                yield Rejected(name, "broken line: offset or duration is missing or not a number")
            elif not isinstance(text, str) or not isinstance(translation, str):
                yield Rejected(name, "broken line: transcript or translation is not a string")
            elif (first := seen.setdefault((start, duration, text), name)) != name:
                yield Rejected(name, f"duplicate: the same as {first}")
            else:
                yield Found(
                    name=name,
                    utt_id=f"{talk}-{name}",
                    spk=talk,
                    audio=audio,
                    text=text,
                    rec_id=talk,
                    start=start,
                    end=start + duration,
                    tables={"translation.en": translation},
                )


def entries(transcript: Path) -> Iterator[Any]:
    """The objects of a transcript, JSON lines or one JSON list; None for a line that is not JSON."""
    number = 0
    broken = None
    for line in iter_lines(transcript):
        if not line.strip():
            continue
        if number == 0 and line.lstrip().startswith("["):
            yield from listed(transcript)
            return
        if broken is not None:
            yield None
            broken = None
        number += 1
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            broken = line  # what it means depends on whether another line follows
            continue
        yield value
    if number == 0:
        raise InputError(f"{transcript}: is empty; one JSON object a line was expected; unpack it again")
    if broken is not None:
        if broken.lstrip().startswith("{") and not broken.rstrip().endswith("}"):
            raise InputError(f"{transcript}: was cut off in its last line; unpack it again")
        yield None


def listed(transcript: Path) -> list[Any]:
    value = read_json(transcript)
    if not isinstance(value, list):
        raise InputError(f"{transcript}: expected JSON lines or a list; unpack it again")
    return value


def whole_talks(streaming: Path, references: Path, audio_dir: Path) -> Iterator[Found | Rejected]:
    transcripts = {path.stem: path for path in glob(streaming, "*.txt")}
    translations = {path.stem: path for path in glob(references, "*.txt")}
    recordings = {path.stem for path in glob(audio_dir, "*.wav")}
    for talk in sorted(transcripts.keys() | translations.keys() | recordings):
        for folder, known in ((streaming, transcripts), (references, translations)):
            if talk not in known:
                raise InputError(f"{folder / talk}.txt: is missing, but the rest of talk {talk} is there; unpack again")
        source = finished(line for line in iter_lines(transcripts[talk]))
        target = read_lines(translations[talk])
        while target and not target[-1].strip():
            target.pop()
        if len(source) != len(target):
            raise InputError(
                f"{translations[talk]}: has {len(target)} lines, but {transcripts[talk].parent.name}/{talk}.txt "
                f"has {len(source)} sentences; unpack both again"
            )
        native = "_".join(talk.split())  # an id holds no white space
        yield Found(
            name=talk,
            utt_id=native,
            spk=native,
            audio=audio_dir / f"{talk}.wav",
            text="".join(source),  # Chinese has no spaces between sentences
            tables={"translation.en": " ".join(line.strip() for line in target)},
        )


def finished(lines: Iterator[str]) -> list[str]:
    """The sentences of a streaming transcript: the lines that the next one does not extend."""
    sentences: list[str] = []
    grown = ""
    for line in lines:
        if not line.strip():
            continue
        if grown and not (line.startswith(grown) and len(line) > len(grown)):
            sentences.append(grown)
        grown = line
    return [*sentences, grown] if grown else sentences


def seconds(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    command.run(lambda: preparation.main(parse, __doc__))
