"""Exports: records as files that CI tools read: pytest-benchmark's JSON, github-action-benchmark's, JUnit's XML.

All numbers stay in SI units. A record becomes an entry with a name of its own, made of everything that tells it from
the others, so that a tool that charts by name never joins two cases.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as xml

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records import Record
from softbench.reports import format
from softbench.stats import quartiles

_COSTS = {"s": "s", "B": "bytes", "flop": "FLOP"}  # what a tool that alarms on "more" calls the units of costs
_SKIPPED = ("unsupported", "not_run")


def pytest_benchmark(records: Sequence[Record]) -> str:
    """The JSON that `pytest --benchmark-json` writes and `pytest-benchmark compare` reads: times alone.

    Raises:
        UsageError: no record is a time with samples.
    """
    timed = [r for r in records if r.unit == "s" and r.status == "ok" and r.samples]
    if not timed:
        raise UsageError("No record is a time with samples, and pytest-benchmark knows nothing else.")
    environment = timed[-1].environment
    names = _names(timed)
    return _json({
        "machine_info": {"node": environment.get("machine"), "processor": environment.get("cpu"), "machine": "",
                         "python_version": environment.get("python"), "release": environment.get("os"),
                         "cpu": {"brand_raw": environment.get("cpu"), "count": environment.get("cores")}},
        "commit_info": {"id": environment.get("commit"), "dirty": environment.get("dirty"), "project": "softbench",
                        "time": timed[-1].started, "author_time": timed[-1].started, "branch": None},
        "benchmarks": [_benchmark(record, name) for record, name in zip(timed, names, strict=True)],
        "datetime": timed[-1].started, "version": "4.0.0"})


def github_action(records: Sequence[Record]) -> str:
    """The JSON of github-action-benchmark's tool `customSmallerIsBetter`: times and counts of which less is better.

    Raises:
        UsageError: no record is one of these.
    """
    costs = [r for r in records if _is_cost(r) and r.status == "ok" and r.value is not None]
    if not costs:
        raise UsageError("No record is a time, a size or a count of operations, for which less is better.")
    return _json([_cost(record, name) for record, name in zip(costs, _names(costs), strict=True)])


def junit(records: Sequence[Record]) -> str:
    """JUnit's XML: one suite a measure, one test a record; a case that failed is a failure, an unsupported one skipped.

    Raises:
        UsageError: there is no record.
    """
    if not records:
        raise UsageError("There is no record to export.")
    root = xml.Element("testsuites", name="softbench")
    names = dict(zip(map(id, records), _names(records), strict=True))
    for measure in dict.fromkeys(record.measure for record in records):
        own = [record for record in records if record.measure == measure]
        suite = xml.SubElement(root, "testsuite", name=_plain(measure), tests=str(len(own)), errors="0",
                               failures=str(sum(map(_is_failure, own))),
                               skipped=str(sum(r.status in _SKIPPED for r in own)), timestamp=own[0].started)
        for record in own:
            _test(suite, record, names[id(record)])
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


FORMATS = {"pytest-benchmark": pytest_benchmark, "github-action": github_action, "junit": junit}


def _names(records: Sequence[Record]) -> list[str]:
    """A name for each record; where environments alone tell two apart, the machine and a number are in it."""
    names: list[str] = []
    counts: Counter[str] = Counter()
    for record in records:
        name = _name(record)
        counts[name] += 1
        machine = format.text(record.environment.get("machine"))
        names.append(name if counts[name] == 1 else f"{name}, {machine} #{counts[name]}")
    return names


def _name(record: Record) -> str:
    sizes = " ".join(text for text, size in (
        (f"B{record.batch}", record.batch), (f"H{record.heads}", record.heads),
        (f"{record.rows}x{record.cols}", record.tokens), (f"D{record.head_dim}", record.head_dim),
        ("causal", record.causal)) if size)
    parts = [record.measure, *([record.quantity] if record.quantity != record.measure else []), record.label,
             record.impl, sizes, record.mode, record.dtype, record.device, f"seed {record.seed}",
             *(f"{key} {value}" for key, value in record.coords.items())]
    return ", ".join(format.text(part) for part in parts if part)


def _benchmark(record: Record, name: str) -> dict[str, Any]:
    calls = record.detail.get("calls_per_sample")
    return {
        "group": f"{format.text(record.measure)}, {record.rows}x{record.cols}", "name": name, "fullname": name,
        "params": None, "param": None,
        "extra_info": {"commit": record.environment.get("commit"), "note": record.note},
        "options": {"disable_gc": True, "timer": "perf_counter"},
        "stats": _statistics(record.samples) | {
            "median": record.value, "iterations": calls if isinstance(calls, int) else 1, "data": record.samples}}


def _statistics(samples: Sequence[float]) -> dict[str, Any]:
    """The numbers that pytest-benchmark computes of samples, as it defines them (`pytest_benchmark.stats.Stats`)."""
    mean, deviation = statistics.fmean(samples), statistics.stdev(samples) if len(samples) > 1 else 0.0
    q1, q3 = _halves_quartiles(sorted(samples))
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    within = [sample for sample in samples if low <= sample <= high]
    beyond, far = len(samples) - len(within), sum(not mean - deviation <= s <= mean + deviation for s in samples)
    total = math.fsum(samples)
    return {"min": min(samples), "max": max(samples), "mean": mean, "stddev": deviation, "rounds": len(samples),
            "q1": q1, "q3": q3, "iqr": q3 - q1, "iqr_outliers": beyond, "stddev_outliers": far,
            "outliers": f"{far};{beyond}", "ld15iqr": min(within), "hd15iqr": max(within), "total": total,
            "ops": len(samples) / total if total else 0.0}


def _halves_quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Medians of the lower and the upper half; of an odd number, the means of both ways to share the middle one.

    That is methods 2 and 3 of https://en.wikipedia.org/wiki/Quartile, which others than `stats.quartiles` use.
    """
    n, odd = divmod(len(ordered), 2)
    if n == 0:
        return ordered[0], ordered[0]
    if not odd:
        return statistics.median(ordered[:n]), statistics.median(ordered[n:])
    weights = (0.25, 0.75) if n % 2 == 0 else (0.75, 0.25)
    first = (n - 1) // 2
    low = weights[0] * ordered[first] + weights[1] * ordered[first + 1]
    high = weights[1] * ordered[-2 - first] + weights[0] * ordered[-1 - first]
    return low, high


