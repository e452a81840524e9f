"""Running a programme: what a file holds already is left out, each step's records are kept, Ctrl-C loses nothing.

It loads no torch, so that commands may begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench import plugins, records
from softbench.errors import Interrupted, ResultsError, SoftbenchError, UsageError
from softbench.machine import environment
from softbench.records import Record

if TYPE_CHECKING:
    from softbench.bench.programme import Item, Programme

Held = dict[int, list[Record]]  # what is known of items already, by their positions


@dataclass(frozen=True)
class Run:
    """Hold what came of a programme: the records of all its items, in their order, and those of them that are new."""

    records: list[Record]
    new: list[Record]

    @property
    def failed(self) -> bool:
        """Say whether the exit code must say that cases failed: one did, or took too long, or none gave a number."""
        return (any(record.status in ("failed", "timeout") for record in self.records)
                or all(record.value is None for record in self.records))


class Watch:
    """Hears how a run goes: what is left, what starts, what is done. This one hands on nothing but remarks.

    `stuck` hears that code takes no end, once rows for all that has none yet are kept, and must end this process. It is
    called in another thread, and only where `ends_process`.
    """

    ends_process = False

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.say = say

    def begin(self, left: Programme) -> None: ...

    def start(self, name: str) -> None: ...

    def advance(self, items: int, rows: Sequence[Record]) -> None: ...

    def end(self) -> None: ...

    def stuck(self, rows: Sequence[Record], run: Run) -> None: ...


def run(programme: Programme, out: Path | None = None, *, resume: bool = False, force: bool = False,
        watch: Watch | None = None, again: str = "Continue with the same call and resume=True.") -> Run:
    """Run what is not known yet, and keep the records of each step before the next begins.

    Args:
        out: the file that records are appended to.
        resume: leave out what `out` holds; else what is run once for a machine, unless `force`.
        again: how to go on after Ctrl-C, as a sentence.
    Raises:
        ResultsError: `out` cannot be written. Interrupted: Ctrl-C; what was done is in `out`.
    """
    watch = watch or Watch()
    if resume and out is None:
        raise UsageError("To resume needs the file to continue: give it as out.")
    held = resumed(programme, out, watch) if resume and out else {} if force else recalled(programme, watch)
    left, new = remaining(programme, held), list[Record]()
    if left.items():
        _perform(left, out, new, watch, again)
    _remember(programme, [record for record in new if record.status == "ok"], watch)
    order = {item.name: i for i, item in enumerate(programme.items())}
    return Run(sorted([*left.held, *new], key=lambda record: order.get(programme.item(record).name, len(order))), new)


def remaining(programme: Programme, held: Held) -> Programme:
    """The programme without the items that are known; where any is not, those that draw on it are run again."""
    items = programme.items()
    known: set[int] = set()
    names: set[str] = set()
    for i in sorted(held):
        if len(held) == len(items) if items[i].concludes else names.issuperset(items[i].needs):
            known.add(i)
            names.add(items[i].name)
    return replace(programme.only(set(range(len(items))) - known),
                   held=list({id(record): record for i in sorted(known) for record in held[i]}.values()))


def _perform(left: Programme, out: Path | None, new: list[Record], watch: Watch, again: str) -> None:
    """Run the steps; `new` takes in what each gives, after the file."""
    if out:
        records.check_writable(out)  # now, not after an hour of measuring
    target = out and out.absolute()  # code that runs may change the working directory
    done = 0

    def keep(rows: list[Record]) -> None:
        if target:
            records.append(target, rows)
        new.extend(rows)

    def stuck(rows: list[Record]) -> None:
        watch.end()
        done = [*new, *rows]  # also where a full disk does not take the last ones: they say what went wrong
        try:
            keep(rows)
        except ResultsError as error:
            watch.say(str(error))
        finally:
            watch.stuck(rows, Run([*left.held, *done], done))

    watch.begin(left)
    try:
        for items, rows in replace(left, on_start=watch.start, on_stuck=stuck if watch.ends_process else None):
            keep(rows)
            done += items
            watch.advance(items, rows)
    except KeyboardInterrupt:
        if out is None:
            raise
        where = f" and kept in {out}" if new else ""
        raise Interrupted(f"Interrupted: {done} of {len(left.items())} {left.word} are done{where}. {again}") from None
    finally:
        watch.end()


def recalled(programme: Programme, watch: Watch) -> Held:
    """Give what is known of this machine already, where a study is run once for it."""
    if not hasattr(programme.module, "recall"):
        return {}
    if held := _by_item(programme, programme.module.recall(programme.environment, programme.device.partition(":")[0])):
        watch.say(f"Measured before, at {held[min(held)][0].started}, and kept; --force measures anew.")
    return held


def _remember(programme: Programme, sound: list[Record], watch: Watch) -> None:
    """Keep what is run once for a machine; where that cannot be, say why: the records are there anyway."""
    if not sound or not hasattr(programme.module, "remember"):
        return
    try:
        where = programme.module.remember(sound, programme.environment, programme.device.partition(":")[0])
        watch.say(f"Kept for this machine: {where}")
    except SoftbenchError as error:
        watch.say(f"Warning: not kept for this machine. {error}")


def resumed(programme: Programme, out: Path, watch: Watch) -> Held:
    """Give what `out` holds of the programme and need not run again; say what there is, and what does not fit.

    What failed, was cut short by a budget, is of another environment, of other settings or of other code, or is older
    than what it draws on runs again.
    """
    whole, problems = records.read(out, begun=True) if out.exists() else ([], [])
    for problem in problems:
        watch.say(f"Warning: {problem}")
    if not whole:
        watch.say(f"Nothing to resume: {out} {'holds no whole record' if out.exists() else 'does not exist'} yet.")
        return {}
    held = _by_item(programme, records.latest(_fitting(programme, whole, out, watch)))
    held = {i: group for i, group in held.items()
            if not any(record.status == "failed" or records.UNFINISHED in record.detail for record in group)}
    held = _up_to_date(programme.items(), held, whole)
    kept = [record for group in held.values() for record in group]
    here = programme.environment
    if commits := {(record.environment.get("commit"), record.environment.get("code")) for record in kept
                   if record.environment} - {(here.get("commit"), here.get("code"))}:
        named = sorted(f"{commit}{' with changes' if code else ''}" for commit, code in commits)
        watch.say(f"Warning: some of the kept records were made at another commit of softbench ({', '.join(named)}).")
    if not all(programme.item(record).digest for record in kept):
        watch.say("Warning: some of the kept records are of an older softbench and do not say under which settings they"
                  f" were made; the names of their {programme.word} are taken for it.")
    watch.say(f"Resuming: {len(held)} of {len(programme.items())} {programme.word} are in {out}.")
    return held


def _up_to_date(items: Sequence[Item], held: Held, whole: Sequence[Record]) -> Held:
    """Leave out what draws on records that came after its own: a run that made them anew ended before its turn."""
    order = {id(record): place for place, record in enumerate(whole)}
    last = {items[i].name: max(order[id(record)] for record in group) for i, group in held.items()}

    def is_last(i: int) -> bool:
        drawn_on = [item.name for item in items[:i]] if items[i].concludes else items[i].needs
        return all(last.get(name, 0) <= last[items[i].name] for name in drawn_on)

    return {i: group for i, group in held.items() if is_last(i)}


def _fitting(programme: Programme, whole: Sequence[Record], out: Path, watch: Watch) -> list[Record]:
    """The records of this programme's name, environment, settings and code; says for what reasons others do not fit."""
    here, digests = programme.environment, {item.name: item.digest for item in programme.items()}

    def differing(record: Record) -> list[str]:
        return environment.differences(record.environment, here) if record.environment else []

    def of_other_settings(record: Record) -> bool:
        item = programme.item(record)
        return item.digest not in ("", digests.get(item.name, item.digest))

    fitting = [record for record in whole if record.measure == programme.name]
    differences = sorted({difference for record in fitting for difference in differing(record)})
    for unfit, words in (
            (differing, f"of another environment ({'; '.join(differences)})"),
            (of_other_settings, "made with other settings"),
            (partial(_of_other_code, here), "of plugins whose files have changed since, or of other files of the same"
                                            " name")):
        if any(map(unfit, fitting)):
            watch.say(f"Warning: {out} also holds records {words}; these {programme.word} are run again.")
            fitting = [record for record in fitting if not unfit(record)]
    return fitting


def _of_other_code(here: Mapping[str, Any], record: Record) -> bool:
    """Say whether a plugin that the record is of has changed; any that both know, where it is of a study."""
    if not record.environment:
        return False
    there, now = (str(taken.get("plugins") or "") for taken in (record.environment, here))
    own = plugins.changed(there, now, f"attention:{record.attention}", f"measures:{record.measure}",
                          f"studies:{record.measure}")
    return own or ("task" in record.coords and plugins.changed(there, now))


def _by_item(programme: Programme, of_any: Sequence[Record]) -> Held:
    """These records by their items' positions; several may be of one name, as `softmax` and `softmax:impl=sdpa`."""
    groups: dict[str, list[Record]] = {}
    for record in of_any:
        groups.setdefault(programme.item(record).name, []).append(record)
    return {i: groups[item.name] for i, item in enumerate(programme.items()) if item.name in groups}
