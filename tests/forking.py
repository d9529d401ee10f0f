"""Programs run in forks of one process that has already imported everything.

Importing torch, transformers and EasyEdit takes ten times as long as most of what the tests run in programs. A folder,
to be put first in PATH, has `nse` and `python`: small clients that pass their arguments, environment, working directory
and streams to a server, which forks for each of them. A signal to a client acts on its program: the program gets the
same SIGINT or SIGTERM, and is killed when the client is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    asked = {{"argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.send(b"%d" % number))
    sys.exit(int(server.recv(16) or 1))
"""


@contextmanager
def programs(folder: Path, imports: Callable[[], object]) -> Iterator[Path]:
    """The folder of `nse` and `python`, until the block ends. imports: called once, in the server."""
    address = str(folder / "server")
    for name in ("nse", "python"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(8)
        server = os.fork()
        if server == 0:
            _end_after(lambda: _serve(listening, imports))
    try:
        yield folder
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def _serve(listening: socket.socket, imports: Callable[[], object]) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    imports()
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _end_after(lambda connection=connection: _answer(connection))
        connection.close()


def _answer(connection: socket.socket) -> int:
    """Run what is asked for in a process of its own, pass the client's signals on, and send the exit code."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    program = os.fork()
    if program == 0:
        connection.close()
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        _end_after(lambda: _run(**json.loads(message)))
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(program)
    while ended not in select.select([connection, ended], [], [])[0]:
        os.kill(program, int(connection.recv(16) or signal.SIGKILL))  # no message: the client is dead
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.send(str(code).encode())
    return 0


def _run(argv: list[str], cwd: str, environment: dict[str, str]) -> int:
    """As `nse ...`, `python -c CODE ...`, `python -m MODULE ...` or `python FILE ...`."""
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(place, mode, buffering=1, closefd=False) for place, mode in enumerate("rww")
    )
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    program, *words = argv
    sys.executable = str(Path(program).with_name("python"))
    if Path(program).name == "nse":
        from nse_plugin.cli import main

        return int(main(words) or 0)
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec", dont_inherit=True), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    return 0


def _end_after(call: Callable[[], int]) -> None:
    """End this process with what `call` returns, as Python would; nothing of pytest's runs in it."""
    code: object = 1
    try:
        code = call()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
