"""General-purpose QA: chosen transcripts, a question about each, answers under them, a judge; nothing is asked twice."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, World, call, mtimes, plain_llm, run_program
from transformers.utils.import_utils import is_serve_available

from blsp.base.config import load_config
from blsp.base.files import InputError, read_json, read_jsonl
from blsp.data.data_dir import read_table, write_table
from blsp.data.normalization import normalizer
from blsp.data.tasks import instruction_of
from blsp.evaluation import metrics
from blsp.model.adapter import Adapter
from blsp.model.blsp import BLSP
from blsp.model.encoder import SpeechEncoder
from blsp.model.llm import load_llm
from blsp.model.prompts import Prompter
from blsp.qa import chat_client
from blsp.qa.chat_client import Cache, ChatModel, Reply, ask
from blsp.qa.judging import LISTING_2, parse_verdict
from blsp.qa.questions import LISTING_1, Questions, parse_question, select

os.environ["NO_PROXY"] = "127.0.0.1"
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
REQUEST = {"temperature": 0.0, "max_tokens": 8}


class Script:
    """A chat server's behaviour, and what it was asked."""

    def __init__(self, answer: Callable[[str], str] = str.upper):
        self.answer = answer
        self.failures: list[tuple[int, dict[str, str]] | str] = []  # of the next requests: status and headers, drop, garbage
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {"base_url": self.url, "model": "tiny", "api_key_env": "", "template": "chat", "request": REQUEST,
                "concurrency": 3, "timeout": 20.0, "retries": 4} | changes  # fmt: skip

    def model(self, **changes: Any) -> ChatModel:
        return ChatModel.from_settings("judge", self.settings(**changes))


