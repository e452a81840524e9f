"""approx-error: how far each attention is from the exact one it estimates, beside the best possible and its cost.

Each attention gets q, k, v of one head at a time in float64 and is compared with what its file says it APPROXIMATES, on
the same numbers (`truth.py`). A sample is one seed, which also draws random features and random landmarks; the value is
the mean over seeds, with the 95 % interval of that mean.

    error_matrix_fro        ||T - S||_F / ||S||_F, S exact, T the estimate; all heads as one block-diagonal matrix
    error_matrix_spectral   ||T - S||_2 / ||S||_2, within a relative residual that the record gives
    floor_fro, _spectral    what no matrix of rank m can go below (`floor.py`); up to 2,048 tokens
    error_output            ||T v - S v||_F / ||S v||_F
    worst_row               the largest ||T_i - S_i|| / ||S_i||
    row_sum_error           mean |sum_j T_ij - sum_j S_ij| / sum_j S_ij
    topk_overlap            share of the k largest entries of a row that the estimate finds, on 1,024 rows a head
    error_dq, _dk, _dv      gradients of <c, y> with one random c on at most 2,048 rows a head; where keys are the
                            queries, dq is the gradient by both
    latency, peak_memory    softbench's own measures of one forward, float32, on this machine

Up to 16,384 tokens every row is compared. Beyond, 512 rows a head are, drawn at random (128 for the gradients): the
numbers are estimates, error_matrix_fro with a standard error, and the spectral error is not given. No N x N matrix is
ever held above 2,048 tokens.

An attention that defines its own kernel, is not linear in v, or has weights to be trained has no error that means
anything, and is `unsupported`; `against` compares the first kind with what you name. Linformer's projections are
fitted first (`projection.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Dots, Lines, Rows, Scatter, View
from softbench.studies.approx_error.settings import Settings

_ERRORS = ("error_matrix_spectral", "floor_fro", "floor_spectral", "error_output", "worst_row", "row_sum_error",
           "error_dq", "error_dk", "error_dv", "size_needed")
QUANTITIES = (
    Quantity("error_matrix_fro", "1", "seeded", "less", answers="accuracy"),
    *(Quantity(name, "1", "seeded", "less") for name in _ERRORS), Quantity("topk_overlap", "1", "seeded", "more"),
    Quantity("latency", "s", "time", "less"), Quantity("peak_memory", "B", "exact", "less"),
)
SECTION = Section("Error against cost", place=5)
CHOICES = ("attn", "sizes", "samplings", "inputs", "tokens", "target_error")
QUICK: Mapping[str, Any] = {
    "attn": "soft,performer,nystromformer", "sizes": "16,49", "samplings": "avg,random,rpcholesky",
    "inputs": "structured", "tokens": "256", "seeds": 2,
}


_WORDS = {
    "error_matrix_fro": "error", "error_matrix_spectral": "spectral", "floor_fro": "floor",
    "error_output": "output", "peak_memory": "memory", "topk_overlap": "top-k", "worst_row": "worst row",
    "row_sum_error": "row sums", "error_dq": "dq", "error_dk": "dk", "error_dv": "dv", "size": "m",
    "size_needed": "m needed", "label": "attention", "against": "exact",
}
_SWEEP = {"part": ("size", "exact")}
_TARGET_VARIES = ("The normalisation of soft_norm sums over m landmarks: its exact matrix, and with it its floor,"
                  " depends on m.")


def _rows(name: str, title: str, quantities: tuple[str, ...], *, note: str = "", part: str = "size",
          by: tuple[str, ...] = ("inputs", "tokens", "label", "size"), **more: Any) -> Rows:
    return Rows(name=name, title=title, by=by, headings=("inputs", "tokens"), where={"part": part}, words=_WORDS,
                quantities=quantities, note=note, **more)


VIEWS: tuple[View, ...] = (
    Rows(name="errors", title="Relative Frobenius error of the attention matrix, beside the best of rank m, and cost",
         by=("inputs", "tokens", "label", "size"), headings=("inputs", "tokens"), where=_SWEEP, words=_WORDS,
         quantities=("error_matrix_fro", "floor_fro", "error_output", "latency", "peak_memory"),
         plain=("floor_fro", "error_output"), among=("inputs", "tokens", "against"),
         pareto=("error_matrix_fro", "latency", "peak_memory"),
         note="Means over seeds. floor: no matrix of rank m comes nearer to the exact one. output: relative error of"
              " the output, whose interval `--view details` has."),
    _rows("details", "Other distances from the exact attention, at the middle m",
          ("error_output", "error_matrix_spectral", "worst_row", "row_sum_error"), middle="size"),
    _rows("gradients", "Largest entries of a row found, and relative errors of the gradients, at the middle m",
          ("topk_overlap", "error_dq", "error_dk", "error_dv"), middle="size"),
    _rows("landmarks", "Ways to choose landmarks", ("error_matrix_fro", "floor_fro", "error_output", "latency"),
          part="landmarks", plain=("floor_fro", "error_output")),
    _rows("target", "Smallest m that reaches the target error",
          ("size_needed", "error_matrix_fro", "latency", "peak_memory"), part="target",
          by=("inputs", "tokens", "label")),
    Lines(name="error_by_size", title="Error of the attention matrix against m; dashed: the floor", x="size",
          quantities=("error_matrix_fro",), series="label", panels="inputs", reference="floor_fro",
          reference_by="against", log_x=True, where={"part": "size"}, words=_WORDS, note=_TARGET_VARIES),
    *(Scatter(name=f"{exact.lower()}_by_{short}", title=f"Error to exact {exact} attention by {words} of one forward",
              x=cost, y="error_matrix_fro", series="label", point="size", panels="inputs", words=_WORDS,
              where={"part": "size", "against": kinds})
      for exact, kinds in (("softmax", ("softmax",)), ("Gaussian", ("gaussian", "gaussian_normalised")))
      for short, words, cost in (("time", "time", "latency"), ("memory", "peak memory", "peak_memory"))),
    Dots(name="landmark_choice", title="Error of the attention matrix by choice of landmarks",
         quantity="error_matrix_fro", y="sampling", series="inputs", log_x=True, where={"part": "landmarks"},
         words=_WORDS),
)


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.approx_error import planning

    return planning.tasks(settings)
