"""An LLM that is asked: an OpenAI-compatible server over HTTP, or a model that runs here. What it said is kept on disk.

reads, writes  a cache of JSON lines: {"key", "text", "finish_reason", "model"}, one for each request that was ever answered
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from blsp.base import command
from blsp.base.files import InputError, fingerprint, model_fingerprint
from blsp.model.prompts import template_settings
from blsp.model.thinking import answer_of

CACHE = "chat_cache.jsonl"  # its name; it lies in DATA_DIR, for all experiments
LONGEST_WAIT = 60.0  # seconds between two attempts
PASSING = (408, 409, 425, 429)  # statuses that another attempt may not meet; so are all from 500
log = command.logger("chat_client")


@dataclass(frozen=True)
class ChatModel:
    """Which LLM is asked, and how."""

    base_url: str  # of an OpenAI-compatible server, such as http://localhost:8000/v1; "": `model` runs here
    model: str  # as the server calls it; a folder or hub name where it runs here
    api_key_env: str  # environment variable that holds the server's key; "": none is sent
    template: str  # of a model that runs here: paper | official | chat | a file (see blsp.model.prompts)
    request: Mapping[str, Any]  # sent with each message: temperature, max_tokens, ...
    concurrency: int  # requests at a time; where the model runs here, its batch
    timeout: float  # seconds that a request may take
    retries: int  # attempts after the first

    @classmethod
    def from_settings(cls, name: str, settings: Mapping[str, Any]) -> ChatModel:
        """Of the configuration's block `name`. Raises InputError for keys and values that mean nothing."""
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping) or sorted(settings) != sorted(known):
            raise InputError(f"{name}: its keys should be {', '.join(known)}")
        numbers = [settings[key] for key in ("concurrency", "timeout", "retries")]
        if not all(isinstance(n, (int, float)) for n in numbers) or not isinstance(settings["request"], Mapping):
            raise InputError(f"{name}: concurrency, timeout and retries are numbers, request is a mapping")
        if settings["base_url"] and not str(settings["base_url"]).startswith(("http://", "https://")):
            raise InputError(f"{name}.base_url: '{settings['base_url']}' should begin with http:// or https://, or be ''")
        if settings["concurrency"] < 1 or settings["timeout"] <= 0 or settings["retries"] < 0:
            raise InputError(f"{name}: concurrency is at least 1, timeout above 0, retries at least 0")
        max_tokens = settings["request"].get("max_tokens")
        greedy = isinstance(max_tokens, int) and settings["request"] == {"max_tokens": max_tokens, "temperature": 0}
        if not settings["base_url"] and not greedy:
            raise InputError(f"{name}.request: a model that runs here is greedy; write {{temperature: 0.0, max_tokens: N}}")
        return cls(**settings)

    def signature(self) -> dict[str, Any]:
        """What its answers depend on. Where a server stands is no part of it, nor how fast it is asked."""
        signature: dict[str, Any] = {"model": self.model, "request": dict(self.request)}
        if not self.base_url:
            signature |= {**template_settings({"template": self.template}), "weights": model_fingerprint(self.model)}
        return signature


@dataclass(frozen=True)
class Reply:
    text: str
    finish_reason: str  # stop | length | thinking (no answer in it) | what else the server says
    model: str  # as the server names what answered: often a dated version of what was asked for


class Cache:
    """Replies by content, appended as they come; a line torn by a kill is as if it had never been written."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.lock = threading.Lock()
        self.replies: dict[str, Reply] = {}
        with suppress(FileNotFoundError), open(self.path, encoding="utf-8", errors="replace", newline="\n") as f:
            for line in f:
                try:
                    row = json.loads(line)
                    key = row.pop("key")
                    self.replies[key] = Reply(**row)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply for good; threads and processes may share the file."""
        line = json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n"
        with self.lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b", buffering=0) as f:
                torn = f.tell() and os.pread(f.fileno(), 1, f.tell() - 1) != b"\n"
                f.write(b"\n" * bool(torn) + line.encode("utf-8", "replace"))  # in one piece, between others' lines
                os.fsync(f.fileno())
            self.replies[key] = reply


def ask(model: ChatModel, prompts: Sequence[str], cache: Cache, title: str) -> list[Reply]:
    """The model's reply to each prompt, a user's message of its own. What the cache holds is not asked again.

    Raises InputError where the server does not answer, or refuses; replies that have come until then are kept.
    """
    signature = model.signature()
    keys = [fingerprint([signature, [{"role": "user", "content": prompt}]]) for prompt in prompts]
    wanted = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in cache.replies}
    if wanted:
        replies = _from_server(model, wanted, cache) if model.base_url else _from_here(model, wanted, cache)
        for _ in command.progress(replies, len(wanted), title, "request"):
            pass
    log.info(f"{title}: {len(wanted)} requests to {model.model}, {len(set(keys)) - len(wanted)} answers were there")
    return [_without_thought(cache.replies[key]) for key in keys]


def _without_thought(reply: Reply) -> Reply:
    """The reply's answer. One that was cut off before has none, and its finish reason is thinking."""
    text, thinking = answer_of(reply.text)
    return replace(reply, text=text, finish_reason="thinking" if thinking else reply.finish_reason)


