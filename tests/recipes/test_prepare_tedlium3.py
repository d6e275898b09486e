"""TED-LIUM 3: SPHERE talks, stm lines, markup, and what a damaged copy does."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_run import prepared, refused, rejected, table, write_audio


def talk(folder: Path, name: str, lines: list[str], seconds: float = 3.0, encoding: str = "utf-8", end: str = "\n") -> None:
    write_audio(folder / "sph" / f"{name}.sph", seconds, format="NIST")
    (folder / "stm").mkdir(exist_ok=True)
    (folder / "stm" / f"{name}.stm").write_bytes("".join(line + end for line in lines).encode(encoding))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tedlium3") / "TEDLIUM_release-3"
    talk(root / "data", "Al_2010", ["Al_2010 1 Al_2010 0.00 1.50 <NA> {NOISE} it 's a <unk> privilege"])
    for kind in ("sph", "stm"):
        (root / "legacy/train" / kind).mkdir(parents=True)
        (root / "legacy/train" / kind / f"Al_2010.{kind}").symlink_to(f"../../../data/{kind}/Al_2010.{kind}")
    (root / "legacy/train/stm/._Al_2010.stm").write_bytes(b"\0macOS")
    test = root / "legacy/test"
    talk(
        test,
        "Jo_2011",
        [
            ";; a comment",
            "Jo_2011 1 inter_segment_gap 0.00 0.30 <o,,unknown> ignore_time_segment_in_scoring",
            "Jo_2011 1 Jo_2011 0.30 0.80 <o,f0,female> we 're here <sil> is(2) don 't (Jo_2011-0.30-0.80)",
            "Jo_2011 1 Jo_2011 0.80 1.20 the label is missing just 'cause",
            "Jo_2011 1 Jo_2011 1.20 1.60 <F0_F> null",
            "Jo_2011 1 Jo_2011 1.60 1.90 <o,f0,female> <unk> {NOISE}",
            "Jo_2011 1 Jo_2011 1.60 1.95 <o,f0,female>",
            "Jo_2011 1 Jo_2011 2.50 9.90 <o,f0,female> beyond the end",
            "Jo_2011 1 Jo_2011 1.00 1.05 <o,f0,female> short",
            "Jo_2011 1 Jo_2011 1.20 1.60 <F0_F> twice",
            "Jo_2011 1 Jo_2011 one 1.60 <F0_F> no number",
            "Jo_2011 1",
            "",
            "Absent_2011 1 Absent_2011 0.00 1.00 <NA> absent",
            "../../../outside 1 x 0.00 1.00 <NA> outside",
        ],
    )
    write_audio(root.parent / "outside.sph", format="NIST")
    talk(test, "x;$(touch pwned)'_2011", ["x;$(touch pwned)'_2011 1 x 0.00 1.00 <NA> a name with a blank"])
    talk(test, "y;'$(id)_2011", ["y;'$(id)_2011 1 y 0.00 1.00 <NA> an odd name"])
    talk(test, "Ke_2011", ["Ke_2011 1 Ke_2011 0.00 1.00 <o,f0,male> read\u00a0me"], encoding="utf-16", end="\r\n")
    write_audio(test / "sph/Unheard_2011.sph", format="NIST")
    whole = (test / "sph/Ke_2011.sph").read_bytes()
    talk(test, "Cut_2011", ["Cut_2011 1 Cut_2011 2.00 2.90 <o,f0,male> cut off"])
    (test / "sph/Cut_2011.sph").write_bytes(whole[: len(whole) // 2])
    prepared("tedlium3", root, root.parent / "data")
    assert not list(Path.cwd().glob("pwned")) and not list(root.rglob("pwned"))
    return root.parent / "data"


def test_linked_training_talks_without_markup(data: Path) -> None:
    assert table(data / "train/text") == {"Al_2010-0000000-0000150": "it's a privilege"}
    assert table(data / "train/utt2spk") == {"Al_2010-0000000-0000150": "Al_2010"}
    assert table(data / "train/segments")["Al_2010-0000000-0000150"].split()[0] == "Al_2010"


def test_lines_of_several_dialects(data: Path) -> None:
    assert table(data / "test/text") == {
        "Jo_2011-0000030-0000080": "we're here is don't",
        "Jo_2011-0000080-0000120": "the label is missing just 'cause",
        "Jo_2011-0000120-0000160": "null",
        "Ke_2011-0000000-0000100": "read me",
        "y;'$(id)_2011-0000000-0000100": "an odd name",
    }


def test_bad_lines_are_named(data: Path) -> None:
    reasons = rejected(data / "test")
    assert "ignore_time_segment" in reasons["Jo_2011-0000000-0000030"]
    by_the_core = {
        "Jo_2011-0000160-0000190",
        "Jo_2011-0000160-0000195",
        "Jo_2011-0000250-0000990",
        "Jo_2011-0000100-0000105",
        "Jo_2011-0000120-0000160",
        "Absent_2011-0000000-0000100",
        "../../../outside-0000000-0000100",
        "Cut_2011-0000200-0000290",
    }
    by_the_parser = {
        "Jo_2011-0000000-0000030",
        "Jo_2011.stm:11",
        "Jo_2011.stm:12",
        "x;$(touch pwned)'_2011.stm:1",  # stm has no quoting: a blank in a talk's name breaks the line
        "Unheard_2011.sph",
    }
    assert set(reasons) == by_the_core | by_the_parser


def test_broken_corpora_are_one_line(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "TEDLIUM_release-3", tmp_path / "data"
    write_audio(root / "legacy/dev/sph/Al_2010.sph", format="NIST")
    assert "stm" in refused("tedlium3", root, data_dir)
    assert str(tmp_path) in refused("tedlium3", tmp_path, data_dir)
