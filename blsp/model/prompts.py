"""The one owner of the prompt (Section 3): text and speech prompts differ only in the span of the transcript or speech.

###[Human]:<instruction><transcript or speech>\n\n\n###[Assistant]:<response>
`------- prefix ------'`------ content ------'`----- suffix -----'

In a conversation \n\n\n and the next ###[Human]: follow the response, as in the authors' demonstration.

Control tokens (ends, turns, roles) come from templates alone. In data (transcripts, instructions, responses) their names are
text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.base.files import InputError, file_fingerprint
from blsp.model.thinking import closing_of, is_tag

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUMAN = "###[Human]:"
ASSISTANT = "\n\n\n###[Assistant]:"
TEMPLATE = "template.jinja"  # the copy of a template file in a model's folder
NEXT = "\n\n\n"  # between a response and the next turn
TEMPLATE_DATE = "2024-07-26"  # what templates that ask for today's date are told, unless another one is set
ANCHOR = "a"  # a word's end: what the suffix is tokenized behind
ANCHORS = ("\n", ANCHOR, "0", "。")  # what the rest of a text is tokenized behind, so that it gains no space marker
CONTENT, ANSWER = "\ue000", "\ue001"  # private-use characters that mark the places of content and answer in a chat template
MARKS = range(0xE010, 0xF900)  # others, for the places in a conversation
MARK = re.compile(f"([{chr(MARKS[0])}-{chr(MARKS[-1])}])")
PLAIN = re.compile(r"[\w\s▁'’]*|.", re.DOTALL)  # added tokens that are words, runs of spaces or single characters
DIRECTIVES = tuple(f"%{c}" for c in ("-d", "-m", "-I", "-H", "-M", "-S", *"dmyYbBaAjHIMSpUWwFDTRxXc"))  # of strftime


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the transcript or speech."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def template_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What prompts depend on, beside the LLM's folder, of a configuration: for fingerprints. A file counts by its content."""
    name = config["template"]
    if name in ("paper", "official"):
        return {"template": name}
    if name != "chat" and not Path(name).is_file():
        raise InputError(f"template '{name}' is neither paper, official, chat nor a readable file")
    settings = {"template": name if name == "chat" else file_fingerprint(name)}
    return settings | {key: str(config.get(key) or default) for key, default in OPTIONS.items()}


def saved_template(folder: Path, config: Mapping[str, Any]) -> str:
    """The template that a model's config.json names: the folder's own copy where it was a file."""
    return str(folder / TEMPLATE) if config["template"] == TEMPLATE else config["template"]


OPTIONS = {"system_message": "", "template_date": TEMPLATE_DATE}  # of chat templates, with their defaults