@contextmanager
def serving(script: Script) -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.requests.append({"path": self.path, **body})
            script.keys.append(self.headers["Authorization"])
            failure = script.failures.pop(0) if script.failures else None
            if failure == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, headers = failure if isinstance(failure, tuple) else (200, {})
            message = {"role": "assistant", "content": script.answer(body["messages"][0]["content"])} if status == 200 else None
            answer = {"model": "tiny-0001", "choices": [{"message": message, "finish_reason": "stop"}]}
            data = json.dumps(answer if message else {"error": {"message": "no\nway"}}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"<html>" if failure == "garbage" else data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script()) as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited between attempts; nobody really waits."""
    waited: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", _noting(waited, threading.Event.wait))
    return waited


def _noting(waited: list[float], wait: Callable[..., bool]) -> Callable[..., bool]:
    def noted(self: threading.Event, timeout: float | None = None) -> bool:
        if sys._getframe(1).f_code.co_filename != chat_client.__file__:
            return wait(self, timeout)
        waited.append(timeout or 0.0)
        return self.is_set()

    return noted


# --- listings, selection, parsing -----------------------------------------------------------------------------------------


def test_the_prompts_are_the_papers() -> None:
    lines = LISTING_1.split("\n")
    assert lines[:3] == [
        "Please ask a question about the input and then answer the question based on the",
        "input. The output format should be in json and contains question and the response.",
        "Example:",
    ]
    assert lines[6:8] == [
        'output: {"question": "What is the video about?", "answer": "the video is about how to',
        'wash your car um with a baby."}',
    ]
    assert lines[-4:] == [
        'output: {"question": "Where did the incident occur?", "answer": "Gibraltar Strait."}',
        "BEGIN:",
        "input: ${transcript}",
        "output:",
    ]
    assert LISTING_2.split("\n") == [
        "Given a question, related input, and answer, please help determine whether the",
        "answer is acceptable.",
        "The output choose from acceptable or unacceptable.",
        "Question: ${question}",
        "Input: ${transcript}",
        "Answer: ${answer}",
        "Your output:",
    ]


def test_transcripts_of_40_to_60_words_are_chosen() -> None:
    text = {f"u{n}": " ".join(["WORD"] * n) for n in (0, 1, 39, 40, 41, 59, 60, 61, 100)}
    assert list(select(text, 40, 60)) == ["u40", "u41", "u59", "u60"]


@pytest.mark.parametrize(
    ("reply", "question", "answer"),
    [
        ('{"question": "Where?", "answer": "At sea."}', "Where?", "At sea."),
        ('{"question": "Where?", "response": "At sea."}', "Where?", "At sea."),
        ('Sure!\n```json\n{"question": "Where\n is it?",\n "answer": "a"}\n```', "Where is it?", "a"),
        ('{not json} {"question": "Why {so}?"} more }', "Why {so}?", ""),
        ('{"question": "Cut off', "", ""),
        ('{"question": ""}', "", ""),
        ('{"question": 3, "answer": "x"}', "", ""),
        ("Question: where?", "", ""),
        ("", "", ""),
        ("{" * 5000, "", ""),
    ],
)
def test_a_question_is_taken_from_json_only(reply: str, question: str, answer: str) -> None:
    assert parse_question(reply) == (question, answer)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("acceptable", "acceptable"),
        ("Unacceptable.", "unacceptable"),
        ("**Acceptable** - it does not say where, but names the place.", "acceptable"),
        ("Your output: unacceptable", "unacceptable"),
        ("The answer is acceptable, as the input says so.", "acceptable"),
        ("Not acceptable", None),
        ("The answer is not acceptable.", None),
        ("acceptable or unacceptable", None),
        ("Acceptable? No.", None),
        ("I would say that it is acceptable", None),
        ("unacceptably so", None),
        ("", None),
    ],
)
def test_a_verdict_is_never_guessed(reply: str, verdict: str | None) -> None:
    assert parse_verdict(reply) == verdict


def test_accept_rate_counts_what_has_no_verdict_apart() -> None:
    values = metrics.accept_rate(["acceptable", None, "unacceptable", "acceptable", None])
    assert values == {"accept_rate": pytest.approx(200 / 3), "n": 3, "accepted": 2, "no_verdict": 2}
    with pytest.raises(InputError, match="none of 2 replies"):
        metrics.accept_rate([None, None])


# --- asking ---------------------------------------------------------------------------------------------------------------


def test_what_was_asked_is_not_asked_again(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "new/cache.jsonl"
    replies = ask(script.model(), ["a ü", "b", "a ü"], Cache(path), "t")
    assert [r.text for r in replies] == ["A Ü", "B", "A Ü"]
    assert {r.model for r in replies} == {"tiny-0001"}
    assert len(script.requests) == 2, "the same content was asked twice"
    assert script.requests[0]["path"] == "/v1/chat/completions"
    assert {key: script.requests[0][key] for key in ("model", *REQUEST)} == {"model": "tiny", **REQUEST}
    assert script.keys == [None, None]
    before = path.read_bytes()
    assert ask(script.model(concurrency=1, timeout=1, base_url="http://127.0.0.1:9/v1"), ["b", "a ü"], Cache(path), "t")
    assert (path.read_bytes(), len(script.requests)) == (before, 2), "how and where is no part of the content"
    ask(script.model(request={"temperature": 1.0, "max_tokens": 8}), ["b"], Cache(path), "t")
    ask(script.model(model="other"), ["b"], Cache(path), "t")
    assert len(script.requests) == 4


def test_a_torn_line_of_the_cache_is_as_if_never_written(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    ask(script.model(concurrency=1), ["a", "ü"], Cache(path), "t")
    data = path.read_bytes()
    path.write_bytes(data[: data.index("Ü".encode()) + 1])  # a kill within a character
    assert [r.text for r in Cache(path).replies.values()] == ["A"]
    assert [r.text for r in ask(script.model(), ["a", "ü", "c"], Cache(path), "t")] == ["A", "Ü", "C"]
    assert [r["messages"][0]["content"] for r in script.requests[2:]] in (["ü", "c"], ["c", "ü"])
    assert len(Cache(path).replies) == 3
    path.write_text('[]\n3\n{"key": "k"}\n{"key": "l", "text": "t", "finish_reason": "stop", "model": "m"}\n')
    assert Cache(path).replies == {"l": Reply("t", "stop", "m")}


def test_half_a_character_in_a_reply_can_be_written(script: Script, tmp_path: Path) -> None:
    script.answer = lambda _: "a \ud83d b"
    (reply,) = ask(script.model(), ["a"], Cache(tmp_path / "c"), "t")
    assert reply.text == "a ? b"
    assert list(Cache(tmp_path / "c").replies.values()) == [reply]
    assert parse_question(r'{"question": "\ud83d?"}') == ("??", "")


def test_failures_that_pass_are_attempted_again_ever_later(script: Script, tmp_path: Path, waits: list[float]) -> None:
    script.failures = [(503, {}), "drop", (500, {}), (429, {"Retry-After": "17"})]
    (reply,) = ask(script.model(), ["a"], Cache(tmp_path / "c"), "t")
    assert (reply.text, len(script.requests)) == ("A", 5)
    assert len(waits) == 4
    assert all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits[:3]))
    assert waits[3] == 17


@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        ("<think>acceptable?</think>unacceptable", "unacceptable", "stop"),
        ("is it acceptable? hm</think>unacceptable", "unacceptable", "stop"),
        ("<think>acceptable? or", "", "thinking"),
    ],
)
def test_what_a_server_thinks_aloud_is_no_answer(script: Script, tmp_path: Path, said: str, text: str, reason: str) -> None:
    script.answer = lambda _: said
    for _ in range(2):  # the second time it comes from the cache
        (reply,) = ask(script.model(), ["?"], Cache(tmp_path / "cache"), "judging")
        assert (reply.text, reply.finish_reason) == (text, reason)
    assert parse_verdict(reply.text) == (text or None)


def test_a_server_that_stays_in_trouble_ends_in_one_line_and_keeps_what_came(script: Script, tmp_path: Path, waits) -> None:
    ask(script.model(), ["a"], Cache(tmp_path / "c"), "t")
    script.failures = [(429, {})] * 3
    with pytest.raises(InputError, match=r"chat/completions: no answer, 3 times \(status 429, no way\)") as e:
        ask(script.model(retries=2, concurrency=1), ["b", "c"], Cache(tmp_path / "c"), "t")
    assert "\n" not in str(e.value)
    assert len(waits) == 2
    assert "A" in {r.text for r in Cache(tmp_path / "c").replies.values()}


def test_what_does_not_pass_is_said_at_once_in_one_line(script: Script, tmp_path: Path, waits, monkeypatch) -> None:
    for failure, pattern in (
        ((401, {}), r"refuses model 'tiny' \(status 401, no way\)"),
        ((302, {"Location": "http://127.0.0.1:9/"}), "status 302"),
        ("garbage", "is no OpenAI-compatible server: its answer begins '<html>'"),
    ):
        script.failures = [failure]
        with pytest.raises(InputError, match=pattern) as e:
            ask(script.model(), ["a"], Cache(tmp_path / "c"), "t")
        assert "\n" not in str(e.value)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=r"no answer, 1 times \(.*Connection refused\); start the server or set base_url"):
            ask(script.model(base_url=url), ["a"], Cache(tmp_path / "c"), "t")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(InputError, match="environment variable A_KEY"):
        ask(script.model(api_key_env="A_KEY"), ["a"], Cache(tmp_path / "c"), "t")
    assert waits == []


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(script: Script, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("A_KEY", "secret\n")
    ask(script.model(api_key_env="A_KEY"), ["a"], Cache(tmp_path / "c"), "t")
    assert script.keys == ["Bearer secret"]
    assert "secret" not in (tmp_path / "c").read_text() + str(script.model(api_key_env="A_KEY").signature())


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"nothing": 1}, "judge: its keys should be base_url, model"),
        ({"base_url": "file:///etc"}, "should begin with http"),
        ({"concurrency": "many"}, "are numbers"),
        ({"concurrency": 0}, "at least 1"),
        ({"base_url": "", "request": {"temperature": 0.5, "max_tokens": 3}}, "is greedy"),
        ({"base_url": "", "request": {}}, "is greedy"),
    ],
)
def test_settings_that_mean_nothing_are_refused(script: Script, changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        script.model(**changes)


# --- models that answer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_llm(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLM with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "llm"
    llm, tokenizer = plain_llm(str(world.llm))
    tokenizer.chat_template = CHAT
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def generated(folder: Path, prompt: str) -> str:
    """What generate() gives to the text that the chat template makes of a message."""
    llm, tokenizer = plain_llm(str(folder))
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    out = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=2)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


PROMPTS = ["the farmer finds a red lamp", "my sister hides his letter at home", "a doctor"]


def test_a_model_of_this_machine_answers_greedily_whatever_the_batch(script: Script, chat_llm: Path, tmp_path: Path) -> None:
    for batch in (1, 3):
        model = script.model(base_url="", model=str(chat_llm), concurrency=batch)
        replies = ask(model, PROMPTS, Cache(tmp_path / f"c{batch}"), "t")
        assert [r.text for r in replies] == [generated(chat_llm, prompt) for prompt in PROMPTS]
    paper = script.model(base_url="", model=str(chat_llm), template="paper")
    assert paper.signature() != model.signature()
    (reply,) = ask(paper, PROMPTS[:1], Cache(tmp_path / "c3"), "t")
    llm, tokenizer = plain_llm(str(chat_llm))
    ids = torch.tensor([Prompter(tokenizer).text_prompt(PROMPTS[0], "")])
    out = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=2)
    assert reply.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn, openai: pip install -e .[dev]")
def test_a_real_openai_compatible_server_answers(script: Script, chat_llm: Path, tmp_path: Path) -> None:
    """`transformers serve`, as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", chat_llm,
               "--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        deadline = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        assert server.poll() is None, (tmp_path / "log").read_text()
        model = script.model(base_url=f"http://127.0.0.1:{port}/v1", model=str(chat_llm), concurrency=2, timeout=60.0)
        replies = ask(model, PROMPTS, Cache(tmp_path / "cache"), "t")
    finally:
        server.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
        server.kill()
    assert [r.text.strip() for r in replies] == [generated(chat_llm, prompt) for prompt in PROMPTS]
    assert ask(model, PROMPTS, Cache(tmp_path / "cache"), "t") == replies, "now that the server is gone"


