"""Stage 5: score the hypotheses and write the table of the experiment.

reads   EXP_DIR/decode/SET.TASK/hyp.jsonl, DATA_DIR/SET/text
writes  EXP_DIR/decode/SET.TASK/score.json, EXP_DIR/RESULTS.md; EXP_DIR/comet.log, where translations get COMET
and, where a task's metric is accept_rate (Appendix C), lets the configuration's `judge` read the answers:
writes  EXP_DIR/decode/SET.TASK/judgements.jsonl, DATA_DIR/chat_cache.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import InputError, atomic_write, file_fingerprint, fingerprint, read_json, read_jsonl, write_json
from blsp.data.data_dir import read_table
from blsp.data.normalization import normalizer
from blsp.data.tasks import present_sets
from blsp.evaluation import comet, metrics
from blsp.qa.chat_client import CACHE, ChatModel
from blsp.qa.judging import LISTING_2, judge
from blsp.qa.questions import Questions

log = command.logger("score")
METRICS = {
    "wer": "WER",
    "bleu": "BLEU",
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "accept_rate": "accept rate",
    "agreement": "agreement",
}
VERSION = 3  # of what a score.json holds; raised where scores are computed otherwise than before


def main() -> None:
    args = program_arguments("blsp.bin.score", __doc__, "exp_dir").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "system", "input", "tasks", "scoring_normalizer")
    tasks = dict(config["tasks"])
    present = present_sets(args.data_dir, [name for task in tasks.values() for name in task["sets"]])
    if config["input"] not in ("speech", "text"):  # a cascade, whose recognizer has scores of its own
        tasks["transcript"] = {"sets": list(dict.fromkeys(present)), "metric": "wer"}
    scores = []
    for task, spec in tasks.items():
        for name in (name for name in spec["sets"] if name in present):
            folder, data = args.exp_dir / "decode" / f"{name}.{task}", args.data_dir / name
            if not folder.exists() and not (data / spec.get("reference", "text")).exists():
                continue  # stage 4 has passed it over, for want of references
            scores.append(score(folder, data, task, spec, config))
    if config.get("comet"):
        add_comet(scores, args.exp_dir, args.data_dir, config["comet"])
    table = results(config["system"], scores)
    with atomic_write(args.exp_dir / "RESULTS.md") as f:
        f.write(table)
    log.info(table)


def score(folder: Path, data: Path, task: str, spec: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Scores of one set and task, computed anew if the hypotheses or the settings have changed."""
    hyp = folder / "hyp.jsonl"
    if not hyp.exists():
        raise InputError(f"{hyp}: is missing; run stage 4")
    made = file_fingerprint(hyp)
    depends = [spec, config["scoring_normalizer"], config["system"], made]
    if spec["metric"] == "accept_rate":
        require(config, "judge", "questions")
        model = ChatModel.from_settings("judge", config["judge"])
        normalization = Questions.from_settings(config["questions"]).normalizer
        depends += [model.signature(), LISTING_2, normalization, file_fingerprint(data / "text")]
    done = {"version": VERSION, "fingerprint": fingerprint(depends)}
    if spec["metric"] == "bleu":
        done["texts"] = fingerprint([made, file_fingerprint(data / "text")])
    output = folder / "score.json"
    old = read_json(output) if output.exists() else {}
    if done.items() <= old.items():
        return old
    rows = read_jsonl(hyp)
    references, hypotheses = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    if spec["metric"] == "wer":
        values = metrics.word_error_rate(references, hypotheses, config["scoring_normalizer"])
    elif spec["metric"] == "bleu":
        transcripts = read_table(data / "text")
        sources = [transcripts[row["utt_id"]] for row in rows]
        language = spec["reference"].rpartition(".")[2]
        try:
            values = metrics.bleu(references, hypotheses, sources, language, spec.get("tokenizer", ""))
        except InputError as e:
            raise InputError(f"task {task}, reference {spec['reference']}: {e}") from None
        if "tok:char|" in values["signature"]:
            log.info(f"{hyp}: BLEU counts characters (SacreBLEU's char), for '{language}' has no blanks between its words")
    elif spec["metric"] == "accuracy":
        values = metrics.accuracy(references, hypotheses, spec["labels"])
    elif spec["metric"] == "exact_match":
        values = metrics.exact_match(references, hypotheses)
    elif spec["metric"] == "agreement":
        values = metrics.agreement(references, hypotheses, [row["kl"] for row in rows], [row["n_tokens"] for row in rows])
    elif spec["metric"] == "accept_rate":
        normalize = normalizer(normalization)
        transcripts = {utt_id: normalize(text) for utt_id, text in read_table(data / "text").items()}
        judgements = judge(rows, transcripts, model, data.parent / CACHE, folder / "judgements.jsonl")
        values = metrics.accept_rate([judgement["verdict"] for judgement in judgements])
        values |= {"judge": model.signature(), "judged_by": sorted({judgement["model"] for judgement in judgements})}
    else:
        raise InputError(f"task {task}: metric '{spec['metric']}' is not one of {', '.join(METRICS)}")
    values |= {"system": config["system"], "task": task, "set": data.name, "metric": spec["metric"],
               "cut_off": sum(row["finish_reason"] in ("length", "thinking") for row in rows)} | done  # fmt: skip
    if "comet" in old and old["comet_texts"] == done.get("texts"):  # another setting has changed, and COMET takes long
        values |= {key: value for key, value in old.items() if key.startswith("comet")}
    write_json(output, values)
    return values


