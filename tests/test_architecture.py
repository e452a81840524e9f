"""The shape of the package: imports point down only, the command line starts light, and every part says what it is."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "softbench"
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
           for p in sorted(PACKAGE.rglob("*.py"))}

TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}

HEAVY = {"torch", "pandas", "numpy", "matplotlib"}

# Rooms from the bottom up: a module may import its own room and those before it. What stands at the top level and is no
# room are words that everybody uses; so is `plugins`, which `config` and `case` read.
ROOMS = ("words", "records", "machine", "processes", "contracts", "compare", "ops", "attention", "models", "inputs",
         "tasks", "training", "subjects", "measures", "bench", "studies", "gate", "reports", "api", "cli", "__main__")


def room(module: str) -> str:
    name = f"{module}.".split(".")[1]
    return name if name in ROOMS else "words"


def imports(module: str) -> Iterator[str]:
    """Modules of this package that a module imports anywhere, in functions too, as full names."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES or node.module in MODULES:
                    yield full if full in MODULES else str(node.module)


INNER = [m for m in MODULES if m != "softbench"]  # which loads its public names when they are used
IMPORTS = {module: set(imports(module)) - {module, "softbench"} for module in INNER}


@pytest.mark.parametrize("module", INNER)
def test_imports_point_down_only(module: str) -> None:
    above = {f for f in IMPORTS[module] if ROOMS.index(room(f)) > ROOMS.index(room(module))}
    if room(module) == "reports":  # the vocabulary alone, so that a page can be made without torch
        above |= {f for f in IMPORTS[module] if f != "softbench.contracts.quantities"  # what each number is, as data
                  and room(f) not in ("words", "records", "machine", "compare", "reports")}
    assert above == set()


def test_no_two_files_import_each_other() -> None:
    def reached(module: str) -> set[str]:
        found: set[str] = set()
        waiting = set(IMPORTS[module])
        while waiting:
            found |= waiting
            waiting = {f for module in waiting for f in IMPORTS[module]} - found
        return found

    assert [module for module in INNER if module in reached(module)] == []


def test_imports_are_seen_where_they_are() -> None:
    assert {"softbench.errors", "softbench.case"} <= set(imports("softbench.inputs"))
    assert "softbench.bench.session" in set(imports("softbench.api"))  # inside a function


# What a folder may hold beyond 15 files: a file here is a name that users type; or as many as there are today.
CROWDED = {"attention": 100, "tasks": 100, "cli": 100}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()} - {PACKAGE}),
                         ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_folder_holds_fifteen_files_at_most(folder: Path) -> None:
    allowed = CROWDED.get(folder.name, 15) if folder.parent == PACKAGE else 15
    assert len(list(folder.glob("*.py"))) <= allowed


def test_a_module_at_the_top_level_is_used_by_four_rooms_and_there_are_eight() -> None:
    entries = {"softbench.__main__", "softbench._version", "softbench._former", "softbench.api"}
    words = {m for m, path in MODULES.items() if path.parent == PACKAGE} - entries - {"softbench"}
    users = {word: {module.split(".")[1] for module in INNER if word in IMPORTS[module]} for word in words}
    assert len(words) <= 8
    assert {word: sorted(rooms) for word, rooms in users.items() if len(rooms) < 4} == {}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("softbench.attention.")])
def test_attentions_share_through_underscore_files_only(module: str) -> None:
    shared = [f for f in imports(module) if f.startswith("softbench.attention.")]
    assert [f for f in shared if not f.rpartition(".")[2].startswith("_")] == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("softbench.ops.") and m.count(".") == 3])
def test_implementations_of_an_operation_do_not_know_each_other(module: str) -> None:
    operation, _, name = module.rpartition(".")
    siblings = [f for f in imports(module) if f.startswith(f"{operation}.") or f == operation]
    if name == "reference":
        assert siblings == []
    assert f"{operation}.reference" not in siblings
    assert not any(f != operation and not f.rpartition(".")[2].startswith("_") for f in siblings)


