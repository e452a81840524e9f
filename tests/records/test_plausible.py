"""What a record cannot be is left out where it is read, with the reason; whatever is read, every verb can show."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softbench import records
from softbench.__main__ import main

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(RESULTS.rglob("*.jsonl"))
ODD: tuple[Any, ...] = (
    1e300, 1e308, -1.0, 0, -5, 1e-300, 2**62, 3.5, "", "x" * 5000, "字" * 30, "\ud800", "a\nb", "<b>", "nan", "1", None,
    True, [], {}, [1], [[1]], {"a": 1}, [None], ["a", "b"], {"floor": "x"}, [1e308, 1e308], [-1e308, 1e308], 10**15)
KEYS = ("odd", "tokens", "measure", "q1", "env.x", "value", "work", "limit", "ci95", "trace", "task", "a.b", "")


def of(measure: str, quantity: str = "") -> dict[str, Any]:
    """A committed record of this measure, as JSON."""
    lines = (json.loads(line) for file in FILES for line in file.read_text().splitlines())
    return next(row for row in lines if row["measure"] == measure and quantity in ("", row["quantity"]))


@pytest.mark.parametrize(("changed", "reason"), [
    ({"value": 1e300}, "1e+300 s cannot be"), ({"value": 1e308}, "1e+308 s cannot be"),
    ({"value": -1e-3}, "-0.001 s cannot be"), ({"samples": [1e-3, -1e-3]}, "-0.001 s cannot be"),
    ({"value": -1, "unit": "B"}, "-1 B cannot be"), ({"value": 1e301, "unit": "1"}, "1e+301 cannot be"),
    ({"rows": 0}, "rows is 0, which cannot be"), ({"cols": -4}, "cols is -4, which cannot be"),
    ({"batch": -1}, "batch is -1, which cannot be"), ({"rows": 2**62}, "which cannot be"),
    ({"dtype": "x" * 5000}, "dtype has 5,000 characters, and 100 at most can be"),
    ({"coords": {"task": ["a"]}}, "coords.task is not what it must be"),
    ({"coords": {"tokens": 5}}, "the coordinate 'tokens' has the name of a field"),
    ({"coords": {"env.gpu": 5}}, "the coordinate 'env.gpu' has the name of a field"),
    ({"environment": {"threads": [2]}}, "environment.threads is not what it must be"),
    ({"detail": {"work": "much"}}, "detail.work is not what it must be"),
    ({"detail": {"work": {"bytes": 0, "flops": 1}}}, "detail.work is not what it must be"),
    ({"detail": {"limit": {"floor": 1e-3}}}, "detail.limit is not what it must be"),
    ({"detail": {"ci95": [1]}}, "detail.ci95 is not what it must be"),
    ({"detail": {"ci95": [-1e308, 1e308]}}, "detail.ci95 is not what it must be"),
    ({"detail": {"trace": ["a"]}}, "detail.trace is not what it must be"),
    ({"detail": {"curve": [[1]]}}, "detail.curve is not what it must be"),
    ({"detail": {"foreign_cpu": "all"}}, "detail.foreign_cpu is not what it must be"),
])
def test_what_cannot_be_is_left_out_with_its_reason(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    whole = of("latency")
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(whole)}\n{json.dumps(whole | changed)}\n")
    found, problems = records.read(path)
    assert found == [records.from_json(json.dumps(whole))]
    assert len(problems) == 1
    assert "line 2 is not a record" in problems[0]
    assert reason in problems[0]


def test_everything_that_was_ever_recorded_here_can_be() -> None:
    for file in FILES:
        assert records.read(file)[1] == []


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each entry within a record, of long lists to the first three."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*at, key)
        yield from places(entry, (*at, key))


def spoilt(source: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """A copy in which one to three entries are of another type or size, are gone, or are new."""
    row: dict[str, Any] = json.loads(json.dumps(whole))
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        *way, key = source.choice([place for place in places(row) if place != ("schema",)])
        owner: Any = row
        for step in way:
            owner = owner[step]
        odd = json.loads(json.dumps(source.choice(ODD)))
        what = source.random()
        if what < 0.15 and isinstance(owner, dict):
            del owner[key]
        elif what < 0.25 and isinstance(owner, dict):
            owner[source.choice(KEYS)] = odd
        elif what < 0.35 and isinstance(owner[key], int | float):
            owner[key] *= source.choice((-1, 0, 1e3, 1e-9, 1e20))
        else:
            owner[key] = odd
    return row


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_no_record_ends_a_verb_in_a_traceback(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other records of the file stay, whatever stands beside them."""
    source = random.Random(file.name)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    base, mixed = tmp_path / "base.jsonl", tmp_path / "mixed.jsonl"
    pictures = [("plot", str(mixed), "--out", str(tmp_path / "p.svg")),
                ("report", str(mixed), "--out", str(tmp_path / "r.html")),
                ("compare", str(base), str(mixed), "--plot", str(tmp_path / "c.svg"))]
    for turn in range(4):
        start = source.randrange(len(rows))
        whole = rows[start : start + source.choice((1, 3, 12))]
        bad = [spoilt(source, source.choice(whole)) for _ in range(source.randint(1, 12))]
        base.write_text("".join(json.dumps(row) + "\n" for row in whole))
        mixed.write_text("".join(json.dumps(row) + "\n" for row in [*bad, *whole]))
        kept = {record.to_json() for record in records.read(mixed)[0]}
        assert {records.from_json(json.dumps(row)).to_json() for row in whole} <= kept
        runs = [("show", str(mixed)), ("show", str(mixed), "--format", source.choice(("csv", "md", "jsonl"))),
                ("export", str(mixed), "--format", source.choice(("junit", "pytest-benchmark", "github-action"))),
                ("compare", str(mixed), str(base), "--all", "--format", source.choice(("table", "csv", "jsonl")))]
        for arguments in [*runs, *(pictures if turn == 0 else ())]:
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
            assert ended.value.code in (0, 1, 2, 3, 5), arguments
        capsys.readouterr()
