"""How long and wide things may be, which names are taken, and which test each module has.

An exception stands in a list with its reason, and the lists may only shrink. Nothing is imported; files are parsed.
"""

import ast
import re
from collections import Counter, defaultdict

import pytest
from parsed import CORE, ENGINE, KERNELS, MODULES, ROOT, tree

MOST_LINES_OF_A_FUNCTION, MOST_ARGUMENTS = 70, 6
MOST_LINES_OF_A_FILE = {"engine": 400, "rowtide": 400, "csrc": 400, "wheels": 400}
MOST_LINES_OF_A_FILE |= {"tests": 500, "benchmarks": 500, "examples": 150, "docs": 150}

# What is over a limit, how far it is today, and why it may be. It may shrink; what is back within its limit goes.
LONG_FUNCTIONS = {
    "tests/bindings/test_native_arguments.py methods": (76, "one line for each function of the core"),
}
LONG_FILES = {
    "engine/_native.pyi": (442, "the types of the whole core, one block for each file of bindings"),
}
COLUMNS = "a kernel takes its columns one by one, as its reference and its launch do"
MANY_ARGUMENTS = {
    "engine/__init__.py open": (26, "every setting of the engine"),
    "engine/answers.py Answers.topk": (10, "public: a query, its filters and its moment"),
    "engine/engine.py Engine.ingest": (10, "public: the columns of events, and how to take them"),
    "engine/evaluate/prequential.py prequential": (11, "public: the columns of events, and how to judge them"),
    "engine/kernels/learn_steps/__init__.py learn_steps": (10, COLUMNS),
    "engine/kernels/learn_steps/__init__.py Planner.plan": (10, COLUMNS),
    "engine/kernels/learn_steps/order_on_device.py window_on_device": (9, COLUMNS),
    "engine/kernels/learn_steps/reference.py learn_steps": (9, COLUMNS),
    "engine/kernels/loss_grads/__init__.py loss_grads": (10, COLUMNS),
    "engine/kernels/loss_grads/reference.py loss_grads": (10, COLUMNS),
    "engine/kernels/loss_grads/triton_kernel.py loss_grads": (10, COLUMNS),
    "engine/kernels/score_topk/__init__.py score_topk": (9, COLUMNS),
    "engine/kernels/score_topk/reference.py score_topk": (8, COLUMNS),
    "engine/kernels/score_topk/triton_kernel.py score_topk": (7, COLUMNS),
    "engine/kernels/update_rows/__init__.py update_rows": (10, COLUMNS),
    "engine/kernels/update_rows/reference.py update_rows": (10, COLUMNS),
    "engine/kernels/update_rows/triton_kernel.py update_rows": (11, COLUMNS),
    "engine/reader.py Reader.ingest": (10, "public: as Engine.ingest, which it refuses"),
}

# A module without a test file of its own: the tests that would fail without it.
COVERED_BY = {
    "answers": "test_engine.py",
    "cli/demo": "cli/test_app.py",
    "cli/tables": "cli/test_app.py",
    "cold/file": "cold/test_cold_faults.py",
    "cold/keys": "cold/test_cold.py",
    "cold/mapped": "cold/test_cold_faults.py",
    "cold/snapshot": "cold/test_cold.py",
    "contract/arrays": "test_typing.py",
    "contract/errors": "laws/test_bad_input.py",
    "device/catalogue": "device/test_tiles.py",
    "device/copies": "device/test_tile_copies.py",
    "device/device": "device/test_hot_engine.py",
    "device/steps": "device/test_hot_engine.py",
    "directory/epochs": "directory/test_recovery.py",
    "directory/verify": "directory/test_directory.py",
    "kernels/checks": "kernels/test_update_rows.py",
    "kernels/launch": "kernels/test_ahead_of_time.py",
    "kernels/tolerances": "kernels/conftest.py",
    "log/syncer": "laws/test_interrupted_waits.py",
    "machine/calls": "laws/test_interrupts.py",
    "machine/files": "log/test_log_failures.py",
    "machine/resources": "contract/test_settings.py",
    "opening": "directory/test_directory.py",
    "store/catalogue": "laws/test_topk_law.py",
    "store/neighbours": "learn/test_sequence.py",
    "store/store": "laws/test_third_table.py",
    "store/tables": "cold/test_compaction.py",
    "table/layout": "cold/test_changes.py",
    "table/stored": "test_reader.py",
    "table/table": "laws/test_tiers.py",
    "writer": "test_engine.py",
}

# Its functions have the names of those whose work they count.
NAMED_AFTER_OTHERS = {ENGINE / "kernels" / "work.py"}

# Public names of more than one module of engine/: how many, and why they may be.
DEFINED_TWICE = {
    "verify": (3, "each checks its own part: said as cold.verify, log.verify, engine.verify"),
}

ids = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ENGINE)))


# Sizes


def functions(path):
    """(name, node, whether it is a method) of every function of a Python file, but not the overloads of one."""
    for parent in ast.walk(tree(path)):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "overload" not in decorators(node):
                method = isinstance(parent, ast.ClassDef)
                name = f"{parent.name}.{node.name}" if method else node.name
                yield f"{path.relative_to(ROOT)} {name}", node, method


def decorators(node):
    return {part for name in node.decorator_list for part in re.findall(r"\w+", ast.unparse(name).split("(")[0])}