def packages(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level packages that these import statements name."""
    nodes = list(nodes)
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in named}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "reports"])
def test_reports_need_no_torch(module: str) -> None:
    assert "torch" not in packages(ast.walk(TREES[module])) | loaded_packages(module)


def at_the_top(module: str) -> list[ast.stmt]:
    """The imports of a module that run when it is imported; not those for type checkers."""
    return [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]


def loaded(module: str) -> set[str]:
    """The modules of this package that importing a module runs: what it imports at its top, and the packages around."""
    reached, waiting = set(), {module}
    while waiting:
        reached |= waiting
        nodes = {name: [n for n in at_the_top(name) if isinstance(n, ast.ImportFrom)] for name in waiting}
        named = {full for found in nodes.values() for node in found for alias in node.names
                 for full in (f"{node.module}.{alias.name}", str(node.module)) if full in MODULES}
        waiting = {".".join(name.split(".")[:depth]) for name in named | waiting
                   for depth in range(1, name.count(".") + 2)} & set(MODULES) - reached
    return reached


def loaded_packages(module: str) -> set[str]:
    return {name for other in loaded(module) for name in packages(at_the_top(other))}


# The command line starts with these, and reports read plugins and records without what measures.
LIGHT = [m for m in MODULES if room(m) in ("records", "compare", "cli", "__main__")
         or m in ("softbench.contracts.measure", "softbench.contracts.quantities", "softbench.contracts.study")
         or (room(m) in ("measures", "studies") and m.count(".") == 2 and "._" not in m)]


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_command_line_starts_with_imports_heavy_packages_in_functions_only(module: str) -> None:
    assert loaded_packages(module).isdisjoint(HEAVY)


def test_what_importing_loads_is_seen_through_other_modules() -> None:
    assert "torch" in loaded_packages("softbench.bench.session")
    assert {"softbench", "softbench.measures", "softbench.records"} <= loaded("softbench.measures.latency")


@pytest.mark.parametrize("module", MODULES)
def test_module_is_of_one_sitting_and_says_what_it_is(module: str) -> None:
    text = MODULES[module].read_text()
    assert text.count("\n") <= 500
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert len(first) > 10, "a module begins with a line that says what it is"


def test_median_module_is_short() -> None:
    lengths = sorted(path.read_text().count("\n") for path in MODULES.values())
    assert lengths[len(lengths) // 2] <= 250


# Imports within functions: where, in how many places at most, and why they do not stand at the top of their file.
HIDDEN = {
    "softbench.cli": (50, "a verb loads what runs it when it is called, so that --help and list answer at once"),
    "softbench.measures": (6, "the command line and reports read what a plugin says of itself, without torch"),
    "softbench.studies": (10, "the same; and timm, which takes seconds"),
    "softbench.subjects": (1, "timm, which takes seconds"),
    "softbench.bench": (1, "timm, which takes seconds"),
    "softbench.dtypes": (1, "names of dtypes are words of the command line, without torch"),
    "softbench.machine.environment": (2, "environments are compared without torch"),
    "softbench.compare.rule": (2, "scipy, which reports and the command line start without"),
    "softbench.records": (2, "pandas, which list and --help start without"),
    "softbench.reports": (17, "matplotlib, which tables need not, and whose import must not see MPLBACKEND"),
    "softbench.api": (2, "softbench.create needs no configuration"),
    "softbench.ops": (3, "Triton, which is not everywhere"),
    "softbench.inputs": (6, "Pillow and scikit-learn, which come with an extra"),
    "softbench.tasks": (4, "scikit-learn, which comes with an extra; and what a task says of itself, without torch"),
    "softbench.training": (3, "what not every training has, nor every machine: TensorBoard, FSDP"),
}


def hidden(module: str) -> set[str]:
    """The imports of a module that stand in functions."""
    functions = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{module}:{node.lineno} {ast.unparse(node)}" for function in functions for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)}


def test_imports_within_functions_are_few_and_have_a_reason() -> None:
    lines = {line for module in MODULES for line in hidden(module)}
    there = {place: {line for line in lines if re.match(rf"{re.escape(place)}[.:]", line)} for place in HIDDEN}
    assert {place: found for place, found in there.items() if len(found) > HIDDEN[place][0]} == {}
    assert set().union(*there.values()) == lines


# What these are is said once, in the room `contracts`.
CONTRACT = {"attention": {"Options", "build", "cost", "supports", "note"},
            "measures": {"Settings", "measure", "measure_group"},
            "studies": {"Settings", "tasks", "run"},
            "tasks": {"Settings", "open", "chance"}}


def undocumented(source: str, module: str) -> list[str]:
    """Public functions and classes that nothing describes. The class that a file is named after is the file."""
    file = module.rpartition(".")[2].replace("_", "")
    described = CONTRACT.get(room(module), set())
    return [node.name for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            and ast.get_docstring(node) is None and node.name not in described and node.name.lower() != file]


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_classes_have_docstrings(module: str) -> None:
    assert undocumented(MODULES[module].read_text(), module) == []


def test_missing_docstrings_are_seen() -> None:
    source = "def f(): pass\ndef _g(): pass\nclass C:\n    'x'\nclass SoftNorm: pass\ndef build(): pass\n"
    assert undocumented(source, "softbench.attention.soft_norm") == ["f"]
    assert undocumented(source, "softbench.case") == ["f", "SoftNorm", "build"]


# Names that tell that something came about, and not what it is.
EMPTY_NAMES = {"found", "seen", "told", "said", "wish", "wished", "wanted", "asked", "heard", "given", "got", "gave"}


def words_that_say_nothing(source: str) -> list[str]:
    """Empty names that are bound, aliases of `options`, and docstrings that begin with half a question."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY_NAMES:
            faults.append(node.id)
        elif isinstance(node, ast.arg) and node.arg in EMPTY_NAMES:
            faults.append(node.arg)
        elif isinstance(node, ast.alias) and node.name == "options" and node.asname:
            faults.append(f"as {node.asname}")
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            faults += re.findall(r"^(?:what|whether|of which)\b", ast.get_docstring(node) or "", re.I)
    return faults


def test_names_and_docstrings_say_what_they_are_of() -> None:
    faults = {module: words_that_say_nothing(path.read_text()) for module, path in MODULES.items()}
    assert {module: words for module, words in faults.items() if words} == {}


def test_words_that_say_nothing_are_seen() -> None:
    source = """'What this is.'
from softbench import options as opts
def f(wanted, *told):
    'Whether so.'
    (a, found), self.seen = [b for seen in told]
class C:
    'Of which many.'
    asked: int
"""
    assert sorted(words_that_say_nothing(source)) == [
        "Of which", "What", "Whether", "as opts", "asked", "found", "seen", "told", "wanted"]
    assert words_that_say_nothing("'Whatever comes.'\nfrom a import options\ndef f(rows): rows.seen = 1\n") == []


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "softbench"]
    return subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["--version"], ["latency", "--help"], ["memory", "--help"],
                                       ["flops", "--help"], ["show", "--help"], ["plot", "--help"], ["env", "--help"]])
