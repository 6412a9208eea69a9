"""`mocli` for scripts that call it often: a process with its libraries loaded forks itself for every call.

`python warm.py SOCKET` serves; `CLIENT` is what a script calls instead of mocli. Streams, folder, environment
and exit code are those of a process of its own.
"""

import json
import os
import socket
import sys

CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({path!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [call], [0, 1, 2])
sys.exit(int(server.recv(8) or 1))
"""


def serve(path):
    """Answer calls, each in a fork, until the process is ended."""
    import anndata  # noqa: F401 - loaded for the forks, as are the next
    import sklearn.decomposition  # noqa: F401

    import mocli.cli.app
    import mocli.tasks.integrate.work  # noqa: F401

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        while True:
            call, _ = server.accept()
            if not os.fork():
                answer(call)
            call.close()
            os.waitpid(-1, 0)


def answer(call):
    """Run what was called for with its streams, send the exit code, and end."""
    from mocli.__main__ import main

    text, streams, _, _ = socket.recv_fds(call, 2**18, 3)
    argv, folder, environment = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    call.send(str(code).encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
