"""Another Python process with the engine imported, which evaluates what a test says, one line at a time."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

SERVE = """
import json, sys, numpy as np, engine
names = {"engine": engine, "np": np}
for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            answer = {"value": eval(code, names)}
        except SyntaxError:
            exec(code, names)
            answer = {}
    except Exception as e:
        answer = {"error": type(e).__name__, "text": str(e)}
    print(json.dumps(answer, default=lambda x: x.tolist()), flush=True)
"""


class Other:
    """Call it with an expression or statements; numpy comes back as lists."""

    def __init__(self, process):
        self._process = process

    def send(self, code):
        """Without waiting for the answer."""
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()

    def ask(self, code):
        self.send(code)
        line = self._process.stdout.readline()
        assert line, f"the other process ended with {self._process.wait()}"
        return json.loads(line)

    def __call__(self, code):
        answer = self.ask(code)
        assert "error" not in answer, answer
        return answer.get("value")

    def error(self, code):
        """The name of the exception that it raises."""
        return self.ask(code)["error"]

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextmanager
def other_process():
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Other(process)
        finally:
            process.stdin.close()
            process.wait()
