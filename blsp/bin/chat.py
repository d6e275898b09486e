"""Talk to a trained model at the terminal: type, name audio files, or record.

reads   the model (a folder such as EXP_DIR/model, or a hub name), lines from standard input, audio files
writes  the answers as they grow, to standard output
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.base import command
from blsp.base.files import InputError
from blsp.data import audio
from blsp.model.decoding import Decoding, decoding_arguments

if TYPE_CHECKING:
    import numpy as np

    from blsp.model.blsp import BLSP

HELP = """\
TEXT                  say TEXT
/audio FILE [TEXT]    say what is spoken in FILE, after TEXT or else the instruction
/record [TEXT]        the same from the microphone; Enter ends the recording
/instruction [TEXT]   what is said before speech from now on; without TEXT: nothing
/reset                start anew
/help                 this
/quit                 leave, as Ctrl-D does; Ctrl-C stops an answer"""

RECORDING = "recording; Enter ends it "


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="blsp.bin.chat", description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a trained model's folder (EXP_DIR/model) or hub name")
    parser.add_argument("--instruction", default="", help="what is said before speech, until /instruction changes it")
    parser.add_argument("--system", default="", help="the system's message, where the template has one")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32 (%(default)s)")
    decoding_arguments(parser, max_new_tokens=256)
    args = parser.parse_args()
    decoding = Decoding.from_arguments(args)
    with suppress(ImportError):
        import readline  # noqa: F401  (input() then has a history and can be edited)
    from blsp.model.blsp import BLSP  # loads torch

    model = BLSP.from_pretrained(args.model, args.precision, command.device())
    if args.system:  # that it has a place shows before anything is said
        model.processor.prepare([{"role": "system", "content": args.system}, {"role": "user", "content": "Hello"}])
    Chat(model, decoding, args.instruction, args.system).run()


class Chat:
    """One conversation after another, line by line."""

    def __init__(self, model: BLSP, decoding: Decoding, instruction: str = "", system: str = ""):
        self.model, self.decoding, self.instruction = model, decoding, instruction
        self.system = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        from blsp.model.streaming import State

        self.history: list[dict[str, Any]] = list(self.system)
        self.state = State()

    def run(self) -> None:
        """Read and do lines until /quit or their end."""
        by_hand = sys.stdin.isatty()
        if by_hand:
            print("/help says what there is, /quit leaves")
        while True:
            try:
                line = input("> " if by_hand else "").strip()
                if line == "/quit":
                    return
                self.do(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n/quit leaves")
            except InputError as e:
                print(e, file=sys.stderr, flush=True)

    def do(self, line: str) -> None:
        """What one line asks for. Raises InputError where it cannot be done; the conversation then is as before."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if not line:
            return
        if not line.startswith("/"):
            self.answer([{"type": "text", "text": line}])
        elif name == "/audio":
            path, text = _file_and_text(rest)
            self.speak(path, text)
        elif name == "/record":
            self.speak(record(), rest)
        elif name == "/instruction":
            self.instruction = rest
        elif name == "/reset":
            self.reset()
        elif name == "/help":
            print(HELP)
        else:
            raise InputError(f"{name}: no such command; /help says what there is")

    def speak(self, speech: str | np.ndarray, text: str) -> None:
        instruction = text or self.instruction
        before = [{"type": "text", "text": instruction}] if instruction else []
        self.answer([*before, {"type": "audio", "audio": speech}])

    def answer(self, parts: list[dict[str, Any]]) -> None:
        """Print the model's answer to the user's next turn, and keep both; of one that is stopped, what has been said."""
        history = [*self.history, {"role": "user", "content": parts}]
        said = ""
        try:
            for piece in self.model.stream(history, self.decoding, self.state):
                said += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print(flush=True)
        self.history = [*history, {"role": "assistant", "content": said}]


def _file_and_text(rest: str) -> tuple[str, str]:
    """What stands behind /audio: a file, maybe in quotes, and maybe a text."""
    if Path(rest).expanduser().is_file():
        return str(Path(rest).expanduser()), ""
    try:
        path, *words = shlex.split(rest)
    except ValueError:  # nothing, or a quote without its other
        raise InputError("/audio: write /audio FILE, or /audio 'FILE WITH SPACES' TEXT") from None
    return str(Path(path).expanduser()), " ".join(words)


def record() -> np.ndarray:
    """(n_samples,) float32 at 16 kHz from the microphone, until Enter."""
    try:
        import sounddevice
    except (ImportError, OSError) as e:
        raise InputError(
            f"/record needs the package sounddevice and the library PortAudio: pip install 'blsp[record]' ({e})"
        ) from None
    import numpy as np

    blocks: list[np.ndarray] = []
    try:
        microphone = sounddevice.InputStream(
            samplerate=audio.SAMPLE_RATE,
            channels=1,
            dtype="float32",
            callback=lambda block, *_: blocks.append(block[:, 0].copy()),
        )
        with microphone:
            input(RECORDING)
    except (sounddevice.PortAudioError, ValueError) as e:
        raise InputError(f"/record: the microphone cannot be read ({' '.join(str(e).split())})") from None
    if not blocks:
        raise InputError("/record: nothing was recorded")
    return np.concatenate(blocks)


if __name__ == "__main__":
    command.run(main)
