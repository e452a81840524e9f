"""The programme: what a gate measures, as commands of softbench that any version understands, each in its own process.

Exact quantities first (operations, operators, peak bytes, errors of seeded studies), then times. A command that fails
as a whole is a failure of the tool, with the command's own last line as the reason.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from softbench import plugins, records
from softbench.compare import verdicts
from softbench.contracts import measure, study
from softbench.dtypes import FLOAT32
from softbench.errors import ResultsError, SoftbenchError
from softbench.gate import settings
from softbench.gate.ending import Ending
from softbench.gate.source import Source
from softbench.processes import child
from softbench.records import Record

_MODELS = "soft-tiny,soft-norm-tiny"
_TOKENS, _MODES = "256,1k", "forward,forward_backward"
_TIMED = ("1k", "forward_backward")  # of all attentions
_FINISHED = (0, 5)  # exit codes of a command that went through all its cases, whether or not each gave a number


@dataclass(frozen=True)
class Step:
    """One command: what is measured, and its arguments besides `--out`."""

    measure: str
    arguments: tuple[str, ...]
    timed: bool = False


@dataclass(frozen=True)
class Scope:
    """The cases of a gate.

    Empty: the exact quantities of all attentions, at two lengths that show both the small and the asymptotic costs, and
    of the backbone in its two forms. The times of all attentions are of training steps at the larger length alone, as
    twice as many cases of each kind would take a runner hours; the times of attentions that are named are of all.
    """

    attn: str = ""
    tokens: str = ""
    modes: str = ""
    dtype: str = FLOAT32
    device: str = "auto"
    threads: int = 0
    model: str = ""

    def flags(self, source: Source) -> tuple[str, ...]:
        """The scope as flags, of what this version has."""
        return ("--attn", self.attn or ",".join(attentions(source)), "--baseline", "none", "--tokens",
                self.tokens or _TOKENS, *self._call())

    def timed(self) -> Scope:
        """The scope of the times: every length and mode, but for all attentions only those that say most."""
        tokens, modes = (_TOKENS, _MODES) if self.attn else _TIMED
        return replace(self, tokens=self.tokens or tokens, modes=self.modes or modes)

    def model_flags(self) -> tuple[str, ...]:
        """The scope of whole models as flags; nothing where there are none, as where attentions are named alone."""
        models = self.model or ("none" if self.attn else _MODELS)
        return () if models == "none" else ("--model", models, "--baseline", "none", "--image", "64", *self._call())

    def _call(self) -> tuple[str, ...]:
        return ("--mode", self.modes or _MODES, "--dtype", self.dtype, "--device", self.device,
                "--threads", str(self.threads))


def attentions(source: Source) -> list[str]:
    """The attentions that this version ships, read from its files; those that are causal alone stay out."""
    return sorted(path.stem for path in (source.root / "softbench" / "attention").glob("*.py")
                  if not path.stem.startswith("_") and '\nCAUSAL = "always"\n' not in path.read_text(encoding="utf-8"))


def known(scope: Scope, base: Source, head: Source) -> Scope | None:
    """The scope without those attentions that the head ships and the base did not have yet; None where none is left."""
    if not scope.attn:
        return scope
    new = set(attentions(head)) - set(attentions(base))
    left = [item for item in scope.attn.split(",") if item.strip().partition(":")[0] not in new]
    return replace(scope, attn=",".join(left)) if left else None


def exact(scope: Scope, source: Source, *, studies: bool = True) -> list[Step]:
    """The commands of exact quantities that this version has: those of the plugins that say that they are for it."""
    modules = {name: measure.load(name) for name in plugins.names("measures") if _can(source, "measures", name)}
    scopes = {name: (replace(scope, modes=module.MODES[0]) if len(getattr(module, "MODES", ())) == 1 else scope,
                     measure.gated(module)) for name, module in modules.items()}
    steps = [Step(name, own.flags(source)) for name, (own, gated) in scopes.items() if "attention" in gated]
    if _has(source, "subjects/model") or _has(source, "backbones"):  # where models stand now, and where they stood
        steps += [Step(name, flags) for name, (own, gated) in scopes.items() if "model" in gated
                  if (flags := own.model_flags())]
    if studies:
        steps += [Step(name, ("--quick", "--threads", str(scope.threads))) for name in plugins.names("studies")
                  if _can(source, "studies", name) and study.gated(study.load(name))]
    return steps


def _can(source: Source, kind: str, name: str) -> bool:
    """True where a version can run that plugin: one of its own, or one installed that it understands."""
    return _has(source, f"{kind}/{name}" if plugins.ships(kind, name) else "contracts/quantities")


def _has(source: Source, module: str) -> bool:
    """True where a version has that module, as a file or as a folder."""
    place = source.root / "softbench" / module
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def times(scope: Scope, source: Source, runs: int) -> list[Step]:
    """The commands that record times, once for each run: runs are the units that two recordings are compared by."""
    return [Step("latency", (*scope.timed().flags(source), "--rep", "200"), timed=True)] * runs


def run(steps: list[Step], source: Source, on_step: Callable[[Step], None] = lambda step: None,
        ending: Ending | None = None) -> list[Record]:
    """The records of all steps, as far as they come before the end; of an exact step without the times that came along.
    """
    ending = ending or Ending()
    return [record for step in steps if not ending.over for record in _run(step, source, on_step, ending)]


def _run(step: Step, source: Source, on_step: Callable[[Step], None], ending: Ending) -> Iterator[Record]:
    on_step(step)
    with tempfile.TemporaryDirectory(prefix="softbench-gate-") as folder:
        out, config = Path(folder) / "out.jsonl", Path(folder) / "bench.toml"
        config.write_text(settings.changed(), encoding="utf-8")
        command = step.measure.replace("_", "-")
        with child.started("-m", "softbench", command, *step.arguments, "--config", str(config), "--out", str(out),
                           "--format", "jsonl", environment=environment(source)) as running, ending.watching(running):
            running.process.communicate()  # what it prints is in its file too
            code, last = running.process.returncode, running.last_words() or "it said nothing"
        rows: list[Record] = []
        with contextlib.suppress(ResultsError):
            rows, _ = records.read(out)
        if (not rows or code not in _FINISHED) and not ending.over:
            what = "did not finish" if rows else "gave no records"
            raise SoftbenchError(f"`softbench {command}` of {source.name} {what} (exit {code}):"
                                 f" {last.removeprefix('Error: ')[:300]}")
    version = {"commit": source.commit, "dirty": source.dirty}  # a revision's files are in no checkout that says so
    yield from (replace(record, environment=record.environment | version) for record in rows
                if record.environment and (step.timed or not verdicts.is_time(record)))


def environment(source: Source) -> dict[str, str]:
    """This environment, in which `import softbench` means this source."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
              if path and not os.path.isdir(os.path.join(path, "softbench"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(source.root), *others])}
