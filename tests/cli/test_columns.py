from aimbench.cli.columns import print_columns


def test_a_narrow_terminal_wraps_words_and_cuts_none(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    print_columns(("name", "what"), [("short", "a-word-that-is-longer-than-the-whole-terminal-is-wide")])
    drawn = capsys.readouterr().out
    assert "…" not in drawn
    rows = [line for line in drawn.splitlines() if "-" in line]
    assert len(rows) > 1, "the word takes several lines"
    assert "".join(line.replace("short", "").strip() for line in rows) == (
        "a-word-that-is-longer-than-the-whole-terminal-is-wide"
    )
