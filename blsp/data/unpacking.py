"""Archives to files, without trusting the archive: nothing is written outside the target."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from blsp.base.files import InputError

CHUNK = 1 << 20  # bytes
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def unpack(archive: Path, folder: Path) -> Iterator[None]:
    """Unpack into `folder`, which has to be empty. Yields once for each MiB of the archive that is done.

    Raises InputError for an archive that is broken, or has an entry that would land outside: an absolute path, a `..`,
    a link that leaves the folder, a device.
    """
    try:
        yield from (_unzip if archive.name.lower().endswith(".zip") else _untar)(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as e:
        raise InputError(f"{archive}: cannot be unpacked ({e}); remove it and run again") from None


def _target(archive: Path, folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise InputError(f"{archive}: entry {name!r} would be written outside the target; nothing of it is used")
    return folder / path


def _write(source, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as f:
        shutil.copyfileobj(source, f, CHUNK)


def _untar(archive: Path, folder: Path) -> Iterator[None]:
    links: list[tuple[Path, tarfile.TarInfo]] = []
    shown = 0
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        for member in tar:
            target = _target(archive, folder, member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                _write(tar.extractfile(member), target)
            elif member.issym() or member.islnk():
                links.append((target, member))
            else:
                raise InputError(f"{archive}: entry {member.name!r} is a device or pipe; nothing of it is used")
            done = raw.tell() // CHUNK
            yield from [None] * (done - shown)
            shown = done
    # Links come last, so that no entry can be written through one.
    for target, member in links:
        if member.islnk():
            source = _target(archive, folder, member.linkname)
            if not source.is_file() or source.is_symlink():
                raise InputError(f"{archive}: link {member.name!r} has no file that it could mean")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    links = [(target, member) for target, member in links if member.issym()]
    for target, member in links:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isabs(member.linkname) or os.path.lexists(target):
            raise InputError(f"{archive}: link {member.name!r} leaves the target; nothing of it is used")
        target.symlink_to(member.linkname)
    root = os.path.join(os.path.realpath(folder), "")
    for target, member in links:
        if not os.path.join(os.path.realpath(target), "").startswith(root):
            raise InputError(f"{archive}: link {member.name!r} leaves the target; nothing of it is used")


def _unzip(archive: Path, folder: Path) -> Iterator[None]:
    done = shown = 0
    with zipfile.ZipFile(archive) as z:
        for info in z.infolist():
            target = _target(archive, folder, info.filename)
            if info.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif stat.S_ISLNK(info.external_attr >> 16):
                raise InputError(f"{archive}: entry {info.filename!r} is a link; nothing of it is used")
            else:
                with z.open(info) as source:
                    _write(source, target)
            done += info.compress_size
            yield from [None] * (done // CHUNK - shown)
            shown = done // CHUNK