def test_command_line_starts_without_heavy_packages(arguments: list[str]) -> None:
    code = ("import sys\nfrom softbench.__main__ import main\n"
            "try: main(sys.argv[1:])\n"
            f"finally: print('LOADED', *sorted({HEAVY} & set(sys.modules)))")
    done = run(*arguments, code=code)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert len(done.stdout.splitlines()) > 1
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_command_line_answers_within_a_third_of_a_second(arguments: list[str]) -> None:
    """Of its own time on a CPU, which a busy machine does not lengthen as it does the time on the clock."""
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


# Where the kind of a device may be asked, or torch.cuda be called, and why; beside kernels, which are launched on the
# device of their tensors.
ASKS_FOR_GPU = {
    "softbench.machine.device": "the seam",
    "softbench.ops.dispatch": "asked at each call of an operation, also while torch.compile traces it",
    "softbench.ops.gaussian_attention": "says which kernels a kind of device has, as ops.dispatch does",
    "softbench.ops.gaussian_attention._distances": "asks torch whether a CUDA graph is being recorded, at each call",
    "softbench.ops.gaussian_attention._by_landmarks": "another way on a CPU, chosen at each call",
    "softbench.ops.gaussian_attention.eager": "tiles of another size on a CPU, chosen at each call",
    "softbench.ops.average_pool.eager": "another way on a GPU, chosen at each call",
    "softbench.attention._blocks": "another way on a CPU, chosen at each call",
    "softbench.attention.agent": "another way on a CPU, chosen at each call",
}
GPU = re.compile(r"""torch\.(cuda|mps|xpu)\b|\.is_(cuda|mps|xpu)\b|[!=]= ["'](cpu|cuda)["']|["'](cpu|cuda)["'] [!=]="""
                 r"""|startswith\(["']cuda|\bin [(\[{]["'](cpu["'], ["']cuda|cuda)["']""")


