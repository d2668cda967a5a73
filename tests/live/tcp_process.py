"""A process inside a namespace that does with one TCP socket what it is told, a line at a time.

Run as a program, ``ip netns exec NAME python tcp_process.py``; needs nothing but the standard library. Commands:
``listen``, ``accept``, ``read``, ``write N``, ``shutdown``, ``close``, ``abort``, ``nodelay``. The answer is one
line: ``ok`` or the error's name, and for ``read`` the number of bytes.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys

PORT = 8080


def main() -> None:
    family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", PORT))
    connection = listener
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        answer = "ok"
        try:
            if verb == "listen":
                listener.listen(8)
            elif verb == "accept":
                connection, _ = listener.accept()
                connection.setblocking(False)
            elif verb == "read":
                answer = str(len(connection.recv(1 << 20)))
            elif verb == "write":
                answer = str(connection.send(b"x" * int(argument)))
            elif verb == "nodelay":
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            elif verb == "shutdown":
                connection.shutdown(socket.SHUT_WR)
            elif verb == "close":
                connection.close()
            elif verb == "abort":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