class Prompter:
    """Builds token ids of prompts and responses for one tokenizer and template.

    template: "paper"     Section 3, tokenized as one text would be;
              "official"  the same, but the suffix is tokenized alone and gains a space marker, as in the authors'
                          released code; for their published checkpoint only;
              "chat"      the chat template of the tokenizer;
              a path      a file with a Jinja chat template.
    system_message: text of the system turn; "": none, and the template does what it does without.
    template_date: the day that a chat template is told for today's, YYYY-MM-DD.

    end: token ids that end a response in training: what the template writes behind an assistant's turn up to its control
         token, or the end of sequence where it writes plain text.
    opens_thought: whether the prompt ends with an opened <think>.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "paper",
        system_message: str = "",
        template_date: str | date = TEMPLATE_DATE,
    ):
        self.tokenizer = tokenizer
        self.template, self.system_message, self.template_date = template, system_message or "", str(template_date)
        self.file: str | None = None  # the template's text where it is a file
        self.jinja = self._read_template()  # text of the chat template, None for paper and official
        words = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        words = {i: w for i, w in words.items() if not PLAIN.fullmatch(w) or i in special} | special
        self._words = re.compile("|".join(map(re.escape, sorted(words.values(), key=len, reverse=True))) or "(?!)")
        unknown = tokenizer.unk_token_id  # is what data may become, unless it is an end as well
        self._control = words.keys() - ({unknown} if unknown != tokenizer.eos_token_id else set())
        self.thought_tags = {i for i, word in words.items() if is_tag(word)}
        # SentencePiece marks the start of every text as a word's start; byte-level BPE needs the space itself.
        first = tokenizer.convert_ids_to_tokens(self._ids(ANCHOR)[0])
        self._space = "" if first.startswith("▁") else " "
        self._lead, self._closing, self.opens_thought, end = "", "", False, None
        if self.jinja is not None:
            user = "user", f"{ANCHOR} {CONTENT}"
            self._after = self._shown([*self._system(), user], {CONTENT: ("user", None)}).partition(CONTENT)[2]
            self._closing = closing_of(self._after)
            self.opens_thought = bool(self._closing)
            self._lead, end = self._around_answer()
        if end is None and tokenizer.eos_token_id is None:
            raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
        self.end = (tokenizer.eos_token_id,) if end is None else end

    def prompt(self, instruction: str) -> Prompt:
        """The prompt around a transcript or speech under `instruction`."""
        prefix, suffix = self.conversation([("user", [instruction, None])])
        return Prompt(tuple(prefix), tuple(suffix))

    def conversation(self, turns: Sequence[tuple[str, Sequence[str | None]]]) -> list[list[int]]:
        """Token ids around the speech of a conversation in which the assistant is to speak next.

        turns: (role, parts), user and assistant in turn; before them a system's may stand, in place of system_message. A part
        is a text, or None where speech stands. A user's first text is what prompt() calls the instruction, others content().
        Returns the ids before, between and behind the parts of speech: one run more than there are such parts.
        Raises InputError for turns in another order, and where the template does not show them.
        """
        turns = self._complete(turns)
        inner = [parts[0] for role, parts in turns if role != "assistant" and parts and parts[0]]
        # A template may look at what it is given: it is given data, or marks where data could be taken for control tokens.
        marked = self.jinja is None or any(self._spells_control(text) or MARK.search(text) for text in inner)
        marks = map(chr, MARKS)
        inline: dict[str, str] = {}  # mark -> text that is tokenized together with the template's
        slots: dict[str, tuple[str, str | None]] = {}  # mark -> role, and text that is tokenized alone or None for speech
        shown = []
        for role, parts in turns:
            first, *rest = parts if role != "assistant" and parts and parts[0] is not None else ("", *parts)
            words = [first] if first else []
            if first and marked:
                words = [next(marks)]
                inline[words[0]] = first if self.jinja is None else first.strip()
            for part in rest or [""] * (role != "system"):  # a place without content: what is behind it stays the same
                words.append(next(marks))
                slots[words[-1]] = role, part
            shown.append((role, " ".join(words)))
        text = self._plain(shown) if self.jinja is None else self._shown(shown, slots)
        runs: list[list[int]] = [self._bos() if self.jinja is None else []]
        between = re.split(f"([{''.join(slots)}])", text)
        for i, (run, mark) in enumerate(zip(between[::2], [*between[1::2], None], strict=True)):
            before = run.rstrip(" ") if mark else run
            parts = [(inline.get(part, part), part not in inline) for part in MARK.split(before) if part]
            runs[-1] += self._mixed(parts, behind=i > 0)
            role, content = slots.get(mark, ("", ""))
            if content is None:
                runs.append([])
            elif role == "assistant" and self.jinja is not None and content:
                runs[-1] += self._text(run[len(before) :] + content, behind=parts[-1][0])
            elif content:
                runs[-1] += self.content(content)
        return runs

    def _complete(self, turns: Iterable[tuple[str, Sequence[str | None]]]) -> list[tuple[str, Sequence[str | None]]]:
        """Turns in their right order, with the system's if there is one."""
        turns = list(turns)
        if self.system_message and turns[:1] and turns[0][0] != "system":
            turns.insert(0, ("system", [self.system_message]))
        roles = [role for role, _ in turns]
        system = roles[:1] == ["system"]
        if not roles[system:] or roles[system:] != ["user", "assistant"] * ((len(roles) - system) // 2) + ["user"]:
            order = ", ".join(roles) or "none"
            raise InputError(
                f"turns should be the user's and the assistant's, one by one, and end with the user's; they are: {order}"
            )
        if system and self.jinja is None:
            raise InputError(f"template '{self.template}' has no system turn; leave the system's message out")
        return turns

    def _plain(self, turns: Iterable[tuple[str, str]]) -> str:
        return "".join(f"{text}{NEXT}" if role == "assistant" else f"{HUMAN}{text}{ASSISTANT}" for role, text in turns)

    def _shown(self, turns: Sequence[tuple[str, str]], slots: Mapping[str, tuple[str, str | None]]) -> str:
        """The text of a conversation by a chat template, which shows every mark once."""
        text = self._render(turns, turns[-1][1][-1])
        for mark, (role, _) in slots.items():
            if text.count(mark) != 1:
                times = "does not show" if mark not in text else "shows more than once"
                raise InputError(f"template '{self.template}' {times} the {role}'s content")
        if turns[0][0] == "system" and turns[0][1].strip() not in text:
            raise InputError(f"template '{self.template}' has no system turn; leave system_message empty")
        return text

    def content(self, transcript: str) -> list[int]:
        """Token ids of a transcript, as they stand between prefix and suffix; a space divides it from the instruction."""
        return self._text(self._space + transcript) if transcript else []

    def text_prompt(self, instruction: str, transcript: str) -> list[int]:
        prompt = self.prompt(instruction)
        return [*prompt.prefix, *self.content(transcript), *prompt.suffix]

    def response(self, text: str, ended: bool = True) -> list[int]:
        """Token ids of a response, as they stand behind the prompt; one cut at the limit (`ended` False) has no end."""
        if self.jinja is None:
            ids = self.content(text)
        else:
            # A response that a template would have begun with thought begins with that thought's end.
            ids = self._template_ids(self._closing, self._after) if self._closing else []
            ids += self._text(self._lead + text, behind=self._after + self._closing) if text else []
        return ids + [*self.end] * ended

    def _bos(self) -> list[int]:
        """What the tokenizer puts before a text."""
        alone, whole = self._ids(ANCHOR), self.tokenizer.encode(ANCHOR)
        begins = (i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
        return whole[: next(begins, 0)]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _ids_behind_a_word(self, text: str) -> list[int]:
        ids = self._ids_behind(text, ANCHOR)
        if ids is None:
            raise InputError(f"{self.tokenizer.name_or_path}: the tokenizer merges a word with the text {text!r} behind it")
        return ids

    def _ids_behind(self, text: str, *anchors: str) -> list[int] | None:
        """Token ids of a text as they stand behind the first of `anchors` that it does not merge with."""
        for anchor in anchors:
            before, both = self._ids(anchor), self._ids(anchor + text)
            if before and both[: len(before)] == before:
                return both[len(before) :]
        return None

    def _text(self, text: str, behind: str = "") -> list[int]:
        """Token ids of data without control tokens. Their names are cut within, which leaves text that reads the same."""
        anchors = (behind, *ANCHORS) if behind else ()
        for pieces in ([text], re.split(r"(?<=\0)", self._words.sub(lambda m: f"{m[0][0]}\0{m[0][1:]}", text)), list(text)):
            ids: list[int] = []
            for piece in (piece.rstrip("\0") for piece in pieces):
                found = self._ids_behind(piece, *anchors)
                ids += self._ids(piece) if found is None else found
                anchors = ANCHORS
            anchors = (behind, *ANCHORS) if behind else ()
            if not self._has_control(text if len(pieces) == 1 else "", ids):
                return ids
        return [i for i in ids if i not in self._control]

    def _mixed(self, parts: Sequence[tuple[str, bool]], behind: bool = False) -> list[int]:
        """Token ids of texts that follow one another, each of a template (True) or data (False); behind: a word."""
        behind = behind and self.template != "official"
        if not any(self._spells_control(text) for text, of_template in parts if not of_template):
            text = "".join(text for text, _ in parts)
            return self._ids_behind_a_word(text) if behind else self._ids(text)
        ids: list[int] = []
        for text, of_template in parts:
            if not of_template:
                ids += self._text(text, behind=ANCHORS[0] if ids or behind else "")
            else:
                ids += self._template_ids(text, *ANCHORS) if ids or behind else self._ids(text)
        return ids

    def _template_ids(self, text: str, *anchors: str) -> list[int]:
        ids = self._ids_behind(text, *anchors)
        return self._ids(text) if ids is None else ids

    def _spells_control(self, text: str) -> bool:
        return self._has_control(text, self._ids(text))

    def _has_control(self, text: str, ids: list[int]) -> bool:
        unknown = self.tokenizer.unk_token
        return not self._control.isdisjoint(ids) or (unknown is not None and unknown in text)

    def _read_template(self) -> str | None:
        name = self.tokenizer.name_or_path
        if self.template in ("paper", "official"):
            if self.system_message:
                raise InputError(f"template '{self.template}' has no system turn; leave system_message empty")
            return None
        try:
            day = date.fromisoformat(self.template_date)
        except ValueError:
            raise InputError(f"template_date '{self.template_date}' is not a day as YYYY-MM-DD") from None
        if self.template == "chat":
            if not self.tokenizer.chat_template:
                raise InputError(f"{name}: the tokenizer has no chat template; set template to paper")
            try:
                text = self.tokenizer.get_chat_template()
            except ValueError as e:  # several, and none of them is the default
                raise InputError(f"{name}: {' '.join(str(e).split())}") from None
        else:
            try:
                text = self.file = Path(self.template).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise InputError(f"template '{self.template}' is neither paper, official, chat nor a readable file") from None
        return _fix_date(text, day)

    def _around_answer(self) -> tuple[str, tuple[int, ...] | None]:
        """Space that stands between the prompt and an answer, and the token ids that end its turn (None: plain text does)."""
        try:
            text = self._render([*self._system(), ("user", CONTENT), ("assistant", ANSWER)], CONTENT, prompt=False)
        except InputError:
            return "", None  # a template without an assistant's turn
        before, mark, behind = text.partition(ANSWER)
        if not mark:
            return "", None
        lead = before.partition(CONTENT)[2].removeprefix(self._after)
        lead = "" if lead.strip() else lead  # other text than the prompt's: its end is where the answer begins
        end = self._words.search(behind)
        if end is None or behind[: end.start()].strip():
            return lead, None
        return lead, tuple(self._ids_behind_a_word(behind[: end.end()]))

    def _system(self) -> list[tuple[str, str]]:
        return [("system", self.system_message)] if self.system_message else []

    def _render(self, turns: Sequence[tuple[str, str]], mark: str, prompt: bool = True) -> str:
        """The text of a conversation; a template that does not show `mark` so is given messages that consist of parts.

        prompt: end with what begins the assistant's next turn.
        """
        texts = []
        for as_parts in (False, True):
            messages = [{"role": r, "content": [{"type": "text", "text": t}] if as_parts else t} for r, t in turns]
            try:
                text = self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.jinja,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    enable_thinking=False,  # known to Qwen3, SmolLM3 and others
                    thinking=False,  # to Granite and DeepSeek
                )
            except Exception as e:  # a template is somebody's program: it can fail in any way
                texts.append(f" {' '.join(str(e).split())}")
                continue
            if mark in text:
                return text
            texts.append("")
        if not any(texts):
            return ""  # it shows nothing of the content
        hint = "" if turns[0][0] == "system" else "; where it wants a system turn, set system_message"
        raise InputError(f"template '{self.template}':{next(filter(None, texts))}{hint}")


def _fix_date(template: str, day: date) -> str:
    """The template with strftime_now() telling `day`: prompts are the same tomorrow."""
    if "strftime_now" not in template:
        return template
    told = "".join(f"|replace('{d}', '{day.strftime(d)}')" for d in DIRECTIVES)
    return "{%- macro strftime_now(format) %}{{ format" + told + " }}{% endmacro +%}" + template
