"""The table at the end: all systems and tasks, for voices of the training set and for others; after --full the paper's too.

reads   EXP_DIR/seed*/SYSTEM/decode/SET.TASK/{score.json,hyp.jsonl}
writes  OUT/results.jsonl, OUT/RESULTS.md; prints the latter
"""

import statistics
from pathlib import Path

import record
from record import COMMAND, Rows, cell

from blsp.base import command
from blsp.base.files import InputError, atomic_write, fingerprint, read_json, read_jsonl, write_json
from blsp.evaluation import records, tables

SYSTEMS = {"text_llm": "Text+LLM", "whisper_llm": "Whisper+LLM", "ctc_llm": "CTC+LLM", "asr_pretrain": "ASR pretraining",
           "blsp": "BLSP", "blsp_rp": "BLSP+RP", "blsp_kd": "BLSP-KD", "blsp_de": "BLSP, German too"}  # fmt: skip
TASKS = {"asr": "repeating (WER)", "st_de": "into German (BLEU)", "st_fr": "into French (BLEU)", "st_zh": "into Chinese (BLEU)",
         "ic": "intent (%)", "sa": "sentiment (%)", "qa": "questions (%)"}  # fmt: skip
BESIDE = (("the tiny Whisper's own", "whisper_llm", "transcript"), ("the CTC recognizer's own", "ctc_llm", "transcript"),
          ("ASR pretraining's under a transcription instruction", "asr_pretrain", "asr_transcribe"))  # fmt: skip
SETS = {"test_clean": "seen voices", "test_other": "unseen voices"}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--time", action="append", default=[], metavar="STEP=SECONDS", help="how long a step took")
    args = parser.parse_args()
    out = args.out or args.exp_dir
    found, lines = record.update(args.exp_dir, out, args.changed)
    done = [row for row in found if row["seed"] == args.seed and row["set"].startswith("librispeech/")]
    if not done:
        raise InputError(f"{args.exp_dir}: has no scores; run stages 0 to 5")
    times_path = args.exp_dir / f"seed{args.seed}" / "times.json"
    seen = read_json(times_path) if times_path.exists() else {}
    made = fingerprint([(row["fingerprint"], row["value"]) for row in done])
    if seen.get("fingerprint") != made:
        seen = {"fingerprint": made, "seconds": add_up(args.time)}
        write_json(times_path, seen)
    else:
        print(f"nothing was left to do; scores are as before: {out / 'RESULTS.md'}")
    line = f"{COMMAND} --seed {args.seed} {args.changed}".rstrip()
    text = report(lines, line, seen["seconds"]) + findings(lines) + examples(args.exp_dir / f"seed{args.seed}") + papers(lines)
    with atomic_write(out / "RESULTS.md") as f:
        f.write(text)
    print(f"\n{text}")
    print(f"curves and examples: tensorboard --logdir {args.exp_dir}")


def add_up(times: list[str]) -> dict[str, int]:
    total: dict[str, int] = {}
    for time in times:
        step, _, seconds = time.partition("=")
        total[step] = total.get(step, 0) + int(seconds)
    return total


def value(rows: Rows, system: str, task: str, name: str, key: str = "value") -> list[float]:
    """Of all seeds, in their order."""
    place = records.place(records.named(f"librispeech/{name}.{task}", {}))
    return [r[key] for r in rows if r["system"] == system and records.place(r) == place and key in r]


def report(rows: Rows, line: str, seconds: dict[str, int]) -> str:
    """The table of the layout of LibriSpeech. line: the command of this run."""
    rows = [r for r in rows if r["set"].startswith("librispeech/")]
    seeds = sorted({r["seed"] for r in rows})
    commits = ", ".join(sorted({str(r["commit"]) for r in rows}))
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation of seeds {', '.join(map(str, seeds))}"
    n = max(r["n"] for r in rows)
    signature = " and ".join(sorted({r["signature"] for r in rows if r["metric"] == "bleu"}))

    def both(system: str, task: str, key: str = "value", first: bool = False) -> str:
        """Scores for seen and for unseen voices."""
        return " / ".join(cell(value(rows, system, task, s, key)[: 1 if first else None]) for s in SETS)

    scored = {r["system"] for r in rows}
    table = [["system", *TASKS.values()]]
    table += [[title, *(both(system, task) for task in TASKS)] for system, title in SYSTEMS.items() if system in scored]
    baseline = ["majority label; source copied"]
    baseline += [both("text_llm", t, {"asr": "none"}.get(t, "copy" if t.startswith("st") else "majority"), True) for t in TASKS]
    table.append(baseline)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    head = ["# The mini world", "", f"`{line}`, commit {commits}; {told};", f"{n} utterances per cell:"
            " first with voices of the training set, then with voices, speeds and pitches that it has not.", ""]  # fmt: skip
    beside = [
        f"{name} {both(system, task, first=system == 'whisper_llm')}" for name, system, task in BESIDE if system in scored
    ]
    tail = (
        ["", f"WER beside the table: {'; '.join(beside)}. BLEU: {signature}.", ""]
        if beside
        else ["", f"BLEU: {signature}.", ""]
    )
    if seconds:
        listed = ", ".join(f"{step} {s} s" for step, s in seconds.items())
        tail += [f"Time: {sum(seconds.values()) / 60:.1f} minutes ({listed}).", ""]
    return "\n".join([*head, *lines, *tail])


