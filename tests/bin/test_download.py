"""Stage -1 against a server on this machine that breaks off, ignores ranges, lies, and serves hostile archives."""

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from blsp.base.files import InputError
from blsp.bin import download

CONTENT = os.urandom(3 << 20)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        body = server.files.get(self.path.rpartition("/")[2])
        server.requests.append(self.headers.get("Range"))
        if body is None:
            self.send_error(server.missing)
            return
        begin = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and server.ranges else 0
        if begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        end = begin + server.breaks_after.pop(0) if server.breaks_after else len(body)
        self.wfile.write(body[begin:end])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.files, http.requests, http.breaks_after, http.ranges, http.missing = {}, [], [], True, 404
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    http.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield http
    http.shutdown()
    http.server_close()


def tar_of(*members, kind="gz"):
    """A tar of (name, bytes or a TarInfo type with its link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return buffer.getvalue()


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


def table(path, *rows):
    path.write_text("".join("\t".join(row) + "\n" for row in (("url", "checksum", "root", "holds"), *rows)))
    return path


def run(server, tmp_path, *rows, more=()):
    rows = [(f"{server.url}/{name}", *rest) for name, *rest in rows]
    archives = table(tmp_path / "archives.tsv", *rows)
    download.main(["--archives", str(archives), "--corpus-dir", str(tmp_path / "corpus"), *more])
    return tmp_path / "corpus"


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_archives_are_unpacked_into_one_folder_once(server, tmp_path, capsys):
    dev = tar_of(("L/README", b"1"), ("L/dev/1/a.flac", b"a"), ("L/dev/1/a.txt", b"A"))
    test = tar_of(("L/README", b"1"), ("L/test/2/b.flac", b"b"), kind="xz")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("L/train/c.flac", "c")
    server.files = {"dev.tar.gz": dev, "test.tar.xz": test, "train.zip": buffer.getvalue(), "list.json": b"[]"}
    rows = (
        ("dev.tar.gz", md5(dev), "L", "dev"),
        ("test.tar.xz", f"sha256:{hashlib.sha256(test).hexdigest()}", "L", "test"),
        ("train.zip", "-", "L", "train"),
        ("list.json", "-", ".", "list.json"),
    )
    corpus = run(server, tmp_path, *rows)
    expected = "README dev dev/1 dev/1/a.flac dev/1/a.txt list.json test test/2 test/2/b.flac train train/c.flac"
    assert " ".join(tree(corpus)) == expected
    server.requests.clear()
    run(server, tmp_path, *rows)
    assert not server.requests and "dev: is there" in capsys.readouterr().out


def test_only_what_is_asked_for(server, tmp_path):
    dev = tar_of(("L/dev/a", b"a"))
    server.files = {"dev.tgz": dev}
    rows = (("dev.tgz", md5(dev), "L", "dev"), ("test.tgz", md5(dev), "L", "test"))
    assert tree(run(server, tmp_path, *rows, more=["--only", "dev"])) == ["dev", "dev/a"]
    with pytest.raises(InputError, match="has no 'train'; it has: dev, test"):
        run(server, tmp_path, *rows, more=["--only", "dev train"])


def test_a_connection_that_breaks_off_is_continued(server, tmp_path):
    server.files = {"big.bin": CONTENT}
    server.breaks_after = [1 << 20, 1000, 0]
    corpus = run(server, tmp_path, ("big.bin", md5(CONTENT), ".", "big.bin"))
    assert (corpus / "big.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1048576-", "bytes=1049576-", "bytes=1049576-"]
    assert tree(corpus) == ["big.bin"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files, server.ranges, server.breaks_after = {"big.bin": CONTENT}, False, [1 << 20]
    corpus = run(server, tmp_path, ("big.bin", md5(CONTENT), ".", "big.bin"))
    assert (corpus / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[: 1 << 20], CONTENT, b"x" * 1000, CONTENT + b"more"])
def test_what_an_earlier_run_left(server, tmp_path, part):
    server.files = {"big.bin": CONTENT}
    (tmp_path / "corpus" / ".archives").mkdir(parents=True)
    (tmp_path / "corpus" / ".archives" / "big.bin.part").write_bytes(part)
    corpus = run(server, tmp_path, ("big.bin", md5(CONTENT), ".", "big.bin"))
    assert (corpus / "big.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_unpacks_nothing(server, tmp_path):
    dev = tar_of(("L/dev/a", b"a"))
    server.files = {"dev.tar.gz": dev}
    with pytest.raises(InputError, match=r"dev.tar.gz.wrong: has md5 [0-9a-f]{32}, not the published md5:0000"):
        run(server, tmp_path, ("dev.tar.gz", "md5:" + "0" * 32, "L", "dev"))
    assert tree(tmp_path / "corpus") == [".archives", ".archives/dev.tar.gz.wrong"]


def test_an_archive_that_lies_there_is_verified_and_used(server, tmp_path):
    dev = tar_of(("L/dev/a", b"a"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dev.tar.gz").write_bytes(dev)
    more = ["--archive-dir", str(tmp_path / "mine")]
    corpus = run(server, tmp_path, ("dev.tar.gz", md5(dev), "L", "dev"), more=more)
    assert tree(corpus) == ["dev", "dev/a"] and not server.requests


def test_servers_that_do_not_have_it(server, tmp_path):
    with pytest.raises(InputError, match=r"is not available \(HTTP 404 Not Found\); put no.tgz into"):
        run(server, tmp_path, ("no.tgz", "-", "L", "dev"))
    server.missing = 503
    with pytest.raises(InputError, match="cannot be downloaded .HTTP 503 Service Unavailable.; run again"):
        run(server, tmp_path, ("no.tgz", "-", "L", "dev"))
    server.url = "http://127.0.0.1:9"
    with pytest.raises(InputError, match="Connection refused"):
        run(server, tmp_path, ("no.tgz", "-", "L", "dev"))


HOSTILE = {
    "dots": [("L/dev/a", b"a"), ("L/../../evil", b"x")],
    "absolute": [("/tmp/evil", b"x")],
    "link out": [("L/dev/a", b"a"), ("L/dev/b", (tarfile.SYMTYPE, "../../../../etc"))],
    "absolute link": [("L/dev/a", b"a"), ("L/dev/b", (tarfile.SYMTYPE, "/etc/passwd"))],
    "through a link": [("L/dev", (tarfile.SYMTYPE, "..")), ("L/dev/../../evil", b"x")],
    "under a link": [("L/dev", (tarfile.SYMTYPE, "/tmp")), ("L/dev/evil", b"x")],
    "chain of links": [("L/a", (tarfile.SYMTYPE, ".")), ("L/dev/b", (tarfile.SYMTYPE, "../a/../../../x"))],
    "hard link out": [("L/dev/a", (tarfile.LNKTYPE, "../../etc/passwd"))],
    "hard link to nothing": [("L/dev/a", (tarfile.LNKTYPE, "L/none"))],
    "device": [("L/dev/a", (tarfile.CHRTYPE, ""))],
    "pipe": [("L/dev/a", (tarfile.FIFOTYPE, ""))],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_nothing(server, tmp_path, name):
    content = tar_of(*HOSTILE[name])
    server.files = {"dev.tar.gz": content}
    with pytest.raises(InputError, match="outside the target|leaves the target|device or pipe|has no file"):
        run(server, tmp_path, ("dev.tar.gz", md5(content), "L", "dev"))
    assert tree(tmp_path) == ["archives.tsv", "corpus", "corpus/.archives", "corpus/.archives/dev.tar.gz"]
    assert not os.path.exists("/tmp/evil")


def test_hostile_and_broken_zips(server, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("../evil", "x")
    server.files = {"dev.zip": buffer.getvalue(), "cut.tar.gz": tar_of(("L/dev/a", CONTENT))[:100_000], "no.zip": b"PK"}
    for name, message in (("dev.zip", "outside the target"), ("cut.tar.gz", "cannot be unpacked"), ("no.zip", "cannot be")):
        with pytest.raises(InputError, match=message):
            run(server, tmp_path, (name, "-", "L", "dev"))
        assert not (tmp_path / "corpus" / "dev").exists() and not (tmp_path / "evil").exists()


def test_links_inside_are_kept(server, tmp_path):
    content = tar_of(
        ("L/legacy/a.sph", (tarfile.SYMTYPE, "../data/a.sph")),
        ("L/data/a.sph", b"a"),
        ("L/b.sph", (tarfile.LNKTYPE, "L/data/a.sph")),
    )
    server.files = {"t.tar.gz": content}
    corpus = run(server, tmp_path, ("t.tar.gz", md5(content), "L", "legacy"))
    assert (corpus / "legacy" / "a.sph").read_bytes() == (corpus / "b.sph").read_bytes() == b"a"


def test_an_archive_of_something_else(server, tmp_path):
    server.files = {"t.tar.gz": tar_of(("M/x", b"x"))}
    with pytest.raises(InputError, match="does not hold L/dev"):
        run(server, tmp_path, ("t.tar.gz", "-", "L", "dev"))


def test_disk_space(server, tmp_path, monkeypatch):
    server.files = {"big.bin": CONTENT}
    monkeypatch.setattr(download, "SPARE", 1 << 60)
    with pytest.raises(InputError, match="GB are needed for .*, .* GB are free"):
        run(server, tmp_path, ("big.bin", "-", ".", "big.bin"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("file:///etc/passwd", "-", ".", "x"), "archives.tsv:2: 'file:///etc/passwd' is not an http"),
        (("http://h/a.tgz", "md5:12", ".", "x"), "checksum 'md5:12' should be"),
        (("http://h/a.tgz", "-", ".", "../x"), "'../x' leaves the corpus folder"),
        (("http://h/a.tgz", "-"), "archives.tsv:2: broken line"),
    ],
)
def test_tables_that_are_wrong(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        download.read_archives(table(tmp_path / "archives.tsv", row))


def test_a_corpus_without_a_table_says_where_to_ask(tmp_path):
    with pytest.raises(InputError, match=f"this corpus asks for a form .*{tmp_path}/fsc/README.md says how"):
        download.read_archives(tmp_path / "fsc" / "local" / "archives.tsv")


def test_one_url(server, tmp_path):
    server.files = {"a b.json": b"[]"}
    server.files["a%20b.json"] = b"[]"
    options = ["--url", f"{server.url}/a%20b.json", "--md5", hashlib.md5(b"[]").hexdigest()]
    download.main([*options, "--corpus-dir", str(tmp_path / "c")])
    assert tree(tmp_path / "c") == ["a b.json"]
