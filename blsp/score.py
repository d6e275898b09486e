"""Stage 5: score the hypotheses and write the table of the experiment.

reads   EXP_DIR/decode/SET.TASK/hyp.jsonl, DATA_DIR/SET/text
writes  EXP_DIR/decode/SET.TASK/score.json, EXP_DIR/RESULTS.md
and, where a task's metric is accept_rate (Appendix C), lets the configuration's `judge` read the answers:
writes  EXP_DIR/decode/SET.TASK/judgements.jsonl, DATA_DIR/chat_cache.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blsp import command, metrics
from blsp.chat_client import CACHE, ChatModel
from blsp.config import load_config, program_arguments, require
from blsp.data_dir import read_table
from blsp.files import InputError, atomic_write, file_fingerprint, fingerprint, read_json, read_jsonl, write_json
from blsp.judging import LISTING_2, judge
from blsp.normalization import normalizer
from blsp.questions import Questions
from blsp.tasks import present_sets

log = command.logger("score")
METRICS = {"wer": "WER", "bleu": "BLEU", "accuracy": "accuracy", "accept_rate": "accept rate"}


def main() -> None:
    args = program_arguments("blsp.score", __doc__, "exp_dir").parse_args()
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
    table = results(config["system"], scores)
    with atomic_write(args.exp_dir / "RESULTS.md") as f:
        f.write(table)
    log.info(table)


def score(folder: Path, data: Path, task: str, spec: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Scores of one set and task, computed anew if the hypotheses or the settings have changed."""
    hyp = folder / "hyp.jsonl"
    if not hyp.exists():
        raise InputError(f"{hyp}: is missing; run stage 4")
    depends = [spec, config["scoring_normalizer"], config["system"], file_fingerprint(hyp)]
    if spec["metric"] == "accept_rate":
        require(config, "judge", "questions")
        model = ChatModel.from_settings("judge", config["judge"])
        normalization = Questions.from_settings(config["questions"]).normalizer
        depends += [model.signature(), LISTING_2, normalization, file_fingerprint(data / "text")]
    done = fingerprint(depends)
    output = folder / "score.json"
    if output.exists() and (old := read_json(output)).get("fingerprint") == done:
        return old
    rows = read_jsonl(hyp)
    references, hypotheses = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    if spec["metric"] == "wer":
        values = metrics.word_error_rate(references, hypotheses, config["scoring_normalizer"])
    elif spec["metric"] == "bleu":
        transcripts = read_table(data / "text")
        sources = [transcripts[row["utt_id"]] for row in rows]
        values = metrics.bleu(references, hypotheses, sources, spec["reference"].rpartition(".")[2])
    elif spec["metric"] == "accuracy":
        values = metrics.accuracy(references, hypotheses, spec["labels"])
    elif spec["metric"] == "accept_rate":
        normalize = normalizer(normalization)
        transcripts = {utt_id: normalize(text) for utt_id, text in read_table(data / "text").items()}
        judgements = judge(rows, transcripts, model, data.parent / CACHE, folder / "judgements.jsonl")
        values = metrics.accept_rate([judgement["verdict"] for judgement in judgements])
        values |= {"judge": model.signature(), "judged_by": sorted({judgement["model"] for judgement in judgements})}
    else:
        raise InputError(f"task {task}: metric '{spec['metric']}' is not one of {', '.join(METRICS)}")
    values |= {"system": config["system"], "task": task, "set": data.name, "metric": spec["metric"],
               "cut_off": sum(row["finish_reason"] == "length" for row in rows), "fingerprint": done}  # fmt: skip
    write_json(output, values)
    return values


def results(system: str, scores: list[dict[str, Any]]) -> str:
    """The experiment's RESULTS.md."""
    lines = [f"# {system}", "", "| task | set | metric | value | beside it | n |", "|---|---|---|---|---|---|"]
    for s in scores:
        if s["metric"] == "wer":
            beside = f"{s['substitutions']} sub, {s['deletions']} del, {s['insertions']} ins; normalizer {s['normalizer']}"
        elif s["metric"] == "bleu":
            beside = f"chrF {s['chrf']:.1f}, copying the source {s['copy']:.1f}; {s['signature']}"
        elif s["metric"] == "accept_rate":
            request = ", ".join(f"{key} {value}" for key, value in s["judge"]["request"].items())
            beside = f"{s['no_verdict']} answers without a verdict; judge {', '.join(s['judged_by'])} ({request})"
        else:
            beside = (f"lenient {s['lenient']:.1f}, no label {s['no_label']:.1f} %, majority class {s['majority']:.1f},"
                      f" {s['unlisted']} labels unlisted")  # fmt: skip
        lines.append(f"| {s['task']} | {s['set']} | {METRICS[s['metric']]} | {s[s['metric']]:.1f} | {beside} | {s['n']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
