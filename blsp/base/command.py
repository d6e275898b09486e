"""What every program shares: one-line errors, logging, progress."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from tqdm import tqdm

from blsp.base.files import InputError

T = TypeVar("T")
LOG_EVERY = 15.0  # seconds between progress lines where there is no terminal
BAR_DELAY = 2.0  # seconds before a bar appears on a terminal
LIBRARIES = ("transformers", "huggingface_hub", "peft", "accelerate", "speechbrain")
TO_THEMSELVES = ("Passing `generation_config` together with",)  # warnings of what one part of a library does with another


def run(main: Callable[[], None]) -> None:
    """Run a program's main; an InputError becomes one line on standard error and exit status 1."""
    _calm_libraries()
    try:
        main()
    except InputError as e:
        print(f"{Path(sys.argv[0]).stem}: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def is_main_process() -> bool:
    """True in the only process, and in rank 0 of several."""
    return int(os.environ.get("RANK", "0")) == 0


def _calm_libraries() -> None:
    """Libraries' bars and log lines stay from between ours.

    Without a terminal there are no bars (progress() writes lines), on one those of long work only; a warning is seen once.
    """
    bars = {"delay": BAR_DELAY} if sys.stderr.isatty() else {"disable": True}
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, **bars)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in LIBRARIES:
            logging.getLogger(name).addFilter(_once)
    logging.setLoggerClass(_Logger)  # of libraries that are imported later


class _Logger(logging.getLoggerClass()):
    def __init__(self, name: str, level: int = logging.NOTSET):
        super().__init__(name, level)
        if name.partition(".")[0] in LIBRARIES:
            self.addFilter(_once)


_told: set[str] = set()


def _once(record: logging.LogRecord) -> bool:
    """Whether a library's log record is passed on: a warning or error the first time, a warning from rank 0 only."""
    text = record.getMessage()
    if record.levelno < logging.WARNING:
        return True
    if text in _told or text.startswith(TO_THEMSELVES) or not (is_main_process() or record.levelno >= logging.ERROR):
        return False
    _told.add(text)
    return True


class Console(logging.Handler):
    """Standard output as it is when a line is written, not as it was when the logger was made."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


def logger(name: str, file: str | Path | None = None) -> logging.Logger:
    """Rank 0's logger, to the console and, where one is named, to `file` (appended)."""
    log = logging.getLogger(name)
    log.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    log.propagate = False
    if not log.handlers:
        log.addHandler(Console())
    if file is not None and is_main_process() and not any(isinstance(h, logging.FileHandler) for h in log.handlers):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    return log


def progress(items: Iterable[T], total: int, title: str, unit: str = "utt", lines_to: IO[str] | None = None) -> Iterator[T]:
    """Pass `items` on; show a bar on a terminal, a plain line every 15 s elsewhere: on standard output or `lines_to`."""
    if sys.stderr.isatty() or not is_main_process():
        yield from tqdm(items, total=total, desc=title, unit=unit, dynamic_ncols=True, disable=not is_main_process())
        return
    begin = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= LOG_EVERY:
            shown = now
            left = (total - done) * (now - begin) / done
            print(f"{title}: {done} of {total} {unit}, {left:.0f} s left", file=lines_to, flush=True)


def commit() -> str:
    """The commit of the code that runs, "+" behind it if files other than records of results were changed since."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "-uno", "--", ":(top,exclude)*.md", ":(top,exclude)*.jsonl"]
        changed = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


def device(rank: int = 0) -> str:
    """The accelerator of process `rank`, or the CPU."""
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def share_work(work: Callable[..., None], args: tuple, ngpu: int, shard: str | None) -> None:
    """Call work(shard, n_shards, device, *args) here, in `ngpu` processes, or for the one part that `shard` ("2/7") names."""
    import torch

    if shard is not None:
        part, _, parts = shard.partition("/")
        if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
            raise InputError(f"--shard {shard}: write I/N with 1 <= I <= N, such as 2/7")
        work(int(part) - 1, int(parts), device(), *args)
    elif ngpu > 1:
        try:
            torch.multiprocessing.spawn(_shard, (work, ngpu, args), nprocs=ngpu)
        except torch.multiprocessing.ProcessExitedException:
            sys.exit(1)  # the process has said why
    else:
        work(0, 1, device(), *args)


def _shard(rank: int, work: Callable[..., None], n_shards: int, args: tuple) -> None:
    import torch

    os.environ["RANK"] = str(rank)  # progress and log lines from the first only
    torch.set_num_threads(max(1, torch.get_num_threads() // n_shards))
    run(lambda: work(rank, n_shards, device(rank), *args))
