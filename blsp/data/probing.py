"""Decoding many files in parallel to learn what is in them; what was learned is kept in a journal.

A file that crashes the decoder costs its worker process, not the run. A run that is killed goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import soundfile

from blsp.base.command import progress
from blsp.base.files import fingerprint
from blsp.data import audio

CHUNK_FILES = 64  # files that one worker takes at once
CHUNK_BYTES = 4 << 20  # or as many bytes
AHEAD = 4  # chunks that wait for each worker
File = tuple[str, int, int]  # absolute path, size in bytes, modification time in ns
Outcome = audio.Probe | str  # or why nothing decodes
CRASHED = "undecodable audio: the decoder crashed"
NO_MEMORY = "undecodable audio: not enough memory"
NOT_LASTING = (CRASHED, NO_MEMORY)  # what another run may find otherwise
UNFIT = re.compile(r"[\n\r\x00\ud800-\udfff]")  # in a path of wav.scp


class AudioFiles:
    """Looks at the audio files of a corpus without opening them."""

    def __init__(self, corpus_dir: Path):
        self.root = os.path.realpath(corpus_dir)
        self.folders: dict[str, str] = {}  # without links
        self.seen: dict[str, File | str] = {}

    def look(self, path: Path) -> File | str:
        """A file's absolute path, size and modification time, or why it cannot be used."""
        name = os.fspath(path)
        if name not in self.seen:
            self.seen[name] = self._look(name)
        return self.seen[name]

    def _look(self, name: str) -> File | str:
        try:
            name = os.path.realpath(name) if f"{os.sep}.." in name else os.path.abspath(name)
            folder, base = os.path.split(name)
            if folder not in self.folders:
                self.folders[folder] = os.path.realpath(folder)
            real = os.path.join(self.folders[folder], base)
            if not self._inside(real):
                return "path leaves the corpus folder"
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                if not self._inside(os.path.realpath(real)):
                    return "path leaves the corpus folder"
                status = os.stat(real)
        except (FileNotFoundError, NotADirectoryError):
            return "missing audio"
        except (OSError, ValueError) as e:  # a name that no file can have
            return f"missing audio: {getattr(e, 'strerror', None) or e}"
        if UNFIT.search(name) or name != name.strip() or name.endswith("|"):
            return "path cannot stand in wav.scp"
        if not stat.S_ISREG(status.st_mode):
            return "unreadable audio: not a regular file"
        if status.st_size == 0:
            return "empty audio file"
        if not os.access(real, os.R_OK):
            return "unreadable audio: permission denied"
        return name, status.st_size, status.st_mtime_ns

    def _inside(self, real: str) -> bool:
        return real.startswith(os.path.join(self.root, ""))


class Prober:
    """Decodes each file once, as long as its size and modification time stay."""

    def __init__(self, folder: str | Path, name: str, nj: int):
        """Keep the journal in `folder`; `name` tells the journals of several corpora apart. `nj` processes decode."""
        key = fingerprint([name, soundfile.__libsndfile_version__, audio.VERSION])
        self.journal = Path(folder) / f".decoded.{key}.jsonl"
        self.nj = nj
        self.known: dict[str, tuple[int, int, Outcome]] | None = None

    def probe(self, files: Sequence[File], title: str) -> dict[str, Outcome]:
        """The outcome for each path. Shows progress where files have to be decoded."""
        if self.known is None:
            self.known = dict(self._read())
        todo = [file for file in files if self.known.get(file[0], (None, None))[:2] != file[1:]]
        if todo:
            stamps = {path: stamp for path, *stamp in todo}
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with open(self.journal, "a+b") as journal:
                if journal.tell() and os.pread(journal.fileno(), 1, journal.tell() - 1) != b"\n":
                    journal.write(b"\n")  # a kill tore the last line
                for path, outcome in progress(self._decode(todo, journal, stamps), len(todo), title, "files"):
                    self.known[path] = (*stamps[path], outcome)
        return {path: self.known[path][2] for path, _, _ in files}

    def _decode(self, todo: Sequence[File], journal, stamps: dict) -> Iterator[tuple[str, Outcome]]:
        for results in probe_chunks(_chunks(todo), self.nj):
            for path, outcome in results:
                fields = [outcome] if isinstance(outcome, str) else list(vars(outcome).values())
                if outcome not in NOT_LASTING:
                    journal.write(json.dumps([path, *stamps[path], *fields]).encode() + b"\n")
                yield path, outcome
            journal.flush()

    def _read(self) -> Iterator[tuple[str, tuple[int, int, Outcome]]]:
        if not self.journal.exists():
            return
        with open(self.journal, "rb") as f:
            for line in f:
                try:
                    path, size, mtime, *fields = json.loads(line)
                    yield path, (size, mtime, fields[0] if len(fields) == 1 else audio.Probe(*fields))
                except (ValueError, TypeError):  # torn by a kill
                    continue


def _chunks(files: Sequence[File]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for path, n_bytes, _ in files:
        chunk.append(path)
        size += n_bytes
        if len(chunk) >= CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def probe_chunks(chunks: Iterator[list[str]], nj: int) -> Iterator[list[tuple[str, Outcome]]]:
    """The outcomes of lists of paths, as they are ready. A worker that dies costs only the file that it dies of."""
    waiting: deque[list[str]] = deque(chunks)
    while waiting:
        running: dict[Future, list[str]] = {}
        pool = _pool(nj)
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * nj:
                    running[pool.submit(_probe_chunk, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:  # nothing tells which file it was
            for chunk in running.values():
                yield [(path, _probe_alone(path)) for path in chunk]
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(nj: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(nj, mp_context=context, initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the run
    # Decoders write their own remarks to standard error, in the middle of the progress bar.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _probe_alone(path: str) -> Outcome:
    for _ in range(2):  # the first time may have been somebody's kill
        with _pool(1) as pool:
            try:
                return pool.submit(_probe_chunk, [path]).result()[0][1]
            except BrokenProcessPool:
                continue
    return CRASHED


def _probe_chunk(paths: list[str]) -> list[tuple[str, Outcome]]:
    return [(path, _outcome(path)) for path in paths]


def _outcome(path: str) -> Outcome:
    try:
        return audio.probe(path)
    except audio.AudioError as e:
        return e.reason
    except MemoryError:
        return NO_MEMORY
    except (OSError, RuntimeError, ValueError, TypeError) as e:
        return f"undecodable audio: {type(e).__name__}"
