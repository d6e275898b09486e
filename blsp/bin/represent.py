"""Representations: the LLM's state before it answers, from speech and from text, under several instructions.

For each trained model: means of cosine similarities (Tables 7, 8, 12 and 13) and a t-SNE picture (Figures 1 and 3).

reads   the models' folders, DATA_DIR/SET/{feats.scp,utt2num_frames,text}
writes  EXP_DIR/represent/SET/SYSTEM/{speech,text}.safetensors, the states: instruction -> (utterances, d_llm)
        EXP_DIR/represent/SET/SYSTEM/similarities.json, EXP_DIR/represent/SET/SYSTEM/tsne.png
        EXP_DIR/represent/SET/RESULTS.md, the named models side by side
SYSTEM is what the model's configuration calls it. What is there and still right is not made again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, atomic_write, file_fingerprint, fingerprint, model_fingerprint, read_json, write_json
from blsp.data import normalization
from blsp.data.data_dir import read_table
from blsp.data.tasks import present_sets

log = command.logger("represent")

EXAMPLE = "egs/paper/conf/represent.yaml"
MODALITIES = ("speech", "text")
VERSION = 1  # of what a similarities.json holds; raised where it is computed otherwise than before


def main() -> None:
    parser = program_arguments("blsp.bin.represent", __doc__, "exp_dir")
    parser.add_argument(
        "--model", type=Path, nargs="+", metavar="FOLDER", help="trained models' folders, exp/NAME/model (EXP_DIR/model)"
    )
    parser.add_argument("--limit", type=int, default=0, help="the set's first utterances only; 0: all (%(default)s)")
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "set", "normalizer", "precision", "batch", "instructions", "picture", "paper", example=EXAMPLE)
    _check(config, args.config)
    present_sets(args.data_dir, [config["set"]])
    data, out = args.data_dir / config["set"], args.exp_dir / "represent" / config["set"]
    transcripts = read_table(data / "text")
    utt_ids = list(transcripts)[: args.limit if args.limit > 0 else None]
    models: dict[str, Path] = {}
    for model in args.model or [args.exp_dir / "model"]:
        system = system_of(model)
        if models.setdefault(system, model) != model:
            raise InputError(f"{model}: is called {system} as {models[system]} is; compare them under two --exp-dir")
    rows = [represent(system, model, data, utt_ids, out / system, config) for system, model in models.items()]
    text = report(rows, config["paper"])
    results = out / "RESULTS.md"
    if not results.exists() or results.read_text(encoding="utf-8") != text:
        with atomic_write(results) as f:
            f.write(text)
    log.info(text)


def _check(config: Mapping[str, Any], path: str) -> None:
    """Raise InputError for a value that cannot be meant."""
    instructions, picture = config["instructions"], config["picture"]
    if not isinstance(instructions, dict) or not instructions or not all(isinstance(i, str) for i in instructions.values()):
        raise InputError(f"{path}: instructions should be a mapping of short names to instructions; see {EXAMPLE}")
    if not isinstance(picture, dict) or picture.keys() != {"samples", "joined", "seed", "perplexity"}:
        raise InputError(f"{path}: picture should have samples, joined, seed and perplexity and nothing else; see {EXAMPLE}")
    for key, least in {"samples": 1, "joined": 0, "seed": 0, "perplexity": 1}.items():
        kind = (int, float) if key == "perplexity" else int
        if not isinstance(picture[key], kind) or picture[key] < least:
            raise InputError(f"{path}: picture.{key} {picture[key]!r} should be a number, {least} at least")
    if not isinstance(config["batch"], int) or config["batch"] < 1:
        raise InputError(f"{path}: batch {config['batch']!r} should be a number of utterances, 1 at least")


def system_of(model: Path) -> str:
    """What a trained model's configuration calls it, else the experiment's folder."""
    provenance = read_json(model / "config.json").get("provenance", {})
    name = provenance.get("configuration", {}).get("system") or model.resolve().parent.name
    if not name or "/" in name or name.startswith("."):
        raise InputError(f"{model}/config.json: the system's name '{name}' cannot be a folder's")
    return name


def represent(
    system: str, model: Path, data: Path, utt_ids: Sequence[str], folder: Path, config: Mapping[str, Any]
) -> dict[str, Any]:
    """States, similarities and picture of one model, made anew where their inputs or settings have changed.

    Returns what similarities.json holds.
    """
    common = {"instructions": config["instructions"], "precision": config["precision"], "model": model_fingerprint(model),
              "utterances": fingerprint(utt_ids)}  # fmt: skip
    features = data / "feats.json"
    if not features.exists():
        raise InputError(f"{features}: is missing; run stage 1")
    sources = {
        "speech": {"features": read_json(features)["fingerprint"]},
        "text": {"text": file_fingerprint(data / "text"), "normalizer": config["normalizer"],
                 "normal_forms": normalization.VERSION},
    }  # fmt: skip
    settings = {modality: fingerprint({**common, **sources[modality]}) for modality in MODALITIES}
    files = {modality: folder / f"{modality}.safetensors" for modality in MODALITIES}
    done = fingerprint([VERSION, settings, config["picture"]])
    output, picture = folder / "similarities.json", folder / "tsne.png"
    old = read_json(output) if output.exists() else {}
    if old.get("fingerprint") == done and picture.exists() and all(file.exists() for file in files.values()):
        log.info(f"{folder}: representations of {old['n']} utterances are there")
        return old
    output.unlink(missing_ok=True)  # a kill must not leave it beside other states

    from blsp.evaluation import representations  # loads torch, which a rerun that has nothing to do need not wait for

    missing = [modality for modality in MODALITIES if not representations.done_with(files[modality], settings[modality])]
    if missing:
        contents = representations.Contents(model, data, config["precision"], config["normalizer"])
        for modality in missing:
            representations.collect_states(
                contents.model,
                *contents.of(modality, utt_ids),
                config["instructions"],
                config["batch"],
                files[modality],
                settings[modality],
            )
    speech, text = (representations.load_states(files[modality], config["instructions"]) for modality in MODALITIES)
    values = {"system": system, "set": config["set"], "n": len(utt_ids), **representations.similarities(speech, text)}
    shown = config["picture"]["samples"]
    log.info(f"{picture}: t-SNE of {2 * len(speech) * len(utt_ids)} states")
    spoken, written = representations.tsne(speech, text, config["picture"]["seed"], config["picture"]["perplexity"])
    drawn = random.Random(config["picture"]["seed"]).sample(range(len(utt_ids)), min(shown, len(utt_ids)))
    with atomic_write(picture, "wb") as f:
        representations.draw(spoken, written, drawn, config["picture"]["joined"], f"{system}, {config['set']}", f)
    values |= {"shown": [utt_ids[i] for i in drawn], "commit": command.commit(), "fingerprint": done}
    write_json(output, values)
    return values


def report(rows: Sequence[Mapping[str, Any]], paper: Mapping[str, Any]) -> str:
    """RESULTS.md: all systems side by side; paper: system -> {paired, speech} of the paper's values, in parentheses."""
    names = list(rows[0]["paired"])
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    def cells(values: Sequence[float | None], theirs: Sequence[float | None]) -> list[str]:
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        return [s if t is None else f"{s} ({t:.3f})" for s, t in zip(shown, theirs, strict=True)]

    none = [None] * len(names)
    paired, across = [["", *names]], [["", *(f"{a}, {b}" for a, b in pairs)]]
    of_text: dict[tuple[str, ...], list[str]] = {}  # equal where systems have the same LLM
    for row in rows:
        system, theirs = row["system"], paper.get(row["system"], {})
        beside = [theirs.get("paired", {}).get(name) for name in names]
        paired.append([system, *cells([row["paired"][name] for name in names], beside)])
        paired.append([f"{system}, others' text", *cells([row["unpaired"][name] for name in names], none)])
        beside = [theirs.get("speech", {}).get(f"{a}, {b}") for a, b in pairs]
        across.append([f"{system}, speech", *cells([row["speech"][a][b] for a, b in pairs], beside)])
        values = cells([row["text"][a][b] for a, b in pairs], [None] * len(pairs))
        of_text.setdefault(tuple(values), []).append(system)
    across += [[f"{', '.join(systems)}, text", *values] for values, systems in of_text.items()]
    counts = ", ".join(map(str, sorted({row["n"] for row in rows})))
    text = [
        f"# Representations: {rows[0]['set']}",
        "",
        f"Means of cosine similarities over {counts} utterances. What is compared is the LLM's final state, behind its last",
        "norm, at the last token of the prompt, before it answers.",
        *(["In parentheses: the paper's values, of other models and data."] if any(r["system"] in paper for r in rows) else []),
        "",
        "## Speech and its transcript under the same instruction (Tables 8 and 13)",
        "",
        "Below each system: speech and the transcripts of other utterances. What is above that is about the utterance.",
        "",
        *_markdown(paired),
        "",
        "## The same input under two instructions (Tables 7 and 12)",
        "",
        "A system that follows instructions has from speech what it has from text; one that does not has values near 1.",
        "",
        *_markdown(across),
        "",
        "## t-SNE (Figures 1 and 3)",
        "",
        f"Fitted to all states of a system; {len(rows[0]['shown'])} utterances are drawn.",
        *(line for row in rows for line in ("", f"![{row['system']}]({row['system']}/tsne.png)")),
    ]
    return "\n".join(text) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    command.run(main)
