"""The rules of the house, read off the source: rooms and arrows, what no module does, and what every kernel has.

Nothing is imported here; files are parsed.
"""

import ast
import re

import pytest
from parsed import CORE, ENGINE, KERNELS, MODULES, ROOT, dotted, imported, names_of, tree

# Top to bottom: a module imports from its own room and from rooms further down. A file of engine/ itself is a room of
# one module. "" is the package, whose public names the rooms above it may import.
ROOMS = [
    "__main__",
    *("cli", "profiling", "serve", "refresh", "nn", "cluster", "sources"),
    "",
    *("evaluate", "opening", "engine", "stats", "reader", "writer", "answers"),
    *("device", "directory", "rank", "store", "learn", "features", "table", "cold", "log"),
    *("kernels", "machine", "contract"),
    *("_native", "_cuda"),
]
UPWARD: dict[tuple[str, str], str] = {}  # (module, what it imports): why

# csrc/README.md, top to bottom: what each folder may include besides itself.
FOLDERS = {
    "bindings": {"learn", "isa", "table", "steps", "kernels", "memory", "disk"},
    "cuda": {"steps", "kernels"},
    "learn": {"table", "steps", "kernels"},
    "isa": {"steps", "kernels", "memory"},
    "table": {"kernels", "memory"},
    "steps": {"kernels", "memory"},
    "kernels": {"memory"},
    "disk": set(),
    "memory": set(),
}

ids = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ENGINE)))


def imported_at_once(path):
    """Every name that importing the module imports."""
    nodes = list(tree(path).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from names_of(node, path)
        elif isinstance(node, ast.Try | ast.If) and "TYPE_CHECKING" not in ast.dump(getattr(node, "test", node)):
            nodes += (
                node.body + node.orelse + [each for caught in getattr(node, "handlers", []) for each in caught.body]
            )


MODULE_OF = {dotted(path): path for path in MODULES}


def module_named(name):
    """The module of engine/ that a name with its dots, such as ".cold.file.verify", belongs to; None for others'."""
    if not name.startswith("."):
        return None
    whole = name[1:]
    return next((part for part in (whole, whole.rpartition(".")[0]) if part in {*MODULE_OF, *ROOMS}), whole)


# Rooms and arrows


def test_every_module_has_a_room():
    assert {dotted(path).split(".")[0] for path in MODULES} <= set(ROOMS), "give it a room here, and in the design"


def test_arrows_point_down():
    upward = set()
    for path in MODULES:
        if path == ENGINE / "__init__.py":  # the public names come from anywhere
            continue
        for line, name in imported(path):
            other = module_named(name)
            if other is None:
                continue
            own_room, room = dotted(path).split(".")[0], other.split(".")[0]
            assert room in ROOMS, f"{path.relative_to(ROOT)}:{line} imports {name}"
            if ROOMS.index(room) < ROOMS.index(own_room):
                upward.add((dotted(path), other))
    assert upward == UPWARD.keys()


@ids
def test_no_module_names_its_package(path):
    """Where a project has an `engine` of its own, the package is loaded as `rowtide`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            named = [name.name for name in node.names]
        else:
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {"engine", "rowtide"} & {name.split(".")[0] for name in named}, f"{path}:{node.lineno}"


def test_no_module_imports_itself_in_a_circle():
    arrows = {dotted(path): {module_named(name) for _, name in imported(path)} & MODULE_OF.keys() for path in MODULES}
    done: list[str] = []

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(arrows[name] - {name, ""}):
                visit(other, [*trail, name])
            done.append(name)

    for name in arrows.keys() - {""}:
        visit(name, [])


def test_includes_of_the_core_point_down():
    for path in CORE:
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            assert (ROOT / "csrc" / name).is_file(), f"{path} includes {name}: not written from csrc"
            own, folder = path.parent.name, name.split("/")[0]
            assert folder in FOLDERS[own] | {own}, f"{path} includes {name}"
    for at, (folder, below) in enumerate(FOLDERS.items()):
        assert below <= set(list(FOLDERS)[at + 1 :]), folder
        assert f"`{folder}/`" in (ROOT / "csrc" / "README.md").read_text()


def test_cuda_python_and_torch_stay_in_their_folders_of_the_core():
    for path in CORE:
        text, folder = path.read_text(), path.parent.name
        assert not re.search(r"\b(torch|ATen|c10)\b", text), path
        if folder != "cuda":
            assert path.suffix != ".cu", path
            assert not re.search(r"cuda_runtime|#include .cuda|<<<", text), path
        if folder != "bindings" and path.name != "bindings_cuda.cpp":
            assert not re.search(r"pybind11|Python\.h", text), path


# What no module does, or one alone


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
    if path == ENGINE / "machine" / "backend.py":
        return
    for node in ast.walk(tree(path)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in {"environ", "environb", "getenv", "getenvb"}, f"{path}:{node.lineno}"
    assert not [name for _, name in imported(path) if name.startswith("os.")], path


@ids
def test_only_the_backend_imports_what_is_native(path):
    if path != ENGINE / "machine" / "backend.py":
        assert [name for _, name in imported(path) if re.search(r"\b_(native|cuda)\b", name)] == []


def may_need(path, extra):
    """Whether importing a module may import a package that is not always installed."""
    room = dotted(path).split(".")[0].replace("__main__", "cli")
    if extra in {"torch", "triton"}:
        return room == "device" or path.name.startswith("triton_") or path.name == "order_on_device.py"
    return room in {"pyarrow": {"sources", "cli"}, "typer": {"cli"}, "rich": {"cli"}}.get(extra, set())


def test_no_torch_before_there_is_a_use_for_it():
    """Nor another extra, be it by way of other modules."""
    needs = {}
    for path in MODULES:
        names = list(imported_at_once(path))
        extras = {name.split(".")[0] for name in names} & {"torch", "triton", "pyarrow", "typer", "rich", "matplotlib"}
        needs[dotted(path)] = extras, {module_named(name) for name in names} & MODULE_OF.keys()

    def all_of(module, seen):
        seen.add(module)
        extras, others = needs[module]
        return extras.union(*(all_of(other, seen) for other in others - seen))

    for path in MODULES:
        for extra in all_of(dotted(path), set()):
            assert may_need(path, extra), f"importing {path.relative_to(ROOT)} imports {extra}"


# Kernels


def test_there_are_kernels():
    assert {"pool_rows", "loss_grads", "update_rows", "score_topk", "learn_steps"} <= set(KERNELS)


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


@pytest.mark.parametrize(
    "path", sorted(ENGINE.rglob("triton_*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_launch_says_how_it_is_to_be_compiled(path):
    """Whether a product and a sum are fused, and by how many warps, are part of the bits: nothing chooses them."""
    launches = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
    ]
    for node in launches:
        assert {"enable_fp_fusion", "num_warps"} <= {key.arg for key in node.keywords}, f"{path}:{node.lineno}"
    assert not re.search(r"autotune|tf32[\"']", path.read_text())
    if path.name == "triton_kernel.py":
        assert launches
        assert any(isinstance(node, ast.FunctionDef) and node.name == "cases" for node in tree(path).body), path