def mean(rows: Rows, system: str, task: str, key: str = "value") -> float:
    """Over seen and unseen voices and the rows' seeds."""
    return statistics.mean(v for name in SETS for v in value(rows, system, task, name, key))


def findings(rows: Rows) -> str:
    """Which of the paper's findings show, by the seeds of which all systems are scored; empty where there are none."""
    whole = [
        seed for seed in sorted({r["seed"] for r in rows}) if set(SYSTEMS) <= {r["system"] for r in rows if r["seed"] == seed}
    ]
    if not whole:
        return ""
    rows = [r for r in rows if r["seed"] in whole]
    followed = [task for task in TASKS if task != "asr"]
    name = {task: title.partition(" (")[0] for task, title in TASKS.items()}

    def against(system: str, other: str) -> str:
        return ", ".join(f"{name[t]} {mean(rows, system, t):.0f} against {mean(rows, other, t):.0f}" for t in followed)

    share = {t: mean(rows, "blsp", t) / mean(rows, "whisper_llm", t) for t in followed}
    worst = min(followed, key=lambda t: share[t])
    lost = [t for t in followed if 2 * mean(rows, "asr_pretrain", t) <= mean(rows, "blsp", t)]
    chance = ", ".join(f"{name[t]} {mean(rows, 'text_llm', t, 'majority'):.0f}" for t in followed if not t.startswith("st"))
    wer = {s: mean(rows, s, "asr") for s in ("blsp", "blsp_rp", "blsp_kd")}
    hearing = ("whisper_llm", "ctc_llm", "blsp")
    first = {t: (min if t == "asr" else max)(hearing, key=lambda system, task=t: mean(rows, system, task)) for t in TASKS}
    taught = [t for t in followed if mean(rows, "blsp_kd", t) > mean(rows, "blsp", t)]
    table = [
        ["finding", "here", "shows"],
        ["---"] * 3,
        [
            "BLSP follows all instructions zero-shot: within 10 % of Whisper+LLM",
            against("blsp", "whisper_llm"),
            f"{'yes' if share[worst] >= 0.9 else 'not wholly'}: {100 * share[worst]:.0f} % at least ({name[worst]})",
        ],
        [
            "ASR pretraining loses instruction following: at most half of BLSP's",
            f"{against('asr_pretrain', 'blsp')}; the majority label: {chance}",
            "yes" if lost == followed else f"in {len(lost)} of {len(followed)} tasks",
        ],
        [
            "BLSP+RP repeats better than BLSP",
            f"WER {wer['blsp_rp']:.2f} against {wer['blsp']:.2f}",
            "yes" if wer["blsp_rp"] < wer["blsp"] else "no",
        ],
        [
            "Whisper+LLM is ahead of CTC+LLM and BLSP",
            ", ".join(f"{name[t]}: {SYSTEMS[first[t]]} first" for t in TASKS),
            "yes" if set(first.values()) == {"whisper_llm"} else "not everywhere",
        ],
        [
            "not in the paper: BLSP-KD after as many steps as BLSP",
            f"WER {wer['blsp_kd']:.2f} against {wer['blsp']:.2f}, {against('blsp_kd', 'blsp')}",
            f"better in {len(taught)} of {len(followed)} tasks",
        ],
    ]
    lines = ["\n## The paper's findings in miniature\n", f"Means over both sets; seed {', '.join(map(str, whole))}.\n"]
    last = "\nASR pretraining in front of an LLM that does not refuse, and what was tried: [TRIED.md](TRIED.md).\n"
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table), last])


def papers(lines: Rows) -> str:
    """The paper's tables, as a section; empty where only the layout of LibriSpeech has scores."""
    if all(line["set"].startswith("librispeech/") or line["system"] == "blsp" for line in lines):
        return ""
    layout = record.layout()
    text = tables.report(layout, lines, [], tables.reasons(layout, lines))
    return "\n" + text.replace("\n## ", "\n### ").replace("# ", "## ", 1)


def examples(exp: Path) -> str:
    """Three utterances of each task: what BLSP wrote from unseen voices, beside the reference."""
    lines = ["\n## What BLSP writes from speech (unseen voices)\n"]
    for task, title in TASKS.items():
        hyp = exp / "blsp" / "decode" / f"test_other.{task}" / "hyp.jsonl"
        if not hyp.exists():
            continue
        shown = read_jsonl(hyp)[:3]
        asked = len({row["instruction"] for row in shown}) > 1
        lines.append(f"\n{title.partition(' (')[0]}{'' if asked else ': *' + shown[0]['instruction'] + '*'}\n")
        lines += ["| question | reference | BLSP |", "|---|---|---|"] if asked else ["| reference | BLSP |", "|---|---|"]
        for row in shown:
            reference = row["reference"].lower() if task == "asr" else row["reference"]
            lines.append("| " + " | ".join([row["instruction"]] * asked + [reference, row["hypothesis"]]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
