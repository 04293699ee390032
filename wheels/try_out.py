"""Tries a wheel as a user would: a new venv, no compiler on PATH, README's example. Ends with status 1 if it fails.

`python wheels/try_out.py dist/rowtide-*.whl`, with the Python that the wheel is for.
"""

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
ABOUT = "import engine, rowtide; assert rowtide is engine; print(engine.__version__, engine.__file__)"
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc")


def example() -> str:
    """README's first block of Python."""
    found = re.search(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    return found[1] if found else sys.exit("try_out: README.md has no example")


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, bare = Path(folder) / "venv", Path(folder) / "work"
        bare.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CC", "CXX"))}
        environment = kept | {"PATH": str(home / "bin")}
        venv.create(home, with_pip=True)
        if there := [name for name in COMPILERS if (home / "bin" / name).exists()]:
            sys.exit(f"try_out: {there} on PATH")

        def run(what: str, *words: str, status: int = 0) -> str:
            print(f"--- {what}", flush=True)
            done = subprocess.run(
                [home / "bin" / words[0], *words[1:]], cwd=bare, env=environment, capture_output=True, text=True
            )
            print(done.stdout, end="")
            if done.returncode != status:
                sys.exit(f"try_out: {words} ended with status {done.returncode}\n{done.stderr}")
            return done.stdout + done.stderr

        pip = ("python", "-m", "pip", "--disable-pip-version-check")
        run(
            f"install {wheel.name} in a new venv, without a compiler",
            *pip,
            "install",
            "-q",
            "--only-binary",
            ":all:",
            str(wheel.resolve()),
        )
        version, place = run("import it by both names", "python", "-c", ABOUT).split()
        assert wheel.name.split("-")[1] == version, version
        assert str(home) in place, place
        (bare / "example.py").write_text(example())
        assert run("run README's example", "python", "example.py"), "the example prints nothing"
        assert (bare / "shop").is_dir()
        assert "'rowtide[cli]'" in run("the command names the extra that it needs", "rowtide", status=1)
        print(f"{wheel.name}: installed without a compiler, README's example ran")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
