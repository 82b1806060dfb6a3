"""Files and folders that exist whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.utils.files import whole_file, whole_folder


def test_a_failed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_writer_leaves_no_folder(tmp_path: Path) -> None:
    def write() -> None:
        with whole_folder(tmp_path / "set") as folder:
            (folder / "a").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_writer_left_is_not_in_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / "set.incomplete").mkdir()
    (tmp_path / "set.incomplete/old").write_text("rest of a killed writer")
    with whole_folder(tmp_path / "set") as folder:
        (folder / "new").write_text("x")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["new"]


def test_an_older_folder_makes_way_only_when_asked(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with whole_folder(tmp_path / "set", replace=True) as folder:
            (folder / "a").write_text(text)
    assert (tmp_path / "set/a").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]

    def without() -> None:
        with whole_folder(tmp_path / "set") as folder:
            (folder / "a").write_text("three")

    with pytest.raises(OSError, match=r"not empty|exists"):
        without()
    assert (tmp_path / "set/a").read_text() == "two"
