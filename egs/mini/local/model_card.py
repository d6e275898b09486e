"""README.md of a model that was trained here: what it is, its data, its command, its scores."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """The commit of the checkout that this file is in, or "unknown" outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def write_card(
    folder: Path, title: str, summary: str, data: str, scores: dict[str, dict[str, float]], made_by: str = ""
) -> None:
    """Writes README.md; scores: set -> measure -> value; made_by: the command, this program's own if empty."""
    names = list(scores)
    table = [f"| measure | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    table += [f"| {m} | {' | '.join(f'{scores[name][m]:.2f}' for name in names)} |" for m in scores[names[0]]]
    text = f"""# {title}

{summary}

- Data: {data}
- Command: `./egs/mini/run.sh --from-scratch`
- Commit: {git_commit()}
- License: Apache-2.0, like the code that made it.

## Scores

Of the weights as they are saved (bf16). Settings were chosen on dev; test is reported only.

{chr(10).join(table)}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