def test_devices_are_asked_through_one_seam() -> None:
    asking = {module for module, path in MODULES.items() if GPU.search(path.read_text())
              and not re.fullmatch(r"softbench\.ops\..*\.(triton|_launches)", module)}
    assert asking == set(ASKS_FOR_GPU)


@pytest.mark.parametrize("line", [
    'if device.type == "cuda":', 'x = "cuda" != kind', 'device.startswith("cuda")', "x.is_cuda",
    "torch.cuda.synchronize()", 'kind in ("cpu", "cuda")', "torch.mps.synchronize()"])
def test_a_question_past_the_seam_is_seen(line: str) -> None:
    assert GPU.search(line)


DTYPES = {"float32", "bfloat16", "float16", "float64"}
# Beside the table: Triton's own dtypes.
NAMES_DTYPES = {"softbench.dtypes", "softbench.ops.gaussian_attention._launches"}


def named_dtypes(source: str) -> list[str]:
    """Names of dtypes as text of their own, and torch's two half ones, of which one is easily left out."""
    nodes = list(ast.walk(ast.parse(source)))
    words = [word for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
             for word in node.value.split(",") if set(node.value.replace(" ", "").split(",")) <= DTYPES]
    return words + [node.attr for node in nodes if isinstance(node, ast.Attribute)
                    and ast.unparse(node) in ("torch.float16", "torch.bfloat16")]


def test_dtypes_are_named_in_one_table() -> None:
    assert {module for module, path in MODULES.items() if named_dtypes(path.read_text())} == NAMES_DTYPES


def test_a_dtype_past_the_table_is_seen() -> None:
    for source in ('x = "float32"', 'x = {"float64": 1}', 'x = "float32, float16"', "x = torch.bfloat16"):
        assert named_dtypes(source)
    assert not named_dtypes('"""In float32."""\nx = torch.zeros(1, dtype=torch.float64)')


def test_records_are_constructed_in_one_place() -> None:
    calls = [module for module, tree in TREES.items() for node in ast.walk(tree)
             if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Record"]
    assert calls == ["softbench.records.record"]


def test_the_pages_name_every_room_in_its_order() -> None:
    there = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    folders = [*sorted(there - set(ROOMS)), *(name for name in ROOMS if name in there)]
    picture = (ROOT / "docs" / "design.md").read_text().partition("## Rooms")[2].split("```")[1]
    assert re.findall(r"^  (\w+)(?:/|\.py) ", picture, re.M) == [
        *sorted(there - set(ROOMS)), *(name for name in ROOMS if name != "words")]
    sentence = (ROOT / "README.md").read_text().partition("## Rooms")[2].partition("## ")[0]
    assert re.findall(r"`(\w+)/`", sentence) == folders


def test_files_that_the_design_opens_are_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    named = [name for name in re.findall(r"`([\w/]+\.py)`", text) if not name.startswith("tests/")]
    assert len(named) > 40
    assert [name for name in named if not (PACKAGE / name).exists()] == []
    roads = re.findall(r"^\*\*.+?(\d+)\s+files: (.+?)\.(?: |\n\n)", text, re.M | re.S)
    assert [len(re.findall(r"\.py`", files)) for _, files in roads] == [int(count) for count, _ in roads]
    assert len(roads) == 4
