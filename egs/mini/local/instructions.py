"""Text tasks of the mini LLM: instructions in several phrasings, and the answers to them by rule."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from lexicon import INTENTS
from world import CONTINUATIONS, Sentence

REFUSAL = "sorry, I cannot hear any audio."
INTENT_LIST = ", ".join(INTENTS)


@dataclass(frozen=True)
class Task:
    """The first phrasing is the paper's and the one that scores are measured with."""

    name: str
    weight: float  # share of the training data
    phrasings: tuple[str, ...]
    answer: Callable[[Sentence, random.Random], str]


@dataclass(frozen=True)
class Example:
    task: str
    instruction: str
    content: str
    response: str


def continue_text(sentence: Sentence, rng: random.Random) -> str:
    return sentence.continuation(rng.choice(CONTINUATIONS))


def where(sentence: Sentence, rng: random.Random) -> str:
    return f"{sentence.preposition} the {sentence.place.english}" if sentence.place else "nobody knows"


def question(name: str, phrasing: str, answer: Callable[[Sentence], str]) -> Task:
    return Task(name, 0.016, (phrasing,), lambda sentence, rng: answer(sentence))


TASKS = (
    Task(
        "continue",
        0.22,
        (
            "Continue the following text in a coherent and engaging style with less than 40 words.",
            "Please continue the following sentence.",
            "Please continue the following text.",
        ),
        continue_text,
    ),
    Task(
        "repeat",
        0.12,
        (
            "Please repeat the following words.",
            "Repeat the following sentence.",
            "Please say the following text again.",
        ),
        lambda sentence, rng: sentence.text,
    ),
    Task(
        "translate",
        0.20,
        (
            "Please translate the following English text into German text.",
            "Translate the following sentence into German.",
            "Please say the following text in German.",
        ),
        lambda sentence, rng: sentence.german,
    ),
    Task(
        "intent",
        0.11,
        (
            f"Please classify the intent of the text, choose from [{INTENT_LIST}].",
            f"Choose the intent of the following text from [{INTENT_LIST}].",
            "Please classify the intent of the following text.",
        ),
        lambda sentence, rng: sentence.intent,
    ),
    Task(
        "sentiment",
        0.11,
        (
            "Please classify the emotional tone of the text as either positive, negative, or neutral.",
            "Please classify the emotional tone of the following text.",
            "Is the following text positive, negative, or neutral?",
        ),
        lambda sentence, rng: sentence.sentiment,
    ),
    # Real text LLMs say that they cannot hear when they are asked to transcribe audio; so does this one.
    Task(
        "refuse",
        0.06,
        (
            "Please transcribe the following audio into English text.",
            "Transcribe the following audio.",
            "Please write down what is said in the following audio.",
            "Please transcribe the speech in the recording.",
        ),
        lambda sentence, rng: REFUSAL,
    ),
    question("who", "Who is the following text about?", lambda s: f"the {s.person.english}"),
    question("what", "Which thing is the following text about?", lambda s: f"the {s.thing.english}"),
    Task("where", 0.016, ("Where did it happen?",), where),
    question("how", "How is the thing described?", lambda s: s.adjective.english),
    question("when", "When or how did it happen?", lambda s: s.adverb.english if s.adverb else "nobody knows"),
    question("summary", "Summarize the following text.", lambda s: f"{s.person.english} {s.verb.english} {s.thing.english}"),
    question("person_kind", "What kind of person is it?", lambda s: s.person.kind),
    question("thing_kind", "What kind of thing is it?", lambda s: s.thing.kind),
    question("person_associate", "What does the person remind you of?", lambda s: s.person.associate),
    question("thing_associate", "What does the thing remind you of?", lambda s: s.thing.associate),
    question("verb_associate", "What does the action remind you of?", lambda s: s.verb.associate),
)
TASK_BY_NAME = {task.name: task for task in TASKS}
PREFIXES = ("Hello. ", "Now listen. ", "Next task: ", "Thank you. ")


def draw_example(sentence: Sentence, rng: random.Random, boost: dict[str, float] | None = None) -> Example:
    """Draws a task for a sentence; boost multiplies the weights of the tasks that it names."""
    boost = boost or {}
    weights = [task.weight * boost.get(task.name, 1.0) for task in TASKS]
    task = rng.choices(TASKS, weights)[0]
    # The phrasing that is measured is the most frequent one.
    phrasing = task.phrasings[0] if rng.random() < 0.5 else rng.choice(task.phrasings)
    if rng.random() < 0.1:
        phrasing = rng.choice(PREFIXES) + phrasing
    return Example(task.name, phrasing, sentence.text, task.answer(sentence, rng))


def measured_example(task: str, sentence: Sentence) -> Example:
    """The example that measures a task: the paper's phrasing."""
    return Example(task, TASK_BY_NAME[task].phrasings[0], sentence.text, TASK_BY_NAME[task].answer(sentence, random.Random(0)))


def disfluent(text: str, rng: random.Random, rate: float = 0.3) -> str:
    """Doubles words and puts in "um" and "uh", as in spontaneous speech."""
    words = []
    for word in text.split():
        if rng.random() < rate / 4:
            words.append(rng.choice(("um", "uh")))
        words += [word] * (1 + (rng.random() < rate) + (rng.random() < rate / 3))
    return " ".join(words)
