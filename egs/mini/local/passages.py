"""Passages of several sentences, and questions about one of them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from instructions import draw_question
from world import Sentence


@dataclass(frozen=True)
class Passage:
    """Sentences about different persons, things and actions, so that a question about one of them has one answer."""

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    def question(self, rng: random.Random) -> tuple[str, str]:
        """A question about one of the sentences, drawn, and its answer."""
        return draw_question(rng.choice(self.sentences), rng)


def draw_passage(sentences: Iterator[Sentence], n: int) -> Passage:
    """The next n sentences that go together; others are passed over."""
    found: list[Sentence] = []
    for sentence in sentences:
        if all(s.person != sentence.person and s.thing != sentence.thing and s.verb != sentence.verb for s in found):
            found.append(sentence)
        if len(found) == n:
            break
    return Passage(tuple(found))
