"""Passages of several sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

from world import Sentence, stream_sentences


@dataclass(frozen=True)
class Passage:
    """Sentences about different persons, things and actions, so that each is named once."""

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def slots(self) -> dict[str, str]:
        """What a question may name: nothing, it asks by the place in the passage."""
        return {}


def draw_passage(sentences: Iterator[Sentence], n: int) -> Passage:
    """The next n sentences that go together; others are passed over."""
    found: list[Sentence] = []
    for sentence in sentences:
        if all(s.person != sentence.person and s.thing != sentence.thing and s.verb != sentence.verb for s in found):
            found.append(sentence)
        if len(found) == n:
            break
    return Passage(tuple(found))


def sample_passages(split: str, n: int, seed: int | str, size: int) -> list[Passage]:
    """Draws n passages of a split, of `size` sentences each."""
    sentences = stream_sentences(split, f"passages {seed}")
    return [draw_passage(sentences, size) for _ in range(n)]
