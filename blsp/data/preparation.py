"""Stage 0 for every corpus: from what a parser finds to checked Kaldi data directories.

A corpus' local/prepare.py is a parser and a docstring; everything else happens here.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blsp.base.config import load_config
from blsp.base.files import InputError, atomic_write, read_json
from blsp.data import audio, data_dir
from blsp.data.corpus_files import clean_text, mended
from blsp.data.data_dir import Utterance
from blsp.data.probing import AudioFiles, Outcome, Prober


@dataclass(frozen=True, slots=True)
class Found:
    """One utterance as the corpus' own files describe it; nothing is checked yet."""

    name: str  # the corpus' own id or file name, as rejected.tsv shows it
    utt_id: str  # begins with `spk`
    spk: str
    audio: Path
    text: str | None  # as the corpus writes it, markup of the corpus removed; None or "": rejected as empty
    rec_id: str | None = None  # with start and end: the utterance is this part of a longer recording
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    tables: Mapping[str, str] = field(default_factory=dict)  # further tables: translation.de, intent, sentiment


@dataclass(frozen=True, slots=True)
class Rejected:
    """An utterance that the parser itself has to leave out."""

    name: str
    reason: str


# What a parser returns: for each set (name of the data directory) a function that reads the corpus' files when called.
Sets = Mapping[str, Callable[[], Iterable[Found | Rejected]]]
Parser = Callable[[Path], Sets]


VERSION = 2  # raised when other files are to be written for the same corpus
WINDOW = 30.0  # seconds: of all of OpenAI's Whisper encoders
MIN_SECONDS = 0.1  # shorter audio holds no word
RESERVED = re.compile(r"(?<!\w)(<s>|</s>|#0)(?!\w)")  # Kaldi's validate_data_dir.sh refuses them in text
MARKUP = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]")  # what a garbage-only transcript consists of
UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # in ids
NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
TINY = 1e-6  # seconds
DONE = "preparation.json"


def main(parse: Parser, description: str, argv: Sequence[str] | None = None) -> None:
    """The program that a corpus' local/prepare.py is. Raises InputError."""
    parser = argparse.ArgumentParser(
        description=f"Kaldi data directories of a corpus (stage 0).\n\n{description}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpus-dir", required=True, type=Path, help="the folder that the archive unpacks to")
    parser.add_argument("--data-dir", default="data", type=Path, help="where the data directories go (default: data)")
    parser.add_argument("--config", metavar="YAML", help="the experiment's configuration: its window (default: 30 s)")
    parser.add_argument("overrides", nargs="*", metavar="--KEY=VALUE", help="after `--`: replaces the YAML's, --window=20")
    parser.add_argument(
        "--nj", default=len(os.sched_getaffinity(0)), type=int, help="processes that decode (default: all cores)"
    )
    parser.add_argument("--limit", default=0, type=int, help="only the first N utterances of each set (default: 0, all)")
    args = parser.parse_args(argv)
    if args.nj < 1 or args.limit < 0:
        parser.error("--nj is at least 1, --limit at least 0")
    if args.overrides and not args.config:
        parser.error(f"{args.overrides[0]} overrides a YAML; --config names it")
    max_seconds = load_config(args.config, args.overrides).get("window", WINDOW) if args.config else WINDOW
    if not isinstance(max_seconds, (int, float)) or not max_seconds > MIN_SECONDS:
        raise InputError(f"{args.config}: window '{max_seconds}' is not a number of seconds above {MIN_SECONDS}")
    try:
        prepare(parse, args.corpus_dir, args.data_dir, max_seconds, args.nj, args.limit)
    except InputError as e:  # names of files and columns are data, and may hold line ends
        raise InputError(data_dir.one_field(str(e))) from None


def prepare(parse: Parser, corpus_dir: Path, data_dir: Path, max_seconds: float = WINDOW, nj: int = 1, limit: int = 0) -> None:
    """Write a data directory for each set of a corpus; leave alone what is up to date.

    Raises InputError for a corpus that is not there or broken, and (after the other sets) for a set without a usable
    utterance.
    """
    if not corpus_dir.is_dir():
        raise InputError(f"{corpus_dir}: no such folder; --corpus-dir is the folder that the corpus' archive unpacks to")
    with _reading(corpus_dir):
        sets = parse(corpus_dir)
    if not sets:
        raise InputError(f"{corpus_dir}: holds no set of this corpus; --help shows the layout that is expected")
    prepare_sets(sets, corpus_dir, corpus_dir, data_dir, max_seconds, nj, limit)


