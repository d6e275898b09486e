"""Stage -1: download a corpus' archives, verify and unpack them.

Reads a table of archives (url, checksum, root, holds); writes what they hold into the corpus folder. What is there is
left alone, a download that broke off goes on, and nothing appears under its final name before it is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from blsp.base import command
from blsp.base.files import InputError
from blsp.data.corpus_files import read_rows
from blsp.data.unpacking import CHUNK, is_archive, unpack

ATTEMPTS = 6  # in a row that bring nothing
PAUSE = 2.0  # seconds before the second attempt, doubled for each further one
TIMEOUT = 60.0  # seconds without a byte
SPARE = 1 << 28  # bytes that stay free
DIGITS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True)
class Archive:
    """One file to download."""

    url: str
    checksum: str  # "md5:..." or "sha256:..." as published, "-" where nothing is
    root: str = "."  # the folder in the archive that becomes the corpus folder
    holds: str = ""  # what it brings there, relative to the corpus folder; this is how it is known to be done

    @property
    def name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus-dir", required=True, type=Path, help="the folder that the archives unpack to")
    parser.add_argument("--archives", type=Path, metavar="TSV", help="table with the columns url, checksum, root, holds")
    parser.add_argument("--only", default="", metavar="NAMES", help="of the table, only these `holds` (separated by spaces)")
    parser.add_argument("--archive-dir", type=Path, help="where archives are put, or lie already (default: in corpus-dir)")
    parser.add_argument("--url", help="instead of a table: one file")
    parser.add_argument("--md5", help="its checksum")
    parser.add_argument("--sha256", help="its checksum")
    parser.add_argument("--root", default=".", help="the folder in it that becomes the corpus folder")
    parser.add_argument("--holds", default="", help="what it brings, relative to the corpus folder")
    args = parser.parse_args(argv)
    if (args.archives is None) == (args.url is None):
        parser.error("give either --archives or --url")
    if args.url:
        checksum = f"md5:{args.md5}" if args.md5 else f"sha256:{args.sha256}" if args.sha256 else "-"
        archives = [_checked(Archive(args.url, checksum, args.root, args.holds), "--url")]
    else:
        archives = read_archives(args.archives, args.only.split())
    try:
        for archive in archives:
            fetch(archive, args.corpus_dir, args.archive_dir or args.corpus_dir / ".archives")
        if (
            args.archive_dir is None
            and (args.corpus_dir / ".archives").is_dir()
            and not os.listdir(args.corpus_dir / ".archives")
        ):
            (args.corpus_dir / ".archives").rmdir()
    except OSError as e:
        raise InputError(f"{e.filename or args.corpus_dir}: cannot be written ({e.strerror or e})") from None


def read_archives(path: Path, only: Sequence[str] = ()) -> list[Archive]:
    """The rows of an archives table, all or those whose `holds` is named. Raises InputError."""
    if not path.exists():
        readme = path.absolute().parents[1] / "README.md"
        raise InputError(f"{path}: is not there: this corpus asks for a form or an agreement; {readme} says how to get it")
    archives = []
    for row in read_rows(path, columns=("url", "checksum", "root", "holds")):
        if row.fault:
            raise InputError(f"{path}:{row.line}: {row.fault}")
        values = (row.values[name].strip() for name in ("url", "checksum", "root", "holds"))
        archives.append(_checked(Archive(*values), f"{path}:{row.line}"))
    if unknown := [name for name in only if name not in {archive.holds for archive in archives}]:
        raise InputError(f"{path}: has no {unknown[0]!r}; it has: {', '.join(archive.holds for archive in archives)}")
    return [archive for archive in archives if not only or archive.holds in only]


def _checked(archive: Archive, where: str) -> Archive:
    if urlsplit(archive.url).scheme not in ("http", "https") or not archive.name:
        raise InputError(f"{where}: {archive.url!r} is not an http(s) address of a file")
    kind, _, digits = archive.checksum.partition(":")
    if archive.checksum != "-" and not re.fullmatch(rf"[0-9a-fA-F]{{{DIGITS.get(kind, 0)}}}", digits or "?"):
        raise InputError(f"{where}: checksum {archive.checksum!r} should be md5:(32 digits), sha256:(64 digits) or -")
    for path in (archive.root, archive.holds):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{where}: {path!r} leaves the corpus folder")
    return archive


def fetch(archive: Archive, corpus_dir: Path, archive_dir: Path) -> None:
    """Have what `archive` holds in `corpus_dir`: download what is missing, verify, unpack. Raises InputError, OSError."""
    holds = archive.holds or ("" if is_archive(archive.name) else archive.name)
    if holds and (corpus_dir / holds).exists():
        print(f"{holds}: is there", flush=True)
        return
    archive_dir.mkdir(parents=True, exist_ok=True)
    corpus_dir.mkdir(parents=True, exist_ok=True)
    whole = archive_dir / archive.name
    if not whole.exists():
        part = whole.with_name(f"{whole.name}.part")
        resumed = part.exists()
        _download(archive.url, part)
        if resumed and not _verified(part, archive.checksum):
            print(f"{archive.name}: the earlier part does not belong to this file; from the beginning", flush=True)
            part.unlink()
            _download(archive.url, part)
        _verify(part, archive)
        os.replace(part, whole)
    else:
        _verify(whole, archive)
    if is_archive(archive.name):
        _install(archive, whole, corpus_dir)
    else:
        (corpus_dir / holds).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(whole, corpus_dir / holds)
    print(
        f"{holds or archive.name}: downloaded, {'verified' if archive.checksum != '-' else 'no checksum is published'}",
        flush=True,
    )


def _download(url: str, part: Path) -> None:
    """Bring `part` to its full length; whatever of it is there already stays."""
    failures, size = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            if _continue(url, part):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as e:
            if e.code < 500 and e.code not in (408, 429):
                raise InputError(f"{url}: is not available (HTTP {e.code} {e.reason}); {_by_hand(part)}") from None
            problem = f"HTTP {e.code} {e.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as e:
            problem = str(getattr(e, "reason", None) or e or type(e).__name__)
        before, size = size, part.stat().st_size if part.exists() else 0
        failures = 0 if size > before else failures + 1
        if failures >= ATTEMPTS:
            raise InputError(f"{url}: cannot be downloaded ({problem}); run again to go on, or {_by_hand(part)}")
        print(f"{url}: {problem}; goes on at {size / 1e6:.1f} MB", flush=True)
        time.sleep(PAUSE * 2 ** max(0, failures - 1))


def _by_hand(part: Path) -> str:
    return f"put {part.name.removesuffix('.part')} into {part.parent} by hand and run again"


def _continue(url: str, part: Path) -> bool:
    """One request. Returns whether the file is whole."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "blsp", "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # nothing behind what is there: the file is whole, or the part is not of it
            if (e.headers.get("Content-Range") or "").endswith(f"*/{have}"):
                return True
            part.unlink()
            return False
        raise
    with response:
        sent = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
        if response.status != 206 or not sent or int(sent[1]) != have:
            if response.status == 206:
                raise InputError(f"{url}: the server sends another part than asked for; remove {part} and run again")
            have = 0  # the server does not continue
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        _need_space(part.parent, (total or 0) * (2 if is_archive(part.name.removesuffix(".part")) else 1) - have, url)
        with open(part, "ab" if have else "wb") as f:
            n_chunks = -(-((total or have) - have) // CHUNK)
            for chunk in command.progress(_chunks(response), n_chunks, part.name.removesuffix(".part"), "MiB"):
                f.write(chunk)
    return part.stat().st_size == total if total is not None else True


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(CHUNK):
        yield chunk


def _need_space(folder: Path, n_bytes: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes + SPARE > free:
        raise InputError(
            f"{folder}: {n_bytes / 1e9:.1f} GB are needed for {what} and what it holds, {free / 1e9:.1f} GB are free"
        )


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind)
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _verified(path: Path, checksum: str) -> bool:
    kind, _, digits = checksum.partition(":")
    return checksum == "-" or _digest(path, kind) == digits.lower()


def _verify(path: Path, archive: Archive) -> None:
    if not _verified(path, archive.checksum):
        kind = archive.checksum.partition(":")[0]
        found = _digest(path, kind)
        wrong = path.with_name(f"{archive.name}.wrong")
        os.replace(path, wrong)
        raise InputError(f"{wrong}: has {kind} {found}, not the published {archive.checksum}; remove it and run again")


def _install(archive: Archive, path: Path, corpus_dir: Path) -> None:
    """Unpack beside, then move into the corpus folder; what shows that it is done comes last."""
    staging = corpus_dir / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        n_chunks = path.stat().st_size // CHUNK
        for _ in command.progress(unpack(path, staging), n_chunks, f"unpack {archive.name}", "MiB"):
            pass
        root = staging / archive.root
        if not root.is_dir() or (archive.holds and not (root / archive.holds).exists()):
            raise InputError(f"{path}: does not hold {PurePosixPath(archive.root) / archive.holds}")
        os.sync()
        last = PurePosixPath(archive.holds).parts
        for entry in sorted(root.iterdir(), key=lambda entry: (entry.name,) == last[:1]):
            _move(entry, corpus_dir / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    path.unlink()


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
    else:
        os.replace(source, target)


if __name__ == "__main__":
    command.run(main)
