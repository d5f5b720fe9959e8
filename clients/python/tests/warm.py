"""Starts adapters quickly: the suite starts a hundred, a dozen at once, and each would import everything again.

`warm.py SOCKET serve` imports the adapter once; `warm.py SOCKET FACE`, which is what the suite runs, hands its own input,
output and environment to a fork of that process, and ends as the fork does."""

import array
import json
import os
import socket
import sys


def hand_over(path: str, face: str) -> None:
    """What the suite runs."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        environment = {name: value for name, value in os.environ.items() if name.startswith("TICKGATE_")}
        message = json.dumps({"face": face, "environment": environment}).encode()
        descriptors = array.array("i", [0, 1, 2])
        connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        # The fork alone holds them now: their end is the suite's to see.
        for descriptor in (0, 1):
            os.close(descriptor)
        status = connection.recv(1)
        os._exit(status[0] if status else 1)


def serve(path: str) -> None:
    """Forks for each connection, until it is ended."""
    import signal

    import adapter

    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        request = json.loads(message)
        os.environ.update(request["environment"])
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        status = 1
        try:
            adapter.play(request["face"])
            status = 0
        finally:
            connection.send(bytes([status]))
            os._exit(status)


if __name__ == "__main__":
    if sys.argv[2] == "serve":
        serve(sys.argv[1])
    else:
        hand_over(sys.argv[1], sys.argv[2])