# --- the stages -----------------------------------------------------------------------------------------------------------

HYP, JUDGED = "decode/test_clean.qa/hyp.jsonl", "decode/test_clean.qa/judgements.jsonl"
WORDS = (6, 8)  # of the transcripts that are chosen; some of the tiny corpus are shorter, some longer


def replying(prompt: str) -> str:
    """As ChatGPT would, in a small way."""
    if prompt.startswith("Please ask"):
        transcript = re.search(r"input: (.*)\noutput:$", prompt)[1]
        return (
            "I have no question." if "lamp" in transcript else json.dumps({"question": f"What of {transcript}?", "answer": "x"})
        )
    question, transcript = re.search(r"Question: What of (.*)\?\nInput: (.*)\nAnswer: ", prompt).groups()
    assert question == transcript
    return {0: "acceptable", 1: "Unacceptable.", 2: "Hm."}[len(transcript) % 3]


@pytest.fixture
def qa(prepared: World, copy_of, tmp_path: Path) -> Iterator[tuple[World, Script]]:
    """The prepared world with a configuration like recipes/gigaspeech/conf/qa.yaml, and its server."""
    with serving(Script(replying)) as script:
        world = copy_of(prepared)
        text = (ROOT / "recipes/gigaspeech/conf/qa.yaml").read_text()
        for pattern, value in (
            (r"^system: .*", "system: tiny"),
            (r"^encoder: .*", f"encoder: {world.whisper}"),
            (r"^llm: .*", f"llm: {world.llm}"),
            (r"base_url: \S+", f"base_url: {script.url}"),
            (r"api_key_env: \S+", 'api_key_env: ""'),
            (r"^test_sets: .*", "test_sets: [test_clean]"),
            (r"sets: \[TEST\]", "sets: [test_clean]"),
            (r"max_new_tokens: 256", "max_new_tokens: 10"),
            (r"min_words: \d+", f"min_words: {WORDS[0]}"),
            (r"max_words: \d+", f"max_words: {WORDS[1]}"),
        ):
            text, found = re.subn(pattern, value, text, flags=re.MULTILINE)
            assert found, pattern
        config = tmp_path / "qa.yaml"
        config.write_text(text)
        yield replace(world, config=config), script


