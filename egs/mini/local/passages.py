"""Passages that tell what one person did with one thing at one place, and questions about them."""

import random
from dataclasses import dataclass, replace

from instructions import QUESTIONS, phrase
from lexicon import ENGLISH
from world import Sentence, draw_sentence


@dataclass(frozen=True)
class Passage:
    """Sentences about one person, thing and place, one of which says when or how: a question has one answer in all of them.

    the judge washed the square violin near the mountain
    slowly the judge hid the square violin near the mountain
    """

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    def question(self, rng: random.Random) -> tuple[str, str]:
        """A drawn question and its answer."""
        task = rng.choice(QUESTIONS)
        sentence = rng.choice([sentence for sentence in self.sentences if sentence.adverb or task.name != "when"])
        return phrase(task.phrasings[0], sentence), task.answer(sentence, rng)


def draw_passage(split: str, n: int, rng: random.Random) -> Passage:
    """Draws a passage of n sentences, each of the split and with a verb of its own."""
    while True:
        whole = draw_sentence(rng)
        if not whole.place or not whole.adverb:
            continue
        forms = [replace(whole, adverb=None)] * (n - 1) + [whole]
        verbs = rng.sample(ENGLISH.verbs, len(ENGLISH.verbs))
        sentences: list[Sentence] = []
        for form in forms:
            fitting = (s for s in (replace(form, verb=verb) for verb in verbs) if s.split == split)
            if (found := next(fitting, None)) is None:
                break
            sentences.append(found)
            verbs.remove(found.verb)
        else:
            return Passage(tuple(rng.sample(sentences, n)))
