"""The one owner of the prompt (Section 3): text and speech prompts differ only in the span of the transcript or speech.

###[Human]:<instruction><transcript or speech>\n\n\n###[Assistant]:<response>
`------- prefix ------'`------ content ------'`----- suffix -----'
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from blsp.base.files import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUMAN = "###[Human]:"
ASSISTANT = "\n\n\n###[Assistant]:"
ANCHOR = "a"  # a word's end: what the suffix is tokenized behind
CONTENT = "\ue000"  # private-use character that marks the content in a rendered chat template


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the transcript or speech."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


class Prompter:
    """Builds token ids of prompts and responses for one tokenizer and template.

    template: "paper"     Section 3, tokenized as one text would be;
              "official"  the same, but the suffix is tokenized alone and gains a space marker, as in the authors'
                          released code; for their published checkpoint only;
              "chat"      the chat template of the tokenizer;
              a path      a file with a Jinja chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = "paper"):
        self.tokenizer = tokenizer
        self.template = template
        if tokenizer.eos_token_id is None:
            raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
        # SentencePiece marks the start of every text as a word's start; byte-level BPE needs the space itself.
        first = tokenizer.convert_ids_to_tokens(self._ids(ANCHOR)[0])
        self._space = "" if first.startswith("▁") else " "
        self._jinja: str | None = None
        if template not in ("paper", "official", "chat"):
            try:
                self._jinja = Path(template).read_text(encoding="utf-8")
            except OSError:
                raise InputError(f"template '{template}' is neither paper, official, chat nor a readable file") from None
        elif template == "chat" and not tokenizer.chat_template:
            raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; set template to paper")

    def prompt(self, instruction: str) -> Prompt:
        """The prompt around a transcript or speech under `instruction`."""
        if self.template in ("paper", "official"):
            suffix = self._ids(ASSISTANT) if self.template == "official" else self._ids_behind_a_word(ASSISTANT)
            return Prompt((*self._bos(), *self._ids(HUMAN + instruction)), tuple(suffix))
        before, after = self._render(instruction)
        return Prompt(tuple(self._ids(before)), tuple(self._ids_behind_a_word(after)))

    def content(self, transcript: str) -> list[int]:
        """Token ids of a transcript, as they stand between prefix and suffix; a space divides it from the instruction."""
        return self._ids(self._space + transcript) if transcript else []

    def text_prompt(self, instruction: str, transcript: str) -> list[int]:
        prompt = self.prompt(instruction)
        return [*prompt.prefix, *self.content(transcript), *prompt.suffix]

    def response(self, text: str, ended: bool = True) -> list[int]:
        """Token ids of a response; one that stopped at the token limit (`ended` False) gets no end of sequence."""
        return self.content(text) + [self.tokenizer.eos_token_id] * ended

    def _bos(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _ids_behind_a_word(self, text: str) -> list[int]:
        anchor, both = self._ids(ANCHOR), self._ids(ANCHOR + text)
        if both[: len(anchor)] != anchor:
            raise InputError(f"{self.tokenizer.name_or_path}: the tokenizer merges a word with the text {text!r} behind it")
        return both[len(anchor) :]

    def _render(self, instruction: str) -> tuple[str, str]:
        message = {"role": "user", "content": f"{instruction} {CONTENT}"}
        try:
            text = self.tokenizer.apply_chat_template(
                [message], chat_template=self._jinja, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as e:
            raise InputError(f"template '{self.template}': {' '.join(str(e).split())}") from None
        before, mark, after = text.partition(CONTENT)
        if not mark:
            raise InputError(f"template '{self.template}' does not show the user's content")
        return before.rstrip(" "), after
