"""The programs of examples/, imported, and run as processes that stop with the test."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

from pages import ROOT

EXAMPLES = ROOT / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Program:
    def __init__(self, process):
        self.process = process

    def wait_for(self, pattern):
        """The match in the first line that has one; what was printed, if the program ends before."""
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("".join(said))

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.process.communicate(timeout=60)


@contextmanager
def program(name, *arguments):
    """A program with its output, errors included, line by line."""
    command = [sys.executable, "-u", EXAMPLES / f"{name}.py", *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONPATH": paths}
    ) as process:
        try:
            yield Program(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)