# Comments, literals and preprocessor lines: braces in them close nothing.
QUIET = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"\(.*?\)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'(?!\w)|^[ \t]*\#(?:\\.|[^\\\n])*""",
    re.S | re.M,
)
SCOPE = re.compile(r"(template\s*<[^;{]*>\s*)?(namespace|extern|enum|class|struct|union)\b")


def core_functions(path):
    """(name, lines) of every function of a C++ file, by its braces; a lambda belongs to the function around it."""
    text = QUIET.sub(lambda found: "\n" * found.group().count("\n"), path.read_text())
    opened, head = [], 0
    for found in re.finditer(r"[{};]", text):
        at, mark, before = found.start(), found.group(), text[head : found.start()]
        if mark == "{":
            outside = not any(of_function for of_function, _ in opened)
            of_function = outside and "(" in before and not SCOPE.match(before.strip())
            opened.append((of_function, head + len(before) - len(before.lstrip())))
        elif mark == "}":
            of_function, start = opened.pop()
            if of_function and text[at + 1 :].lstrip()[:1] in {",", "{"}:  # a member is initialized; the body follows
                head = start
                continue
            if of_function:
                names = re.findall(r"((?:\w+::)*~?\w+)\s*\(", text[start:at])
                yield next((n for n in names if not n.startswith("__")), "operator"), text.count("\n", start, at) + 1
        head = at + 1
    assert not opened, f"{path}: braces that do not match"


def test_braces_of_the_core_are_read(tmp_path):
    (tmp_path / "a.cpp").write_text(
        "namespace a {\n// {\nstruct B {\n    B(int c) : c{c}, text{'{', \"{\"} {\n        run([&] {\n        });\n"
        "    }\n"
        "    int c = 0;\n};\n#define D(x) {\nint e(int f) { return f; }\n}  // namespace a\n"
    )
    assert list(core_functions(tmp_path / "a.cpp")) == [("B", 4), ("e", 1)]


def within(found, limit, exceptions):
    """Nothing but `exceptions` is over the limit, none of them further than it says, and none without need."""
    over = {name: size for name, size in sorted(found, key=lambda each: each[1]) if size > limit}
    assert {name: size for name, size in over.items() if size > exceptions.get(name, (limit, ""))[0]} == {}
    assert exceptions.keys() - over.keys() == set(), "no longer over the limit: take it off the list"


def test_no_function_is_long():
    python = [path for folder in MOST_LINES_OF_A_FILE for path in (ROOT / folder).rglob("*.py")]
    found = [(name, node.end_lineno - node.lineno + 1) for path in python for name, node, _ in functions(path)]
    found += [(f"{path.relative_to(ROOT)} {name}", lines) for path in CORE for name, lines in core_functions(path)]
    assert len(found) > 1000
    within(found, MOST_LINES_OF_A_FUNCTION, LONG_FUNCTIONS)


def test_no_function_has_many_arguments():
    found = []
    for path in MODULES:
        for name, node, method in functions(path):
            # Triton compiles no structures, and an argument of a command is an option of it.
            if decorators(node) & {"jit", "command"}:
                continue
            given = node.args
            arguments = [argument.arg for argument in given.posonlyargs + given.args + given.kwonlyargs]
            bound = method and "staticmethod" not in decorators(node)
            found.append((name, len(arguments) - bound))
    within(found, MOST_ARGUMENTS, MANY_ARGUMENTS)


def test_no_file_is_long():
    for folder, most in MOST_LINES_OF_A_FILE.items():
        kinds = {".py", ".pyi", ".cpp", ".h", ".cu", ".cuh"}
        paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
        found = [(str(path.relative_to(ROOT)), path.read_text().count("\n")) for path in paths]
        within(found, most, {name: why for name, why in LONG_FILES.items() if name.startswith(f"{folder}/")})


# Names and tests


def test_every_module_has_its_test():
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    modules = [path.relative_to(ENGINE).with_suffix("") for path in MODULES if not path.name.startswith("__")]
    modules = [path for path in modules if len(path.parts) < 3]  # what every kernel has is below
    stems = Counter(path.name for path in modules)
    without = {
        str(module)
        for module in modules
        if not any(
            re.fullmatch(rf"test_{module.name}(_\w+)?", test.stem)
            and (stems[module.name] == 1 or test.parent == module.parent)
            for test in tests
        )
    }
    assert without == COVERED_BY.keys()
    for name, test in COVERED_BY.items():
        assert (ROOT / "tests" / test).is_file(), name


def public_names(path):
    """Classes, functions, and what is named as a type, at the top of a module; a command's name is what one types."""
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and "command" not in decorators(node):
            yield node.name
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp | ast.Name):
            yield from (target.id for target in node.targets if re.match(r"[A-Z][A-Za-z]*[a-z]", ast.unparse(target)))


def test_names_are_known_once():
    places = defaultdict(list)
    for path in MODULES:
        for name in set(public_names(path)):
            of_kernel = {*KERNELS, "cases", "mix64"} if path.parent.parent.name == "kernels" else ()
            if not name.startswith("_") and name not in {"main", *of_kernel} and path not in NAMED_AFTER_OTHERS:
                places[name].append(str(path.relative_to(ROOT)))
    within(((name, len(where)) for name, where in places.items()), 1, DEFINED_TWICE)


@ids
def test_names_say_what_things_are(path):
    assert not re.search(r"util|helper|common|manager|misc", path.stem), path
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text()), path


@ids
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path)), path