def prepare_sets(
    sets: Sets, source: Path, audio_root: Path, data_dir: Path, max_seconds: float = WINDOW, nj: int = 1, limit: int = 0
) -> None:
    """`prepare` for sets that are known: what `source` tells of audio that has to lie in `audio_root`."""
    prober = Prober(data_dir, os.path.realpath(source), nj)
    failures = []
    try:
        for name, read in sets.items():
            if failure := _prepare_set(name, read, source, audio_root, data_dir / name, max_seconds, limit, prober):
                failures.append(failure)
    except OSError as e:
        raise InputError(f"{e.filename or data_dir}: cannot be written ({e.strerror})") from None
    if failures:
        raise InputError("; ".join(failures))


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Turn what a parser trips over into one line."""
    try:
        yield
    except OSError as e:
        raise InputError(f"{e.filename or source}: cannot be read ({e.strerror})") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        what = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        at = f"{Path(where.filename).name}:{where.lineno}"
        raise InputError(f"{source}: a file of it does not have the expected form ({at}: {what})") from None


def _prepare_set(
    name: str,
    read: Callable[[], Iterable[Found | Rejected]],
    source: Path,
    audio_root: Path,
    folder: Path,
    max_seconds: float,
    limit: int,
    prober: Prober,
) -> str | None:
    """Prepare one set and print what came of it. Returns the fault of a set without a usable utterance."""
    mended.clear()
    with _reading(source):
        found = list(_first(read(), limit))
    files = AudioFiles(audio_root)
    settings = {
        "version": [VERSION, audio.VERSION],
        "max_seconds": max_seconds,
        "min_seconds": MIN_SECONDS,
        "overshoot": audio.OVERSHOOT,
    }
    key = _fingerprint(found, files, settings)
    if (summary := _done(folder, key)) is not None:
        print(f"{name}: up to date, {_figures(summary)}", flush=True)
        return None
    utterances, tables, rejected = _check(found, files, max_seconds, prober, name)
    reasons = Counter(data_dir.one_field(reason).partition(":")[0] for _, reason in rejected)
    often = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    aside = folder.with_name(f"{folder.name}.rejected.tsv")
    if not utterances:
        if not found:
            return f"{source}: set {name} holds no utterances"
        with atomic_write(aside) as f:
            f.writelines(data_dir.rejected_lines(rejected))
        first = ": ".join(map(data_dir.one_field, rejected[0]))
        return f"{source}: all {len(found)} utterances of set {name} are rejected ({often}), first {first}; see {aside}"
    hours = sum(u.duration for u in utterances) / 3600
    summary = {
        "fingerprint": key,
        "settings": settings,
        "found": len(found),
        "kept": len(utterances),
        "rejected": dict(reasons),
        "mended": dict(sorted(mended.items())),
        "hours": round(hours, 4),
        "tables": sorted(tables),
    }
    data_dir.write_data_dir(folder, utterances, tables, rejected, {DONE: summary})
    aside.unlink(missing_ok=True)
    print(f"{name}: {_figures(summary)}", flush=True)
    if rejected:
        print(f"  rejected: {often}; see {folder / 'rejected.tsv'}")
    if mended:
        print(f"  mended: {', '.join(f'{n} {what}' for what, n in sorted(mended.items()))}")
    return None


def _first(items: Iterable[Found | Rejected], limit: int) -> Iterator[Found | Rejected]:
    """All items (limit 0), or those up to the `limit`-th utterance that the parser does not reject."""
    n_found = 0
    for item in items:
        yield item
        n_found += isinstance(item, Found)
        if limit and n_found == limit:
            return


def _figures(summary: Mapping[str, Any]) -> str:
    kept, found = summary["kept"], summary["found"]
    return f"kept {kept} + rejected {found - kept} = found {found}, {summary['hours']:.2f} h"


def _done(folder: Path, key: str) -> dict[str, Any] | None:
    """The summary of a data directory that was written from the same corpus with the same settings."""
    if not (folder / DONE).exists():
        return None
    try:
        summary = read_json(folder / DONE)
        whole = all((folder / name).is_file() for name in (*data_dir.TABLES, "rejected.tsv", *summary["tables"]))
        return summary if whole and summary["fingerprint"] == key else None
    except (InputError, KeyError, TypeError):  # not what this program writes: write it anew
        return None


def _fingerprint(found: Sequence[Found | Rejected], files: AudioFiles, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for item in found:
        if isinstance(item, Rejected):
            fields: tuple = (item.name, item.reason)
        else:
            tables = sorted(item.tables.items())
            ids = (item.name, item.utt_id, item.spk, item.rec_id)
            fields = (*ids, item.text, item.start, item.end, tables, files.look(item.audio))
        digest.update(repr(fields).encode())
    return digest.hexdigest()[:16]


def _check(
    found: Sequence[Found | Rejected], files: AudioFiles, max_seconds: float, prober: Prober, title: str
) -> tuple[list[Utterance], dict[str, dict[str, str]], list[tuple[str, str]]]:
    """Utterances and their further tables, and (name, reason) of those that are left out, in the order found."""
    wanted = sorted({key for item in found if isinstance(item, Found) for key in item.tables})
    reasons: list[str | None] = []
    texts: dict[int, list[str]] = {}  # by index in `found`: the transcript and the further tables' values
    for index, item in enumerate(found):
        if isinstance(item, Rejected):
            reasons.append(item.reason)
            continue
        look = files.look(item.audio)
        reason = _faulty_types(item) or _faulty_ids(item) or (look if isinstance(look, str) else None)
        if reason is None:
            texts[index] = [clean_text(value or "") for value in (item.text, *map(item.tables.get, wanted))]
            reason = _faulty_text(texts[index], wanted)
        reasons.append(reason)

    good = [index for index, reason in enumerate(reasons) if reason is None]
    to_probe = {file[0]: file for file in (files.look(found[index].audio) for index in good)}
    outcomes = prober.probe(list(to_probe.values()), title)
    _count_mended(outcomes.values())
    parts = any(found[index].start is not None or found[index].end is not None for index in good)
    kept: dict[str, Utterance] = {}
    tables: dict[str, dict[str, str]] = {key: {} for key in wanted}
    wavs: dict[str, str] = {}  # recording -> file
    for index in good:
        item, path = found[index], files.look(found[index].audio)[0]
        span = _span(item, outcomes[path], max_seconds)
        rec_id = item.rec_id or item.utt_id
        if isinstance(span, str):
            reasons[index] = span
        elif item.utt_id in kept:
            reasons[index] = "duplicate id"
        elif parts and wavs.setdefault(rec_id, path) != path:
            reasons[index] = f"duplicate recording id: {rec_id} is also {wavs[rec_id]}"
        else:
            start, end = span
            where = (start, end, end - start) if parts else (None, None, end - start)
            text, *values = texts[index]
            kept[item.utt_id] = Utterance(
                item.utt_id, item.spk, Path(path), *where, text=text, rec_id=rec_id if parts else None
            )
            for key, value in zip(wanted, values, strict=True):
                tables[key][item.utt_id] = value
    rejected = [(item.name, reason) for item, reason in zip(found, reasons, strict=True) if reason is not None]
    return list(kept.values()), tables, rejected


def _faulty_types(item: Found) -> str | None:
    texts = (item.utt_id, item.spk, item.rec_id, item.text, *item.tables.values())
    if not all(value is None or isinstance(value, str) for value in texts):
        return "a value that should be text is not"
    times = (item.start, item.end)
    return None if all(value is None or isinstance(value, (int, float)) for value in times) else "a time that is not a number"


def _faulty_ids(item: Found) -> str | None:
    for what, value in (("id", item.utt_id), ("speaker", item.spk), ("recording id", item.rec_id)):
        if value == "" or (value is None and what != "recording id"):
            return f"empty {what}"
        if value is not None and UNFIT.search(value):
            return f"{what} with whitespace or control characters"
    return None if item.utt_id.startswith(item.spk) else "id does not begin with its speaker"


def _faulty_text(texts: Sequence[str], wanted: Sequence[str]) -> str | None:
    text, *values = texts
    if any(NOT_UTF8.search(value) for value in texts):
        return "text is not UTF-8"
    if not text:
        return "empty transcript"
    if not any(map(str.isalnum, MARKUP.sub("", text))):
        return "garbage-only transcript"
    if RESERVED.search(text):
        return "transcript holds <s>, </s> or #0: Kaldi reserves them"
    return next((f"no {key}" for key, value in zip(wanted, values, strict=True) if not value), None)


def _count_mended(outcomes: Iterable[Outcome]) -> None:
    for probe in outcomes:
        if isinstance(probe, str):
            continue
        mended["files with several channels"] += probe.channels > 1
        if probe.rate != audio.SAMPLE_RATE:
            mended[f"files of {probe.rate} Hz"] += 1
        if probe.codec not in ("WAV", "WAVEX", "FLAC"):
            mended[f"files in {probe.codec}"] += 1
        if probe.remark:
            mended[probe.remark] += 1
    for what in [what for what, n in mended.items() if not n]:
        del mended[what]


def _span(item: Found, probe: Outcome, max_seconds: float) -> tuple[float, float] | str:
    """Start and end in seconds within the file, or why the utterance is left out."""
    if isinstance(probe, str):
        return probe
    start, end = item.start or 0.0, probe.duration if item.end is None else item.end
    if item.end is None and probe.fault:
        return probe.fault
    if not 0 <= start < end < math.inf:
        return f"segment without length: {start:g} to {end:g} s"
    # Of a recording that was cut off, the segments before the cut are good.
    if start >= probe.duration or end > probe.duration + audio.OVERSHOOT:
        return probe.fault or f"segment beyond the recording's end: {end:.2f} s of {probe.duration:.2f} s"
    if end > probe.duration:
        mended["segments that end just behind their recording"] += 1
        end = probe.duration
    if end - start > max_seconds + TINY:
        return f"longer than {max_seconds:g} s: {end - start:.2f} s"
    if end - start < MIN_SECONDS - TINY:
        return f"shorter than {MIN_SECONDS:g} s: {end - start:.3f} s"
    return start, end
