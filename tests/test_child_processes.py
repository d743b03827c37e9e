"""Every child process gets its own stdin, and what it prints is decoded as UTF-8. Checked in the syntax trees.

A child that inherits a pipe as stdin hangs on Windows while another process waits for data from that pipe. Processes of
``multiprocessing`` start with an empty stdin.
"""

import ast
import subprocess
import sys

import pytest

from acestep.core.paths import PROJECT

STARTERS = {
    *(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")),
    *(f"asyncio.create_subprocess_{name}" for name in ("exec", "shell")),
}
WITHOUT_STDIN = {
    *(f"subprocess.{name}" for name in ("getoutput", "getstatusoutput")),
    *("os.system", "os.popen", "os.startfile", "os.fork", "os.forkpty", "pty.spawn"),
    *(
        f"os.{start}{form}"
        for start in ("spawn", "exec", "posix_spawn")
        for form in ("l", "le", "v", "ve", "vp", "p", "")
    ),
}
PROGRAM = [*(PROJECT / "acestep").rglob("*.py"), *PROJECT.glob("*.py"), *(PROJECT / "dev").rglob("*.py")]
TESTS = list((PROJECT / "tests").rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text("utf-8"))


def calls(parsed):
    """(name as it is written, keywords, line) of each call that starts a process."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTERS:
            yield ast.unparse(node.func), {keyword.arg for keyword in node.keywords}, node.lineno


def without_stdin(parsed):
    """What starts a process with the stdin of this one, or hides from this test."""
    for name, keywords, line in calls(parsed):
        if not keywords & {"stdin", "input"}:
            yield line, name
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WITHOUT_STDIN:
            yield node.lineno, ast.unparse(node.func)
        if isinstance(node, ast.ImportFrom) and node.module == "subprocess":
            yield node.lineno, "from subprocess import"


def test_every_child_process_gets_its_own_stdin():
    found = {f"{path.relative_to(PROJECT)}:{at}" for path in PROGRAM + TESTS for at in without_stdin(tree(path))}
    assert found == set()
    assert sum(len(list(calls(tree(path)))) for path in PROGRAM) >= 8


def test_what_child_processes_print_is_decoded_as_utf_8():
    for path in PROGRAM:
        for name, keywords, line in calls(tree(path)):
            is_text = keywords & {"text", "universal_newlines", "encoding", "errors"}
            assert not is_text or keywords >= {"encoding", "errors"}, f"{path}:{line} {name}"


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(['a'], text=True)",
        "subprocess.Popen(['a'], stdout=subprocess.PIPE)",
        "asyncio.create_subprocess_exec('a')",
        "os.system('a')",
        "from subprocess import run",
    ],
)
def test_a_child_process_without_its_own_stdin_is_found(code):
    assert list(without_stdin(ast.parse(code)))
    assert not list(without_stdin(ast.parse("subprocess.run(['a'], stdin=subprocess.DEVNULL)")))


TAKE = """
import os, subprocess, sys
from acestep.core.standard_streams import take_stdin
pipe = take_stdin()
child = subprocess.run([sys.executable, "-c", "import os; print(os.read(0, 9))"], capture_output=True, encoding="utf-8")
print(child.stdout.strip(), os.read(0, 9), os.read(take_stdin(), 9), os.get_inheritable(pipe))
"""


def test_children_of_a_process_that_waits_for_its_parent_do_not_inherit_the_pipe():
    done = subprocess.run([sys.executable, "-c", TAKE], cwd=PROJECT, input=b"parent", capture_output=True, check=True)
    assert done.stdout.decode().strip() == "b'' b'' b'parent' False"
