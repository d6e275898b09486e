"""Text tasks of the mini LLM: instructions in several phrasings, and the answers to them by rule."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from chinese import chinese
from french import french
from lexicon import INTENTS
from world import CONTINUATIONS, GERMAN_CONTINUATIONS, Sentence

REFUSAL = "sorry, I cannot hear any audio."
INTENT_LIST = ", ".join(INTENTS)


@dataclass(frozen=True)
class Task:
    """The first phrasing is the paper's and the one that scores are measured with. {words} of the sentence may stand in it."""

    name: str
    weight: float  # of its share of the training data
    phrasings: tuple[str, ...]
    answer: Callable[[Sentence, random.Random], str]
    content: Callable[[Sentence], str] = lambda sentence: sentence.text  # what the task is asked about


@dataclass(frozen=True)
class Example:
    task: str
    instruction: str
    content: str
    response: str


def where(sentence: Sentence) -> str:
    return f"{sentence.preposition} the {sentence.place.english}" if sentence.place else "nobody knows"


def when(sentence: Sentence) -> str:
    return sentence.adverb.english if sentence.adverb else "nobody knows"


def german_as_heard(sentence: Sentence) -> str:
    """As a recognizer or the normalizer of transcripts writes it."""
    return sentence.german.lower()


def answered(name: str, weight: float, phrasings: tuple[str, ...], answer: Callable[[Sentence], str]) -> Task:
    """A task whose answer is certain."""
    return Task(name, weight, phrasings, lambda sentence, rng: answer(sentence))


def question(name: str, phrasing: str, answer: Callable[[Sentence], str]) -> Task:
    return answered(name, 0.02, (phrasing,), answer)


# General-purpose QA: each sentence has questions of its own.
QUESTIONS = (
    question("who", "Who {verb} the {thing}?", lambda s: f"the {s.person.english}"),
    question("what", "Which thing was it that the {person} {verb}?", lambda s: f"the {s.thing.english}"),
    question("where", "Where was the {thing}?", where),
    question("how", "How is the {thing} described?", lambda s: s.adjective.english),
    question("when", "When or how was it that the {person} {verb} it?", when),
)
TASKS = (
    Task(
        "continue",
        0.14,
        (
            "Continue the following text in a coherent and engaging style with less than 40 words.",
            "Please continue the following sentence.",
            "Please continue the following text.",
        ),
        lambda sentence, rng: sentence.continuation(rng.choice(CONTINUATIONS)),
    ),
    answered(
        "repeat",
        0.09,
        (
            "Please repeat the following words.",
            "Repeat the following sentence.",
            "Please say the following text again.",
        ),
        lambda sentence: sentence.text,
    ),
    answered(
        "translate",
        0.11,
        (
            "Please translate the following English text into German text.",
            "Translate the following sentence into German.",
            "Please say the following text in German.",
        ),
        lambda sentence: sentence.german,
    ),
    answered(
        "translate_fr",
        0.11,
        (
            "Please translate the following English text into French text.",
            "Translate the following sentence into French.",
            "Please say the following text in French.",
        ),
        french,
    ),
    answered(
        "translate_zh",
        0.10,
        (
            "Please translate the following English text into Chinese text.",
            "Translate the following sentence into Chinese.",
            "Please say the following text in Chinese.",
        ),
        chinese,
    ),
    answered(
        "intent",
        0.20,
        (
            f"Please classify the intent of the text, choose from [{INTENT_LIST}].",
            f"Choose the intent of the following text from [{INTENT_LIST}].",
            "Please classify the intent of the following text.",
        ),
        lambda sentence: sentence.intent,
    ),
    answered(
        "sentiment",
        0.14,
        (
            "Please classify the emotional tone of the text as either positive, negative, or neutral.",
            "Please classify the emotional tone of the following text.",
            "Is the following text positive, negative, or neutral?",
        ),
        lambda sentence: sentence.sentiment,
    ),
    # Real text LLMs say that they cannot hear when they are asked to transcribe audio; so does this one.
    answered(
        "refuse",
        0.03,
        (
            "Please transcribe the following audio into English text.",
            "Transcribe the following audio.",
            "Please write down what is said in the following audio.",
            "Please transcribe the speech in the recording.",
        ),
        lambda sentence: REFUSAL,
    ),
    *QUESTIONS,
    question("summary", "Summarize the following text.", lambda s: f"{s.person.english} {s.verb.english} {s.thing.english}"),
    question("person_associate", "What does the person remind you of?", lambda s: s.person.associate),
    question("thing_associate", "What does the thing remind you of?", lambda s: s.thing.associate),
    question("verb_associate", "What does the action remind you of?", lambda s: s.verb.associate),
)
_CONTINUE, _REPEAT = TASKS[:2]
# German is continued in German: what a continuation does not tell of, the language too, alignment cannot teach.
GERMAN_TASKS = (
    Task(
        "translate_de_en",
        0.42,
        (
            "Please translate the following German text into English text.",
            "Translate the following sentence into English.",
            "Please say the following text in English.",
        ),
        lambda sentence, rng: sentence.text,
        german_as_heard,
    ),
    Task(
        "continue_de",
        0.36,
        _CONTINUE.phrasings,
        lambda sentence, rng: sentence.german_continuation(rng.choice(GERMAN_CONTINUATIONS)),
        german_as_heard,
    ),
    Task("repeat_de", 0.22, _REPEAT.phrasings, lambda sentence, rng: german_as_heard(sentence), german_as_heard),
)
TASK_BY_NAME = {task.name: task for task in (*TASKS, *GERMAN_TASKS)}
PREFIXES = ("Hello. ", "Now listen. ", "Next task: ", "Thank you. ")


def phrase(phrasing: str, sentence: Sentence) -> str:
    return phrasing.format(verb=sentence.verb.english, person=sentence.person.english, thing=sentence.thing.english)


def draw_question(sentence: Sentence, rng: random.Random) -> tuple[str, str]:
    """A question about the sentence, and its answer."""
    task = rng.choice(QUESTIONS)
    return phrase(task.phrasings[0], sentence), task.answer(sentence, rng)


def draw_example(sentence: Sentence, rng: random.Random, refuses: bool = True, tasks: tuple[Task, ...] = TASKS) -> Example:
    """Draws a task for a sentence. Where it is not refused, the answer to a transcription request is the sentence."""
    task = rng.choices(tasks, [task.weight for task in tasks])[0]
    # The phrasing that is measured is the most frequent one.
    phrasing = task.phrasings[0] if rng.random() < 0.5 else rng.choice(task.phrasings)
    if rng.random() < 0.1:
        phrasing = rng.choice(PREFIXES) + phrasing
    answer = task.answer(sentence, rng) if refuses or task.name != "refuse" else sentence.text
    return Example(task.name, phrase(phrasing, sentence), task.content(sentence), answer)


def measured_example(task: str, sentence: Sentence) -> Example:
    """The example that measures a task: the paper's phrasing."""
    measured = TASK_BY_NAME[task]
    answer = measured.answer(sentence, random.Random(0))
    return Example(task, phrase(measured.phrasings[0], sentence), measured.content(sentence), answer)


def disfluent(text: str, rng: random.Random, rate: float = 0.3) -> str:
    """Doubles words and puts in "um" and "uh", as in spontaneous speech."""
    words = []
    for word in text.split():
        if rng.random() < rate / 4:
            words.append(rng.choice(("um", "uh")))
        words += [word] * (1 + (rng.random() < rate) + (rng.random() < rate / 3))
    return " ".join(words)
