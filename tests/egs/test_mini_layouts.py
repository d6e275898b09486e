"""egs/mini in the native layouts of the corpora: every recipe reads what its writer wrote, and no test leaks into training."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, World, call
from recipe_run import in_kaldi_form, rejected, table

from blsp.data.normalization import lower

MINI = ROOT / "egs" / "mini"
sys.path.insert(0, str(MINI / "local"))

import llm_data  # noqa: E402
import speak  # noqa: E402
import speak_layouts  # noqa: E402
from chinese import chinese  # noqa: E402
from french import french  # noqa: E402
from instructions import GERMAN_TASKS, TASK_BY_NAME, TASKS, german_as_heard  # noqa: E402
from layouts import alpaca, fsc, gigaspeech_qa, snips, speech  # noqa: E402
from lexicon import GERMAN, INTENTS  # noqa: E402
from passages import draw_passage  # noqa: E402
from world import Sentence, sample_sentences  # noqa: E402

LIMIT = 2  # utterances of each split
TRAINED = ("gigaspeech", "commonvoice", "commonvoice-de")
RECIPE_OF = {"commonvoice-de": "commonvoice", "gigaspeech-qa": "gigaspeech"}  # where the names differ
SPOKEN = [name for name in speak_layouts.NAMES if name != "alpaca"]
EVALUATED = [name for name in SPOKEN if name not in TRAINED]
TRAINING_SPLITS = {"train", "fine-tune"}
DEV_SPLITS = {"dev", "valid", "Dev_DE", "Dev_FR"}  # BSTC's dev is its test set
# Set -> split of the writer, where the names differ.
SPLIT_OF = {"TEST": "test", "DEV": "dev", "fine_tune": "fine-tune", "test_de": "Test_DE", "test_fr": "Test_FR"}
SPLIT_OF |= {"dev_de": "Dev_DE", "dev_fr": "Dev_FR"}
for direction in ("en_de", "en_fr", "en_zh_CN"):
    SPLIT_OF |= {f"{split}_{direction}": split for split in ("train", "dev", "test")}
    SPLIT_OF |= {f"tst_COMMON_{direction}": "tst-COMMON", f"tst_HE_{direction}": "tst-HE"}
SPLIT_OF |= dict.fromkeys(("XS", "S", "M", "L", "XL"), "train")
SMALL = ("--epochs=1", "--batch_size=2", "--generation.max_new_tokens=8", "--decoding.max_new_tokens=8", "--examples=1")


def run(command: list[object], **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(out: Path, *options: object) -> str:
    program = MINI / "local" / "speak_layouts.py"
    return run([sys.executable, program, "--out", out, "--nj", 1, *options], cwd=ROOT)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layouts")
    write(out / "corpora", "--limit", LIMIT)
    return out


@pytest.fixture(scope="module")
def data(layouts: Path) -> Path:
    """Stage 0 of every recipe, as a user calls it."""
    for name in speak_layouts.NAMES:
        options = ["--corpus-dir", layouts / "corpora" / name, "--data-dir", layouts / "data" / name, "--nj", 1]
        recipe, conf = RECIPE_OF.get(name, name), "commonvoice" if name == "commonvoice-de" else name
        stages = ["--config", MINI / "conf" / f"{conf}.yaml", "--stage", 0, "--stop-stage", 0, "--limit", LIMIT]
        run(["bash", ROOT / "recipes" / recipe / "run.sh", *options, *stages])
        references = layouts / "corpora" / name / "references"
        if references.is_dir():
            program = MINI / "local" / "add_references.py"
            run([sys.executable, program, "--references", references, "--data-dir", layouts / "data" / name])
    return layouts / "data"


@pytest.mark.parametrize("name", SPOKEN)
def test_recipe_reads_what_was_spoken(data: Path, name: str) -> None:
    recordings = speak_layouts.plan(name, limit=LIMIT).recordings
    sets = [folder.parent for folder in (data / name).glob("*/utt2spk")]
    assert sets
    for folder in sets:
        in_kaldi_form(folder)
        if (name, folder.name) == ("speechocean762", "test"):
            continue  # both halves together
        split = SPLIT_OF.get(folder.name, folder.name)
        said = [s for r in recordings if r.split == split for s in (r.spoken[1:] if name == "slue-voxceleb" else r.spoken)]
        texts = [lower(text) for text in table(folder / "text").values()]
        size = gigaspeech_qa.SENTENCES if name == "gigaspeech-qa" else 1  # sentences of an utterance
        wanted = [lower(" ".join(s.words for s in said[i : i + size])) for i in range(0, len(said), size)]
        assert set(texts) <= set(wanted) if folder.name in ("XS", "S", "M", "L") else sorted(texts) == sorted(wanted), folder
        assert all(float(duration) < (4 if size == 1 else 30) for duration in table(folder / "utt2dur").values())
        # Only what the corpora reject by design: garbage segments, gaps between segments.
        reasons = rejected(folder).values()
        assert all(reason.startswith(("garbage segment", "a gap between segments")) for reason in reasons)


def test_alpaca_keeps_every_row(data: Path) -> None:
    rows = (data / "alpaca" / "alpaca.jsonl").read_text().splitlines()
    assert len(rows) == min(alpaca.SIZES["instructions"], LIMIT)
    assert all(json.loads(row).keys() == {"instruction", "output"} for row in rows)


def test_no_test_sentence_and_no_test_voice_is_trained_on() -> None:
    sentences: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    voices: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for name in SPOKEN:
        for recording in speak_layouts.plan(name).recordings:
            if recording.split in TRAINING_SPLITS:
                use = "train"
            else:
                use = "dev" if recording.split in DEV_SPLITS and name != "bstc" else "test"
            sentences[use] |= {spoken.sentence.text for spoken in recording.spoken}
            voices[use] |= {spoken.voice.partition("+")[2] for spoken in recording.spoken}
    sizes = {"train": 8000, "dev": 200, "test": 400}
    for recording in speak_layouts.plan("commonvoice-de", seed=2).recordings:  # the mini Whisper's; the adapter's are above
        if recording.split == "train":
            sentences["train"] |= {spoken.sentence.text for spoken in recording.spoken}
            voices["train"] |= {spoken.voice.partition("+")[2] for spoken in recording.spoken}
    for split, seed in itertools.product(speak.SPLITS, (1, 2)):  # 1: the mini Whisper's; 2: the adapter's
        chapters = speak.plan_split(split, sizes[split.sentences], seed)
        said = [utterance for chapter in chapters for utterance in chapter.utterances]
        sentences[split.sentences] |= {utterance.sentence.text for utterance in said}
        if not split.name.endswith("clean"):  # these have voices of the training set, and say so
            voices[split.sentences] |= {utterance.voice.partition("+")[2] for utterance in said}
        elif split.sentences == "train":
            voices["train"] |= {utterance.voice.partition("+")[2] for utterance in said}
    for one, other in itertools.combinations(sentences, 2):
        assert not sentences[one] & sentences[other], f"{one} and {other} share sentences"
    assert not voices["test"] & (voices["train"] | voices["dev"])


def test_the_llm_is_trained_on_no_test_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    passages_of = set()
    monkeypatch.setattr(llm_data, "draw_passage", lambda split, *more: passages_of.add(split) or draw_passage(split, *more))
    unseen = {s.text for split in ("dev", "test") for s in sample_sentences(split, 20_000, "unseen")}
    unseen |= {german_as_heard(s) for split in ("dev", "test") for s in sample_sentences(split, 2_000, "unseen", GERMAN)}
    for name in ("instructions", "further", llm_data.PASSAGES, llm_data.OBEDIENT):
        rows = list(llm_data.training_rows(name, 20_000, seed=1))
        assert len(rows) == 20_000 and not {row["input"] for row in rows} & unseen
        assert any(row["task"] == "passage" for row in rows) == (name == llm_data.PASSAGES)
    assert passages_of == {"train"}  # all sentences of such a passage are: the next test but one


def test_the_llm_is_trained_on_all_tasks() -> None:
    rows = list(llm_data.dev_rows(2))
    assert {row["task"] for row in rows} == {task.name for task in (*TASKS, *GERMAN_TASKS)} - {"continue", "continue_de"}
    assert {row["task"] for row in llm_data.training_rows("instructions", 5000, seed=1)} == {*TASK_BY_NAME}
    questions = [row for row in rows if row["task"] == "who"]
    assert all("{" not in row["instruction"] and row["output"].startswith("the ") for row in questions)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_question_about_a_passage_has_one_answer(split: str) -> None:
    rng = random.Random(1)
    for _ in range(100):
        passage = draw_passage(split, 5, rng)
        assert all(sentence.split == split for sentence in passage.sentences)
        assert len({sentence.verb for sentence in passage.sentences}) == 5
        for kind in ("person", "thing", "adjective", "preposition", "place"):
            assert len({getattr(sentence, kind) for sentence in passage.sentences}) == 1
        assert sum(sentence.adverb is not None for sentence in passage.sentences) == 1
        question, answer = passage.question(rng)
        asked = set(question.rstrip("?").split()) & set(passage.text.split()) - {"the", "was", "it"}
        about = [sentence for sentence in passage.sentences if asked <= set(sentence.text.split())]
        assert about and all(set(answer.split()) <= set(sentence.text.split()) for sentence in about), question


def test_passages_are_as_long_as_those_of_the_paper_and_have_questions_of_their_own(layouts: Path, data: Path) -> None:
    for recording in speak_layouts.plan("gigaspeech-qa").recordings:
        for i in range(0, len(recording.spoken), gigaspeech_qa.SENTENCES):
            assert 40 <= sum(len(s.words.split()) for s in recording.spoken[i : i + gigaspeech_qa.SENTENCES]) <= 60
    folder = data / "gigaspeech-qa" / "TEST"
    texts, questions, answers = (table(folder / name) for name in ("text", "question", "answer"))
    assert texts.keys() == questions.keys() == answers.keys() and len(texts) == LIMIT
    for utt_id, answer in answers.items():
        assert set(answer.split()) <= set(lower(texts[utt_id]).split())


@pytest.mark.parametrize("say", [chinese, french])
def test_all_words_of_the_world_have_other_languages(say: Callable[[Sentence], str]) -> None:
    assert all(say(sentence) for sentence in sample_sentences("test", 2000, "other languages"))


def test_french_articles() -> None:
    said = [french(sentence) for sentence in sample_sentences("train", 5000, "articles")]
    assert not any(" de le " in words or " le é" in words or " la é" in words for words in said)
    assert any("près du " in words for words in said) and any("près de l'église" in words for words in said)


def test_mappings_name_every_intent_of_the_world_and_every_label_of_the_corpora() -> None:
    assert snips.INTENT_OF.keys() == fsc.ACTION_OF.keys() == set(INTENTS)
    assert len(set(snips.INTENT_OF.values())) == 6
    labels = {fsc.label(sentence) for sentence in sample_sentences("train", 3000, "labels")}
    assert len(labels) == 19


def test_utterance_is_said_faster_until_it_fits() -> None:
    (group,) = speech.draw("test", 1, "long")
    slow = speech.Spoken(group[0].sentence, f"{group[0].words} and {group[0].words}", group[0].voice, 80, 50)
    assert len(speech.utter(slow)) <= speech.MAX_SECONDS * speech.SAMPLE_RATE


def test_killed_run_goes_on_and_a_finished_one_writes_nothing(tmp_path: Path) -> None:
    corpus = speak_layouts.plan("must-c", limit=LIMIT)
    workshop = speak_layouts.open_workshop(corpus, tmp_path)
    speak_layouts.speak(workshop, 0, corpus.recordings[0])  # killed here
    spoken = workshop / "corpus" / corpus.recordings[0].path
    before = spoken.stat().st_mtime_ns, spoken.stat().st_ino
    arguments = ("--recipes", "must-c", "--limit", LIMIT)
    assert "spoken now" in write(tmp_path, *arguments)
    kept = tmp_path / "must-c" / corpus.recordings[0].path
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert [path.name for path in tmp_path.iterdir()] == ["must-c"]
    assert "there already" in write(tmp_path, *arguments)
    assert kept.stat().st_mtime_ns == before[0]


@pytest.fixture(scope="module")
def model(layouts: Path, data: Path, world: World) -> Path:
    """Trained by recipes/gigaspeech on its layout, in a moment: the model that the evaluation recipes decode with."""
    return stages("gigaspeech", layouts, world) / "model"


def stages(name: str, layouts: Path, world: World, model: Path | None = None) -> Path:
    """Stages 1 to 5, or 1, 4 and 5, of a recipe with the tiny models, in this process. Returns the experiment's folder."""
    overrides = [f"--encoder={world.whisper}", f"--llm={world.llm}", *(SMALL if model is None else SMALL[-2:-1])]
    common = ["--config", MINI / "conf" / f"{name}.yaml", "--data-dir", layouts / "data" / name]
    exp = layouts / "exp" / name
    call("features", *common, "--nj", 1, "--", *overrides)
    if model is None:
        call("continuation", *common, "--", *overrides)
        call("train", *common, "--exp-dir", exp, "--", *overrides)
    call("decode", *common, "--exp-dir", exp, "--model", model or exp / "model", "--", *overrides)
    call("score", *common, "--exp-dir", exp, "--", *overrides)
    return exp