def _from_server(model: ChatModel, wanted: Mapping[str, str], cache: Cache) -> Iterator[str]:
    """Ask for all that is wanted, several at a time; yields a key when its reply is in the cache."""
    server = _Server(model)

    def work(key: str) -> str:
        cache.put(key, server.ask(wanted[key]))  # by the thread: a reply that was paid for is kept if another one fails
        return key

    with ThreadPoolExecutor(model.concurrency) as pool:
        try:
            for future in as_completed([pool.submit(work, key) for key in wanted]):
                yield future.result()
        finally:
            server.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: it would carry the key to another place."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Server:
    """The chat completions of an OpenAI-compatible server."""

    def __init__(self, model: ChatModel):
        self.model = model
        self.url = f"{model.base_url.rstrip('/')}/chat/completions"
        self.headers = {"Content-Type": "application/json", "User-Agent": "blsp"}
        if model.api_key_env:
            key = os.environ.get(model.api_key_env, "").strip()
            if not key:
                raise InputError(f"{model.base_url}: its key should be in the environment variable {model.api_key_env}, which"
                                 " is empty; export it, or set api_key_env to '' for a server that wants none")  # fmt: skip
            self.headers["Authorization"] = f"Bearer {key}"
        self.opener = urllib.request.build_opener(_NoRedirects)
        self.stopped = threading.Event()
        self.answered = False

    def ask(self, prompt: str) -> Reply:
        """The reply to one message, attempted again after failures that pass."""
        body = {"model": self.model.model, "messages": [{"role": "user", "content": prompt}], **self.model.request}
        data = json.dumps(body).encode()
        for attempt in range(self.model.retries + 1):
            wait = min(LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)  # apart, so that all do not come back at once
            try:
                request = urllib.request.Request(self.url, data, self.headers)
                with self.opener.open(request, timeout=self.model.timeout) as response:
                    reply = self._reply(response.read())
                self.answered = True
                return reply
            except urllib.error.HTTPError as e:
                trouble = f"status {e.code}, {_said(e)}"
                if e.code not in PASSING and e.code < 500:
                    raise InputError(f"{self.url}: refuses model '{self.model.model}' ({trouble}); see base_url, model,"
                                     " api_key_env and request of the configuration") from None  # fmt: skip
                wait = min(LONGEST_WAIT, max(wait, _seconds(e.headers.get("Retry-After"))))
            except (OSError, http.client.HTTPException) as e:  # URLError and timeouts are OSErrors
                cause = getattr(e, "reason", e)
                trouble = str(cause) or type(cause).__name__
                if isinstance(cause, (ConnectionRefusedError, socket.gaierror)) and not self.answered:
                    break  # nobody is there; of a server that has answered, it may be a restart
            if attempt < self.model.retries and self.stopped.wait(wait):
                break
        raise InputError(f"{self.url}: no answer, {attempt + 1} times ({' '.join(trouble.split())}); start the server or set"
                         " base_url to where it is, then run the same command again")  # fmt: skip

    def _reply(self, data: bytes) -> Reply:
        try:
            answer = json.loads(data)
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""  # null where the server has held it back
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            what = " ".join(data[:80].decode("utf-8", "replace").split())
            raise InputError(f"{self.url}: is no OpenAI-compatible server: its answer begins {what!r}") from None
        text = text.encode("utf-8", "replace").decode()  # JSON can hold half a character, which no file can
        return Reply(text, str(choice.get("finish_reason")), str(answer.get("model") or self.model.model))


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in one line."""
    with suppress(OSError, http.client.HTTPException):
        text = error.read(4096).decode("utf-8", "replace")
        with suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]["message"]
        return " ".join(str(text).split())[:200] or str(error.reason)
    return str(error.reason)


def _seconds(retry_after: str | None) -> float:
    """The header Retry-After, seconds or a date, in seconds from now."""
    with suppress(TypeError, ValueError):
        return float(retry_after or 0)
    with suppress(TypeError, ValueError):
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    return 0.0


def _from_here(model: ChatModel, wanted: Mapping[str, str], cache: Cache) -> Iterator[str]:
    """Let a model of this machine answer, greedy; yields a key when its reply is in the cache."""
    import torch  # which a server needs not

    from blsp.model import generation
    from blsp.model.llm import choose_dtype, load_llm
    from blsp.model.prompts import Prompter

    device = command.device()
    llm = load_llm(model.model, choose_dtype("auto", device), device)
    prompter = Prompter(llm.tokenizer, model.template)
    decoding = generation.Decoding(max_new_tokens=model.request["max_tokens"])
    keys = list(wanted)
    with torch.inference_mode():
        for cut in generation.length_batches([len(wanted[key]) for key in keys], model.concurrency):
            batch = [keys[i] for i in cut]
            prompts = [llm.embed(prompter.text_prompt(wanted[key], "")) for key in batch]
            for key, g in zip(batch, generation.generate(llm, prompter, prompts, decoding, batch), strict=True):
                cache.put(key, Reply(g.text, g.finish_reason, model.model))
                yield key