def run(world: World, program: str, exp_dir: Path | None, *overrides: str) -> None:
    exp = ("--exp-dir", exp_dir) if exp_dir else ()
    call(program, "--config", world.config, "--data-dir", world.data, *exp, "--", *overrides)


def chosen_of(world: World) -> dict[str, str]:
    text = read_table(world.data / "test_clean/text")
    return {u: t for u, t in text.items() if WORDS[0] <= len(t.split()) <= WORDS[1]}


def test_from_transcripts_to_the_accept_rate_and_a_second_time_for_nothing(qa, tmp_path: Path) -> None:
    world, script = qa
    folder, exp = world.data / "test_clean", tmp_path / "exp"
    text, chosen = read_table(folder / "text"), chosen_of(world)
    with_question = {u: f"What of {t.lower()}?" for u, t in chosen.items() if "LAMP" not in t}
    assert len(text) > len(chosen) > len(with_question) > 1, "the tiny corpus should have all kinds"
    run(world, "continuation", None)
    assert read_table(folder / "question") == with_question
    rows = read_jsonl(folder / "question.jsonl")
    assert [r["utt_id"] for r in rows] == list(chosen)
    assert {r["reply"] for r in rows if not r["question"]} == {"I have no question."}
    run(world, "decode", exp, "--input=text")
    hyps = read_jsonl(exp / HYP)
    assert {r["utt_id"]: r["instruction"] for r in hyps} == with_question
    assert [r["reference"] for r in hyps] == [text[u] for u in with_question]
    run(world, "score", exp, "--input=text")
    kinds = [len(text[u]) % 3 for u in with_question]
    score = read_json(exp / "decode/test_clean.qa/score.json")
    assert (score["n"], score["no_verdict"]) == (len(kinds) - kinds.count(2), kinds.count(2))
    assert score["accept_rate"] == pytest.approx(100 * kinds.count(0) / score["n"])
    assert score["judge"] == {"model": "gpt-3.5-turbo", "request": {"temperature": 0.0, "max_tokens": 64}}
    assert score["judged_by"] == ["tiny-0001"]
    judged = [(r["answer"], r["question"]) for r in read_jsonl(exp / JUDGED)]
    assert judged == [(h["hypothesis"], h["instruction"]) for h in hyps]
    table = (exp / "RESULTS.md").read_text()
    assert (
        f"| qa | test_clean | accept rate | {score['accept_rate']:.1f} | {kinds.count(2)} answers without a verdict;" in table
    )
    assert "judge tiny-0001 (temperature 0.0, max_tokens 64)" in table
    n_requests, before = len(script.requests), mtimes(tmp_path)
    assert n_requests == len(chosen) + len(with_question)
    for program, exp_dir in (("continuation", None), ("decode", exp), ("score", exp)):
        run(world, program, exp_dir, "--input=text")
    assert len(script.requests) == n_requests
    assert {name for name, t in mtimes(tmp_path).items() if t != before.get(name)} == {"exp/RESULTS.md"}
    for path in (exp / "decode/test_clean.qa/score.json", folder / "question", folder / "question.jsonl"):
        path.unlink()
    run(world, "continuation", None)
    run(world, "score", exp, "--input=text")
    assert len(script.requests) == n_requests, "what was lost is made anew from the cache"
    assert (read_json(exp / "decode/test_clean.qa/score.json"), read_table(folder / "question")) == (score, with_question)


