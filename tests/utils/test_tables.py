"""Tables fit the terminal that shows them, and are one line a row elsewhere."""

from __future__ import annotations

from trainer.utils.tables import table, terminal_width

ROWS = [
    ("holds", "the order is the same for all who ask, and another in every epoch", "0.0% of the places"),
    ("does not apply", "workers read the same samples", "data.num_workers is 0"),
]


def test_a_row_is_a_line_where_no_terminal_shows_it() -> None:
    assert terminal_width() is None
    lines = table(ROWS)
    assert len(lines) == 2
    assert lines[0].index("0.0%") == lines[1].index("data.num")


def test_on_a_narrow_terminal_no_line_is_longer_and_no_word_is_lost() -> None:
    lines = table(ROWS, width=60)
    assert max(map(len, lines)) <= 60
    assert len(lines) > 2
    words = sorted(" ".join(" ".join(row) for row in ROWS).split())
    assert sorted(" ".join(lines).split()) == words
    assert table(ROWS, width=200) == table(ROWS)


def test_a_name_that_is_longer_than_a_line_goes_on_where_it_has_a_joint() -> None:
    name = "observation_encoder of minimal/observation_encoder.yaml " + "x" * 30
    assert table([(name,)], width=14) == [
        "observation_",
        "encoder of",
        "minimal/",
        "observation_",
        "encoder.yaml",
        "x" * 14,
        "x" * 14,
        "x" * 2,
    ]


def test_numbers_end_below_each_other() -> None:
    assert table([("a", "1"), ("bc", "1,000")], left=1) == ["a       1", "bc  1,000"]
