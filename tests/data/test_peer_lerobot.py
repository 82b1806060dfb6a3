from __future__ import annotations

import pytest
from helpers.dataset_samples import recorded_pusht
from helpers.peer_lerobot import compare, without_cameras, write_varied

pytest.importorskip("lerobot", reason="lerobot, the peer of this comparison, is not installed")


def test_lerobot_reads_what_is_written_here(tmp_path):
    windows = {"observation.state": (-1, 0), "observation.touch": (-2, 0), "action": tuple(range(16))}
    assert compare(write_varied(tmp_path / "own"), windows, samples=200)["windows_with_padding"] > 0


def test_what_lerobot_wrote_is_read_alike(tmp_path):
    root = without_cameras(recorded_pusht(), tmp_path / "view")
    compare(root, {"observation.state": (-1, 0), "action": tuple(range(16))}, samples=200)
