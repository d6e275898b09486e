"""What an LLM thinks before it answers: <think>...</think> and its kin, which is no part of an answer."""

from __future__ import annotations

import re

NAMES = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
OPENED = re.compile(rf"<{NAMES}>|\[THINK\]|◁think▷")
CLOSED = re.compile(rf"</{NAMES}>|\[/THINK\]|◁/think▷")
BLOCK = re.compile(rf"(?:{OPENED.pattern})(?:(?!{OPENED.pattern}).)*?(?:{CLOSED.pattern})", re.DOTALL)


def answer_of(text: str, opened: bool = False) -> tuple[str, bool]:
    """The answer in what an LLM has written, and whether it has come to none because it was still thinking.

    opened: its prompt ends with the opening tag, which its text then lacks. Such an LLM has not answered before it closes.
    """
    if opened and not CLOSED.search(text):
        return "", True
    while BLOCK.search(text):
        text = BLOCK.sub("", text)
    *_, last = CLOSED.split(text)  # a closing tag whose opening one stood in the prompt
    if OPENED.search(last):
        return "", True
    return last.strip(), False


def closing_of(prompt: str) -> str:
    """What closes the thought that a prompt has opened at its end; "" where there is none."""
    *_, last = CLOSED.split(prompt)
    opened = OPENED.findall(last)
    return re.sub(r"^[<\[◁]", lambda m: f"{m[0]}/", opened[-1]) + "\n\n" if opened else ""


def is_tag(token: str) -> bool:
    return bool(OPENED.fullmatch(token) or CLOSED.fullmatch(token))
