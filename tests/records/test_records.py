"""Records: what is written is read back, and nothing that happens to a file loses or invents a number."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softbench
from softbench import records
from softbench.errors import ResultsError
from softbench.records import About, Point, Reading, Record
from softbench.stats import median, quartiles

ROOT = Path(__file__).parents[2]


def record(tokens: int = 16, **changed: Any) -> Record:
    fields: dict[str, Any] = {
        "measure": "latency", "quantity": "latency", "value": 2e-3, "unit": "s", "samples": [1e-3, 2e-3, 4e-3],
        "status": "ok", "note": "", "detail": {"calls": 3}, "attention": "soft", "options": {"landmarks": 49},
        "model": None, "impl": "eager", "mode": "forward", "batch": 1, "heads": 2, "rows": 1, "cols": tokens,
        "head_dim": 8, "dtype": "float32", "device": "cpu", "seed": 0, "coords": {"inputs": "normal"},
        "label": "soft", "environment": {"machine": "m", "threads": 2}, "started": "2026-01-01T00:00:00+00:00"}
    return Record(**(fields | changed))


def as_line(**changed: Any) -> str:
    return json.dumps(json.loads(record().to_json()) | changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "x.jsonl"


def test_round_trip(path: Path) -> None:
    odd = record(value=None, samples=[], status="oom", note="x\ny \u2028 \udcff 'π'")
    written = [record(), odd, record(seed=1, value=3)]
    records.append(path, written[:2])
    records.append(path, written[2:])
    assert records.read(path) == (written, [])
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_record_with_a_number_json_lacks_is_never_written(path: Path, value: float) -> None:
    for broken in (record(value=value), record(samples=[1.0, value]), record(detail={"a": [value]})):
        with pytest.raises(ValueError, match="JSON"):
            records.append(path, [record(), broken])
    assert not path.exists()


def test_identity_is_everything_but_number_and_origin() -> None:
    others: dict[str, Any] = {
        "value": 1.0, "unit": "B", "samples": [], "status": "failed", "note": "n", "detail": {}, "label": "l",
        "environment": {}, "started": "t", "schema": 1}
    fields = {f.name for f in dataclasses.fields(Record)}
    for name, value in others.items():
        assert record(**{name: value}).identity() == record().identity(), name
    for name in fields - set(others):
        usual = getattr(record(), name)
        text: Any = f"{usual}x" if isinstance(usual, str) else {**usual, "x": 1} if isinstance(usual, dict) else None
        changed = usual + 1 if isinstance(usual, int) else "a model" if usual is None else text
        assert record(**{name: changed}).identity() != record().identity(), name


def test_identity_survives_the_file_and_ignores_the_order_of_options(path: Path) -> None:
    one, two = record(options={"a": 1, "b": 0.1}), record(options={"b": 0.1, "a": 1})
    records.append(path, [one])
    assert records.read(path)[0][0].identity() == one.identity() == two.identity()


def test_last_line_torn_at_every_byte(path: Path) -> None:
    first, last = record(), record(tokens=32)
    records.append(path, [first, last])
    whole = path.read_bytes()
    start = len(first.to_json()) + 1
    for cut in range(start + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        found, problems = records.read(path)
        assert found == [first]
        assert problems == [f"{path}, line 2 is torn (its writer was interrupted); it is left out."]
        if cut % 16 == 0 or cut > len(whole) - 8:
            records.append(path, [record(tokens=64)])
            found, problems = records.read(path)
            assert [r.cols for r in found] == [16, 64]
            assert problems == [f"{path}, line 2 is not a record (not JSON); it is left out."]
    path.write_bytes(whole[:-1])  # only the newline is missing: the record is whole
    assert records.read(path) == ([first, last], [])
    records.append(path, [record(tokens=64)])
    assert [r.cols for r in records.read(path)[0]] == [16, 32, 64]


def test_writing_nothing_changes_nothing(path: Path) -> None:
    records.append(path, [record()])
    before = path.read_bytes()
    records.append(path, [])
    records.check_writable(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("line", "reason"), [
    ("[]", "without a schema"), ("3", "without a schema"), ('"x"', "without a schema"), ("null", "without a schema"),
    ("{}", "without a schema"), ('{"schema": 1}', "lacks measure, quantity"), ("{'a': 1}", "not JSON"),
    ("[" * 100_000, "not JSON"), ('{"a":' * 100_000, "not JSON"),
    (as_line(schema=3), "schema 3, this softbench reads 2"), (as_line(schema="1"), "schema"),
    (as_line(schema=1.5), "schema 1.5"), (as_line(schema=True), "schema True"),
    (as_line(value="1"), "value is str, not float | None"), (as_line(value=True), "value is bool"),
    (as_line(samples=None), "samples is NoneType"), (as_line(samples=["1"]), "samples are not numbers"),
    (as_line(samples=[True]), "samples are not numbers"), (as_line(samples=[None]), "samples are not numbers"),
    (as_line(batch=1.5), "batch is float, not int | None"), (as_line(batch=True), "batch is bool"),
    (as_line(attention=None), "attention is NoneType"), (as_line(options=[]), "options is list"),
    (as_line(environment="x"), "environment is str"), (as_line(unit="ms"), "unknown unit 'ms'"),
    (as_line(status="fine"), "unknown status 'fine'"), (as_line(value=None), "status is ok, yet there is no value"),
    (as_line(value=math.nan), "NaN is not a finite number"), (as_line(samples=[math.inf]), "Infinity is not"),
    (as_line(samples=[-math.inf]), "-Infinity is not"), (as_line(detail={"a": math.nan}), "NaN is not"),
    (as_line().replace("0.002", "1e999"), "1e999 is not a finite number"),
    (as_line(value=10**400), "beyond 64 bits"), (as_line().replace("0.002", "9" * 5000), "beyond 64 bits"),
    ("\x00\x01\x02", "not JSON"),
])
def test_line_that_is_no_record_is_reported_and_the_rest_is_read(path: Path, line: str, reason: str) -> None:
    records.append(path, [record()])
    with path.open("a") as file:
        file.write(line + "\n")
    records.append(path, [record(tokens=32)])
    found, problems = records.read(path)
    assert found == [record(), record(tokens=32)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}, line 2 is not a record (")
    assert reason in problems[0]


def test_file_from_a_newer_softbench_says_what_to_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(as_line(schema=7) + "\n")
    with pytest.raises(ResultsError, match=r"schema 7, this softbench reads 2: install the version that wrote it"):
        records.read(path)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"), (b"\n \n", "the file is empty"), (bytes(range(256)) * 20, "line 1 is not a record"),
    (b"a,b\n1,2\n", "line 1 is not a record"), (b"\xef\xbb\xbf{}", "line 1"), (b"{", "line 1 is torn"),
])
def test_file_without_records_is_told(path: Path, content: bytes, message: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=message) as error:
        records.read(path)
    assert "holds no softbench records" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "folder", "file/x.jsonl", "a" * 300])
def test_path_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"Cannot read .*: [A-Z].*\."):
        records.read(tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "file/x.jsonl", "file/deep/x.jsonl", "a" * 300, "pipe", "loop"])
def test_path_that_cannot_be_written_is_told_before_and_at_writing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResultsError, match=r"Cannot write .*Choose another file with --out\."):
        records.check_writable(tmp_path / name)
    with pytest.raises(ResultsError, match=r"Cannot write .*Choose another file with --out\."):
        records.append(tmp_path / name, [record()])
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "precious"


def test_device_is_refused() -> None:
    for action in (records.check_writable, lambda p: records.append(p, [record()])):
        with pytest.raises(ResultsError, match="Not a regular file"):
            action(Path("/dev/null"))


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    records.check_writable(tmp_path / "new" / "folder" / "x.jsonl")
    records.check_writable(tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_check_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ResultsError, match="Permission denied"):
        records.check_writable(tmp_path / "x.jsonl")


@pytest.mark.parametrize("torn", [b"", b'{"half'])
def test_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes) -> None:
    records.append(path, [record()])
    path.write_bytes(path.read_bytes() + torn)
    before, write = path.read_bytes(), os.write

    def fill(handle: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(ResultsError, match=r"No space left on device.* Free space or choose another file"):
        records.append(path, [record(tokens=32), record(tokens=64)])
    assert path.read_bytes() == before


def test_writes_that_come_in_pieces_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:100]))
    records.append(path, [record(), record(tokens=32)])
    assert records.read(path) == ([record(), record(tokens=32)], [])


def test_interrupt_in_the_middle_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.append(path, [record()])
    before = path.read_bytes()

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        records.append(path, [record(tokens=32)])
    assert path.read_bytes() == before


def test_size_limit_of_the_system_leaves_the_file_as_it_was(path: Path) -> None:
    records.append(path, [record()])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(ResultsError, match="File too large"):
            records.append(path, [record(tokens=32)])
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    records.append(path, [record(tokens=32)])
    assert len(records.read(path)[0]) == 2


def test_two_processes_share_a_file(path: Path) -> None:
    code = ("import sys; sys.path[:0] = sys.argv[3:]\n"
            "import test_records; from softbench import records\n"
            "for i in range(200): records.append(sys.argv[1], [test_records.record(tokens=i + 1, seed=int(sys.argv[2]),"
            " note='x' * 20 * i)])")
    command = [sys.executable, "-c", code, str(path)]
    children = [subprocess.Popen([*command, str(seed), str(ROOT), str(Path(__file__).parent)]) for seed in (0, 1)]
    assert [child.wait(60) for child in children] == [0, 0]
    found, problems = records.read(path)
    assert problems == []
    for seed in (0, 1):
        assert [r.cols for r in found if r.seed == seed] == list(range(1, 201))


def test_two_threads_share_a_file_even_when_writes_come_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:64]))
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def run(seed: int) -> None:
        for i in range(40):
            records.append(path, [record(tokens=i + 1, seed=seed)])

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, problems = records.read(path)
    assert (len(found), problems) == (80, [])


def test_latest_keeps_the_last_of_each_identity_in_first_order() -> None:
    found = [record(note="a"), record(tokens=32, note="b"), record(note="c"), record(tokens=64, note="d")]
    assert [r.note for r in records.latest(found)] == ["c", "b", "d"]


def test_expand_takes_paths_and_globs_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "[x].jsonl"):
        Path(name).touch()
    found = records.expand(["b.jsonl", "*.jsonl", "./a.jsonl", Path("b.jsonl")])
    assert [str(p) for p in found] == ["b.jsonl", "[x].jsonl", "a.jsonl"]
    assert records.expand(["[x].jsonl"]) == [Path("[x].jsonl")]
    for missing in ("c.jsonl", "c*.jsonl", "a" * 300, ""):
        with pytest.raises(ResultsError, match=r"No result file '.*'. Record one with `softbench latency --out"):
            records.expand(["a.jsonl", missing])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 101])
def test_quantiles_are_those_of_numpy(count: int) -> None:
    samples = np.random.default_rng(count).lognormal(size=count).tolist()
    assert median(samples) == pytest.approx(np.median(samples), rel=1e-12)
    assert quartiles(samples) == pytest.approx(np.quantile(samples, [0.25, 0.75]).tolist(), rel=1e-12)


def test_quantiles_of_nothing_are_nan() -> None:
    assert math.isnan(median([]))
    assert all(map(math.isnan, quartiles([])))


def test_frame_has_fields_tokens_quartiles_coordinates_and_environment() -> None:
    pd = pytest.importorskip("pandas")
    missing = record(value=None, samples=[], status="oom", coords={"inputs": "image", "degree": 2},
                     environment={"gpu": "h"})
    frame = records.to_frame([record(rows=3, cols=5, value=2), missing])
    assert set(frame) == ({f.name for f in dataclasses.fields(Record)} - {"coords", "environment"}) | {
        "tokens", "q1", "q3", "inputs", "degree", "env.machine", "env.threads", "env.gpu"}
    assert frame["tokens"].tolist() == [15, 16]
    assert frame["value"].dtype == float
    assert frame["value"].isna().tolist() == [False, True]
    assert (frame["q1"][0], frame["q3"][0]) == (1.5e-3, 3e-3)
    assert frame["inputs"].tolist() == ["normal", "image"]
    assert pd.isna(frame["env.gpu"][0])
    assert records.to_frame([]).empty


def test_load_gives_the_latest_and_warns_of_torn_lines(path: Path) -> None:
    records.append(path, [record(value=1.0), record(tokens=32), record(value=3.0)])
    with path.open("a") as file:
        file.write('{"torn')
    with pytest.warns(UserWarning, match="line 4 is torn") as warned:
        frame = softbench.load(path)
    assert warned[0].filename == __file__
    assert frame["value"].tolist() == [3.0, 2e-3]
    with pytest.raises(ResultsError, match="No result file"):
        softbench.load(path.parent / "other*.jsonl")


def test_load_reads_several_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        records.append(tmp_path / f"{seed}.jsonl", [record(seed=seed)])
    assert softbench.load(tmp_path / "*.jsonl")["seed"].tolist() == [0, 1]
    assert softbench.load(tmp_path / "1.jsonl", tmp_path / "0.jsonl")["seed"].tolist() == [1, 0]


def test_reading_needs_no_torch(path: Path) -> None:
    records.append(path, [record()])
    code = ("import sys; sys.modules['torch'] = None\n"
            f"import softbench; frame = softbench.load({str(path)!r})\nprint(frame['value'][0])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert found.stdout == "0.002\n"


def test_what_does_not_exist_is_absent(path: Path) -> None:
    """A ratio of two matrices has no attention and no heads: not "", not 0, nothing."""
    made = records.make("study", Reading("ratio", value=2.0), About(), Point(), records.origin({"machine": "m"}))
    assert set(json.loads(made.to_json())) == {
        "measure", "quantity", "unit", "value", "samples", "status", "note", "detail", "options", "coords",
        "environment", "started", "schema"}
    records.append(path, [made])
    assert records.read(path) == ([made], [])
    frame = softbench.load(path)
    assert frame[["attention", "heads", "tokens"]].isna().all(axis=None)


@pytest.mark.parametrize(("reading", "value", "status"), [
    (Reading("x", samples=[1.0, 3.0]), 2.0, "ok"), (Reading("x", samples=[1.0], value=5.0), 5.0, "ok"),
    (Reading("x", value=math.inf), None, "diverged"), (Reading("x", samples=[1.0, math.nan, 1.0]), None, "diverged"),
    (Reading("x"), None, "failed"), (Reading("x", status="oom"), None, "oom"),
    (Reading("x", value=math.nan, status="unsupported"), None, "unsupported"),
])
def test_one_rule_says_what_a_value_is_called(reading: Reading, value: float | None, status: str) -> None:
    made = records.make("study", reading, About(), Point(), records.origin({}))
    assert (made.value, made.status) == (value, status)
    assert made.detail.get("samples_not_finite", 0) == sum(not math.isfinite(s) for s in reading.samples)
    assert records.from_json(made.to_json()) == made


def test_the_first_schema_is_read_as_if_it_had_been_honest() -> None:
    fields = json.loads(record().to_json()) | {"schema": 1, "model": ""}
    assert records.from_json(json.dumps(fields)) == record()
    lying = fields | {"attention": "", "label": "", "impl": "", "mode": "forward", "heads": 1, "head_dim": 1}
    read = records.from_json(json.dumps(lying))
    assert (read.attention, read.model, read.impl, read.mode, read.heads, read.head_dim) == (None,) * 6
    assert (read.batch, read.tokens, read.seed) == (None, 16, 0)