def _is_cost(record: Record) -> bool:
    known = quantities.of(record.measure, record.quantity, record.unit)
    return known.better == "less" and (known.unit in _COSTS or known.kind == "exact")


def _cost(record: Record, name: str) -> dict[str, Any]:
    q1, q3 = quartiles(record.samples)
    spread = {} if math.isnan(q1) else {"range": f"± {(q3 - q1) / 2:.3g}"}
    return {"name": name, "unit": _COSTS.get(record.unit) or _counted(record), "value": record.value} | spread | {
        "extra": f"{format.text(record.environment.get('machine'))}, {len(record.samples)} samples"}


def _counted(record: Record) -> str:
    return quantities.of(record.measure, record.quantity, record.unit).counts or record.unit


def _is_failure(record: Record) -> bool:
    return record.status not in ("ok", *_SKIPPED)


def _test(suite: xml.Element, record: Record, name: str) -> None:
    seconds = {"time": f"{record.value:.9f}"} if record.unit == "s" and record.value is not None else {}
    test = xml.SubElement(suite, "testcase", {"classname": f"softbench.{_plain(record.measure)}",
                                             "name": _plain(name)} | seconds)
    if record.status != "ok":
        kind = "skipped" if record.status in _SKIPPED else "failure"
        xml.SubElement(test, kind, message=_plain(f"{record.status}: {record.note}".removesuffix(": ")))
    if record.value is not None:
        xml.SubElement(test, "system-out").text = format.quantity(record.value, record.unit)


def _plain(text: str) -> str:
    """The text without what no XML file may hold, escaped or not."""
    return re.sub("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", format.text(text))


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