def add_comet(scores: list[dict[str, Any]], exp_dir: Path, data_dir: Path, model: str) -> None:
    """Give the scores of translations their COMET, in place, where it is missing or is of other texts or another model.

    Where it cannot be had, "comet_missing" says why and the other scores stand; a later run fills it in.
    """
    pending: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    sets = []
    for values in (s for s in scores if s["metric"] == "bleu"):
        done = {"comet_model": model, "comet_texts": values["texts"]}
        if weights := comet.weights(model):
            done["comet_weights"] = weights
        if "comet" in values and done.items() <= values.items():
            continue
        folder = exp_dir / "decode" / f"{values['set']}.{values['task']}"
        pending[str(folder)] = values, done
        rows, transcripts = read_jsonl(folder / "hyp.jsonl"), read_table(data_dir / values["set"] / "text")
        hypotheses, references = [row["hypothesis"] for row in rows], [row["reference"] for row in rows]
        sets.append(comet.Translations(str(folder), [transcripts[row["utt_id"]] for row in rows], hypotheses, references))
    if not pending:
        return
    try:
        found = comet.scores(sets, model, exp_dir / "comet.log")
        for score in command.progress(found, len(sets), "COMET", "set"):
            folder = score.pop("name")
            values, done = pending.pop(folder)
            _replace_comet(Path(folder), values, score | done)
    except InputError as e:
        log.info(f"COMET is missing: {e}; then run stage 5 again")
        for folder, (values, _) in pending.items():
            _replace_comet(Path(folder), values, {"comet_missing": str(e)})


def _replace_comet(folder: Path, values: dict[str, Any], new: dict[str, Any]) -> None:
    old = {key: value for key, value in values.items() if key.startswith("comet")}
    if old != new:
        for key in old:
            del values[key]
        values |= new
        write_json(folder / "score.json", values)


def results(system: str, scores: list[dict[str, Any]]) -> str:
    """The experiment's RESULTS.md."""
    lines = [f"# {system}", "", "| task | set | metric | value | beside it | n |", "|---|---|---|---|---|---|"]
    for s in scores:
        if s["metric"] == "wer":
            beside = f"{s['substitutions']} sub, {s['deletions']} del, {s['insertions']} ins; normalizer {s['normalizer']}"
        elif s["metric"] == "bleu":
            beside = f"chrF {s['chrf']:.1f}, copying the source {s['copy']:.1f}; {s['signature']}; chrF {s['chrf_signature']}"
            if "comet" in s:
                beside = f"COMET {s['comet']:.1f}, {beside}; COMET {s['comet_signature']}"
            elif "comet_missing" in s:
                beside = f"COMET missing, {beside}"
        elif s["metric"] == "exact_match":
            beside = f"majority answer {s['majority']:.1f} ({s['majority_label']})"
        elif s["metric"] == "agreement":
            beside = f"chrF {s['chrf']:.1f}, KL {s['kl']:.4f} nats a token; chrF {s['chrf_signature']}"
        elif s["metric"] == "accept_rate":
            request = ", ".join(f"{key} {value}" for key, value in s["judge"]["request"].items())
            beside = f"{s['no_verdict']} answers without a verdict; judge {', '.join(s['judged_by'])} ({request})"
        else:
            majority = f"{s['majority']:.1f} ({s['majority_label']})"
            beside = (f"lenient {s['lenient']:.1f}, no label {s['no_label']:.1f} %, majority class {majority},"
                      f" {s['unlisted']} labels unlisted")  # fmt: skip
        beside = beside.replace("|", r"\|")  # a signature is one cell
        lines.append(f"| {s['task']} | {s['set']} | {METRICS[s['metric']]} | {s[s['metric']]:.1f} | {beside} | {s['n']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
