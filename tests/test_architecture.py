"""The rules of the house, read off the source: what imports what, how long files are, what every kernel has.

Nothing is imported here; files are parsed.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
MODULES = sorted(path for path in ENGINE.rglob("*.py"))
CORE = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())

# From the bottom up; a module imports from lower layers, and from its own where no other rule forbids it.
LAYERS = [
    {"_native", "_cuda"},
    {"backend", "errors", "events", "config", "metrics", "files", "tensors", "transfers", "ranges"},
    {"kernels"},
    {"rank", "learn", "table", "log"},
    {"directory"},
    {
        "epoch",
        "verify",
        "digest",
        "reading",
        "reader",
        "backup",
        "untrusted",
        "removal",
        "removing",
        "admission",
        "saving",
        "device",
    },
    {"engine", "opening"},
    {"popularity", "evaluate"},
    {"sources"},
    {"demo", "profiling", "roofline"},
    {"__main__"},
]
SIBLINGS = {"rank", "learn", "table", "log", "kernels"}  # rooms: none imports another of its layer
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
ids = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ENGINE)))


def tree(path):
    return ast.parse(path.read_text(), str(path))


def room(path):
    return path.relative_to(ENGINE).with_suffix("").parts[0]


def imported(path):
    """(line, dotted name) of everything imported, also inside functions; the engine's own begin with a dot."""
    package = ("", *path.relative_to(ENGINE).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, re.sub(r"^engine(?=\.|$)", "", name.name)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join(package[: len(package) - node.level + 1])
                base = f"{base}.{node.module}" if node.module else base
            else:
                base = re.sub(r"^engine(?=\.|$)", "", node.module or "")
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def test_every_module_has_a_layer():
    rooms = {room(path) for path in MODULES} - {"__init__"}
    assert rooms <= HEIGHT.keys(), "give it a layer here, and in the design"


@ids
def test_arrows_point_down(path):
    own = room(path)
    if own == "__init__":  # the public names: may import anything
        return
    for line, name in imported(path):
        if not name.startswith("."):
            continue
        other = name.split(".")[1]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if other not in HEIGHT:  # a name of engine/__init__.py
            assert own in ("__main__", "demo"), where
            continue
        if other == own:
            continue
        assert HEIGHT[other] <= HEIGHT[own], where
        assert HEIGHT[other] < HEIGHT[own] or not {own, other} & SIBLINGS, where


def test_no_module_imports_itself_in_a_circle():
    def dotted(path):
        return ".".join(("", *path.relative_to(ENGINE).with_suffix("").parts)).removesuffix(".__init__")

    names = {dotted(path): path for path in MODULES}
    arrows = {name: set() for name in names}
    for name, path in names.items():
        for _, whole in imported(path):
            arrows[name] |= {whole, whole.rpartition(".")[0]} & names.keys() - {name, ""}
    done: list[str] = []

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, [*trail, name])
            done.append(name)

    for name in arrows.keys() - {""}:
        visit(name, [])


@pytest.mark.parametrize("folder", ["engine", "csrc", "tests", "benchmarks"])
def test_no_file_is_over_500_lines(folder):
    kinds = {".py", ".pyi", ".cpp", ".h", ".c", ".cu", ".cuh", ".md"}
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and (lines := path.read_text().count("\n")) > 500
    }
    assert long == {}


@ids
def test_every_module_says_what_it_is_for(path):
    if path.stat().st_size:
        assert ast.get_docstring(tree(path)), path


@ids
def test_nothing_that_runs_bytes_as_code(path):
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for line, name in imported(path):
        assert name.split(".")[0] not in banned, f"{path}:{line}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else None
            assert called not in {"eval", "exec", "compile", "__import__"}, f"{path}:{node.lineno}"
            pickles = [key for key in node.keywords if key.arg == "allow_pickle"]
            assert all(isinstance(key.value, ast.Constant) and not key.value.value for key in pickles), path


