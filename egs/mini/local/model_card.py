"""README.md of a model that was trained here: what it is, its data, its command, its scores."""

import subprocess
import sys
from pathlib import Path


def git_commit() -> str:
    """The commit of the checkout that this file is in, or "unknown" outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def write_card(folder: Path, title: str, summary: str, data: str, scores: dict[str, dict[str, float]]) -> None:
    """Writes README.md; scores: split -> measure -> value."""
    measures = list(next(iter(scores.values())))
    table = [f"| set | {' | '.join(measures)} |", "|---" * (1 + len(measures)) + "|"]
    table += [f"| {split} | {' | '.join(f'{values[m]:.2f}' for m in measures)} |" for split, values in scores.items()]
    script = Path(sys.argv[0]).name
    command = " ".join(["egs/mini/local/" + script, *(Path(a).name if a.startswith("/") else a for a in sys.argv[1:])])
    text = f"""# {title}

{summary}

- Data: {data}
- Command: `{command}`
- Commit: {git_commit()}
- License: Apache-2.0, like the code that made it.

## Scores

Of the weights as they are saved (bf16). Settings were chosen on dev; test is reported only.

{chr(10).join(table)}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
