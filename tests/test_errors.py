"""What a user is told."""

from __future__ import annotations

import pytest

from hyperadapt.errors import notice, printable


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed() -> None:
    assert printable("a\x1b]0;title\x07\x9b31m\u202eb\ud800") == r"a\x1b]0;title\x07\x9b31m\u202eb\ud800"
    assert printable("é 漢字\tand\nlines 🙂 می‌خواهم") == "é 漢字\tand\nlines 🙂 می‌خواهم"


def test_a_notice_is_one_line_of_the_first_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notice("40 of 40 rows are \x1bcut")
    monkeypatch.setenv("RANK", "1")
    notice("and said once")
    captured = capsys.readouterr()
    assert captured.err == "note: 40 of 40 rows are \\x1bcut\n"
    assert captured.out == ""