def test_gigaspeech_trains_on_its_layout(model: Path) -> None:
    assert (model / "config.json").exists()
    assert (model.parent / "decode" / "TEST.asr" / "score.json").exists()


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_recipe_decodes_and_scores(name: str, layouts: Path, world: World, model: Path) -> None:
    exp = stages(name, layouts, world, model)
    scores = [json.loads(path.read_text()) for path in (exp / "decode").glob("*/score.json")]
    assert scores and all(score["n"] == LIMIT for score in scores)


def test_questions_about_passages_train_no_model() -> None:
    """Its recipe has stages 2 and 3, unlike those that only evaluate."""
    planned = run(["bash", MINI / "run.sh", "--recipes", "gigaspeech gigaspeech-qa", "--dry-run"])
    stages = [re.findall(r"--stage (\d) --stop-stage (\d) .*conf/(\S+)\.yaml", line) for line in planned.splitlines()]
    called = [found[0] for found in stages if found]
    assert called == [("0", "0", "gigaspeech"), ("1", "5", "gigaspeech"),
                      *((first, last, "gigaspeech-qa") for first, last in ("00", "11", "45"))]  # fmt: skip


@pytest.mark.slow
def test_run_sh_runs_every_recipe(tmp_path: Path, model: Path) -> None:
    options = ["--recipes", "all", "--exp-dir", tmp_path / "exp", "--data-dir", tmp_path / "data", "--limit", 8, "--nj", 1]
    printed = run(["bash", MINI / "run.sh", *options, "--model", model])
    assert all(f"| {name} " in printed for name in SPOKEN if name not in RECIPE_OF)


def test_unknown_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    program = MINI / "local" / "speak_layouts.py"
    done = subprocess.run(
        [sys.executable, program, "--out", tmp_path, "--recipes", "timit"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "'timit' is not one of all, gigaspeech" in done.stderr