def test_another_judge_judges_anew_and_changed_answers_alone_are_asked(qa, tmp_path: Path) -> None:
    world, script = qa
    exp = tmp_path / "exp"
    run(world, "continuation", None)
    run(world, "decode", exp, "--input=text")
    run(world, "score", exp, "--input=text")
    n, hyps = len(script.requests), read_jsonl(exp / HYP)
    run(world, "score", exp, "--input=text", "--judge.model=other")
    assert len(script.requests) == n + len(hyps)
    assert read_json(exp / "decode/test_clean.qa/score.json")["judge"]["model"] == "other"
    hyps[0]["hypothesis"] = "another answer"
    (exp / HYP).write_text("".join(json.dumps(row) + "\n" for row in hyps))
    run(world, "score", exp, "--input=text", "--judge.model=other")
    assert len(script.requests) == n + len(hyps) + 1
    assert "another answer" in script.requests[-1]["messages"][0]["content"]


def test_a_cascade_transcribes_what_is_asked_about_and_each_answer_is_its_own_prompts(qa, tmp_path: Path) -> None:
    world, _ = qa
    run(world, "continuation", None)
    questions = read_table(world.data / "test_clean/question")
    run(world, "decode", tmp_path / "exp", "--input=whisper")
    transcripts = {r["utt_id"]: r for r in read_jsonl(tmp_path / "exp/decode/test_clean.transcript/hyp.jsonl")}
    assert list(transcripts) == list(questions)
    assert {r["instruction"] for r in transcripts.values()} == {""}
    llm, tokenizer = plain_llm(str(world.llm))
    for row in read_jsonl(tmp_path / "exp" / HYP):
        words = normalizer("whisper_english")(transcripts[row["utt_id"]]["hypothesis"])
        ids = torch.tensor([Prompter(tokenizer).text_prompt(questions[row["utt_id"]], words)])
        out = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=2)
        assert row["hypothesis"] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_answers_from_speech_are_those_under_each_question_by_itself(qa, tmp_path: Path) -> None:
    world, _ = qa
    torch.manual_seed(3)
    llm = load_llm(str(world.llm))
    model = BLSP(SpeechEncoder.from_pretrained(str(world.whisper)), Adapter(16, 32, 8, 0.3), llm, Prompter(llm.tokenizer))
    model.save_pretrained(tmp_path / "exp/model", str(world.whisper), str(world.llm), {})
    run(world, "continuation", None)
    run(world, "decode", tmp_path / "exp")
    rows = read_jsonl(tmp_path / "exp" / HYP)
    assert len({row["instruction"] for row in rows}) == len(rows) == 3
    for row in rows[:2]:
        text = world.config.read_text().replace("instruction_table: question", f"instruction: {row['instruction']}")
        (tmp_path / "one.yaml").write_text(text)
        run(replace(world, config=tmp_path / "one.yaml"), "decode", tmp_path / "exp")
        assert row["hypothesis"] in [
            r["hypothesis"] for r in read_jsonl(tmp_path / "exp" / HYP) if r["utt_id"] == row["utt_id"]
        ]