@ids
def test_the_environment_is_read_in_one_place(path):
    if path == ENGINE / "backend.py":
        return
    for node in ast.walk(tree(path)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in {"environ", "environb", "getenv", "getenvb"}, f"{path}:{node.lineno}"
    assert not [name for _, name in imported(path) if name.startswith("os.")], path


@ids
def test_only_the_backend_imports_what_is_native(path):
    if path != ENGINE / "backend.py":
        assert [name for _, name in imported(path) if re.search(r"\b_(native|cuda)\b", name)] == []


def imported_at_once(path):
    """Every name that importing a module imports, the engine's own with their dots."""
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from ("." * node.level + f"{node.module or ''}.{name.name}" for name in node.names)


@ids
def test_no_torch_before_there_is_a_use_for_it(path):
    """Not at a module's top, but in triton_kernel.py and device.py, which no other imports at its top in turn."""
    if path.name in ("triton_kernel.py", "device.py"):
        return
    assert not [name for name in imported_at_once(path) if name.endswith(("triton_kernel", ".device"))], path
    top = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name.name for node in top if isinstance(node, ast.Import) for name in node.names]
    names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom) and not node.level]
    extras = {name.split(".")[0] for name in names} & {"torch", "triton", "pyarrow", "typer", "rich", "matplotlib"}
    assert not extras or room(path) in {"__main__", "sources", "demo"} or path.name.startswith("triton_"), path


def test_nothing_of_torch_in_the_core():
    for path in CORE:
        assert not re.search(r"\b(torch|ATen|c10)\b", path.read_text()), path


# csrc/README.md: what each folder may include besides itself.
CORE_BELOW = {
    "bindings": {"learn", "isa", "table", "steps", "kernels", "memory", "disk"},
    "cuda": {"steps", "kernels"},
    "learn": {"table", "steps", "kernels"},
    "isa": {"steps", "kernels", "memory"},
    "table": {"kernels", "memory"},
    "steps": {"kernels", "memory"},
    "kernels": set(),
    "memory": set(),
    "disk": set(),
}


def test_includes_of_the_core_point_down():
    for path in CORE:
        own = path.parent.name
        if path.suffix == ".md":
            continue
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            assert (ROOT / "csrc" / name).is_file(), f"{path} includes {name}: not written from csrc"
            assert name.split("/")[0] in CORE_BELOW[own] | {own}, f"{path} includes {name}"


def test_cuda_stays_in_its_folder():
    assert all(path.suffix in {".h", ".cpp", ".md"} or path.parent.name == "cuda" for path in CORE)
    for path in CORE:
        if path.parent.name != "cuda":
            assert not re.search(r"cuda_runtime|#include .cuda|<<<", path.read_text()), path


def test_python_stays_in_the_bindings():
    for path in CORE:
        if path.suffix != ".md" and path.parent.name != "bindings" and path.name != "bindings_cuda.cpp":
            assert "pybind11" not in path.read_text(), path


KERNELS = sorted(path.name for path in (ENGINE / "kernels").iterdir() if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_has_a_reference_a_test_and_a_benchmark(kernel):
    for path in (
        ENGINE / "kernels" / kernel / "__init__.py",
        ENGINE / "kernels" / kernel / "reference.py",
        ROOT / "tests" / "kernels" / f"test_{kernel}.py",
        ROOT / "benchmarks" / f"bench_{kernel}.py",
    ):
        assert path.is_file(), path
    assert kernel in (ENGINE / "kernels" / "tolerances.py").read_text()
    if (ENGINE / "kernels" / kernel / "triton_kernel.py").is_file():
        assert (ROOT / "tests" / "kernels" / f"test_{kernel}_triton.py").is_file()
        on_a_gpu = [path.read_text() for path in (ROOT / "benchmarks" / "gpu").glob("*.py")]
        assert any(f"engine.kernels.{kernel} import triton_kernel" in text for text in on_a_gpu)


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("triton_kernel.py")), ids=lambda path: path.parent.name)
def test_every_launch_says_how_it_is_to_be_compiled(path):
    """Whether a product and a sum are fused, and by how many warps, are part of the bits: nothing chooses them."""
    launches = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
    ]
    assert launches
    for node in launches:
        assert {"enable_fp_fusion", "num_warps"} <= {key.arg for key in node.keywords}, f"{path}:{node.lineno}"
    assert not re.search(r"autotune|tf32[\"']", path.read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "cases" for node in tree(path).body), path


def test_there_are_kernels():
    assert {"pool_rows", "loss_grads", "update_rows", "score_topk", "learn_steps"} <= set(KERNELS)


@ids
def test_names_say_what_things_are(path):
    assert not re.search(r"util|helper|common|manager|misc", path.stem), path
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text), path
