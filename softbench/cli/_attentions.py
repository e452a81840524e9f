"""Attentions and tasks as rows of a table, from their files alone."""

from __future__ import annotations

from softbench import plugins
from softbench.errors import PluginError

HEADER = ("name", "family", "claims", "approximates", "linear in v", "implementations", "summary")


TASK_HEADER = ("name", "a sample is", "read at", "summary")


def facts(name: str) -> dict[str, object]:
    """The constants of an attention's file; none where it cannot be read."""
    try:
        return plugins.facts("attention", name)
    except PluginError:
        return {}


def row(name: str, facts: dict[str, object]) -> tuple[str, ...]:
    """Give what the columns of HEADER say of an attention."""
    impls = facts.get("IMPLS", ())
    return (name, str(facts.get("FAMILY", "-")), f"O({facts['COMPLEXITY']})" if "COMPLEXITY" in facts else "-",
            str(facts.get("APPROXIMATES") or "-"), yes_or_no(facts.get("LINEAR_IN_V")),
            ", ".join(impls) if isinstance(impls, tuple) else "-", plugins.summary("attention", name))


def task_row(name: str) -> tuple[str, ...]:
    """The columns of TASK_HEADER of a task, a dash where its file cannot be read."""
    try:
        constants = plugins.facts("tasks", name)
    except PluginError:
        constants = {}
    return name, str(constants.get("INPUT", "-")), str(constants.get("READOUT", "-")), plugins.summary("tasks", name)


def yes_or_no(value: object) -> str:
    """A constant in words, a dash where it is none."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "-"