def test_killed_while_asking_and_resumed_asks_only_the_rest(qa, tmp_path: Path) -> None:
    world, script = qa

    def patch() -> None:
        put = Cache.put

        def dying(self: Cache, key: str, reply: Reply) -> None:
            put(self, key, reply)
            os.kill(os.getpid(), signal.SIGKILL)

        Cache.put = dying

    arguments = ("--config", world.config, "--data-dir", world.data, "--", "--questioner.concurrency=1")
    assert run_program("continuation", *arguments, log=tmp_path / "log", patch=patch) == -signal.SIGKILL
    assert not (world.data / "test_clean/question").exists()
    asked = len(script.requests)
    assert run_program("continuation", *arguments, log=tmp_path / "log") == 0
    assert 1 <= asked <= 2 and len(script.requests) <= len(chosen_of(world)) + 1
    assert len(read_jsonl(world.data / "test_clean/question.jsonl")) == len(chosen_of(world))


def test_what_is_missing_or_wrong_is_named_in_one_line(qa, tmp_path: Path) -> None:
    world, script = qa
    folder, exp = world.data / "test_clean", tmp_path / "exp"

    def refused(pattern: str, program: str, *overrides: str) -> None:
        with pytest.raises(InputError, match=pattern) as e:
            run(world, program, None if program == "continuation" else exp, "--input=text", *overrides)
        assert "\n" not in str(e.value)

    refused("test_clean/question: is missing; .* run stage 2", "decode")
    refused("none of 7 transcripts has 400 to 8 words", "continuation", "--questions.min_words=400")
    tables = ("--questions.table=text", "--tasks.qa.instruction_table=text")
    refused("text: is there, and was not written by this stage", "continuation", *tables)
    run(world, "continuation", None, tables[0])  # no task uses it
    assert not script.requests
    refused("questioner.base_url", "continuation", "--questioner.base_url=localhost:8000")
    script.answer = lambda _: "What?"
    refused("question.jsonl: none of . replies of other holds a question", "continuation", "--questioner.model=other")
    (utt_id, *_) = read_table(folder / "text")
    for table, pattern in (({"x": "Why?"}, r"question:1: utterance 'x' is not in text"), ({utt_id: ""}, "has no instruction")):
        write_table(folder / "question", table)
        refused(pattern, "decode")


def test_questions_have_four_settings() -> None:
    settings = {"table": "question", "min_words": 1, "max_words": 2, "normalizer": "lower"}
    assert Questions.from_settings(settings).max_words == 2
    for changed, pattern in (({"x": 1}, "its keys should be table, min_words"), ({"min_words": "a"}, "whole numbers")):
        with pytest.raises(InputError, match=pattern):
            Questions.from_settings(settings | changed)


def test_a_task_has_one_instruction_or_a_table_of_them() -> None:
    assert instruction_of("t", {"instruction": "Do."}) == {"instruction": "Do.", "table": ""}
    assert instruction_of("t", {"instruction_table": "question"}) == {"instruction": None, "table": "question"}
    for task in ({}, {"instruction": "Do.", "instruction_table": "question"}):
        with pytest.raises(InputError, match="task t: should have either an instruction or an instruction_table"):
            instruction_of("t", task)


def test_the_recipes_configuration_is_the_papers() -> None:
    config = load_config(ROOT / "recipes/gigaspeech/conf/qa.yaml")
    assert (config["questions"]["min_words"], config["questions"]["max_words"]) == (40, 60)
    assert config["tasks"]["qa"]["instruction_table"] == config["questions"]["table"]
    for name in ("questioner", "judge"):
        assert ChatModel.from_settings(name, config[name])
    assert len((ROOT / "recipes/gigaspeech/conf/qa.yaml").read_text().splitlines()) < 80
