"""pktsim's DNS server behind real sockets on 127.0.0.1, to be run inside a namespace.

Run as ``ip netns exec NAME python -m tests.live.dns_process COREFILE OBJECTS``. Prints ``ready``, then every query that
comes in as ``PROTOCOL HEX``.
"""

from __future__ import annotations

import selectors
import socket
import sys
from pathlib import Path

from pktsim.clock import Clock
from pktsim.cluster.kubedns.corefile import parse_corefile
from pktsim.cluster.kubedns.server import DnsServer, ServerConfig
from pktsim.cluster.loader import load_objects
from pktsim.rng import SeededChoices


def make_server(corefile: Path, objects: Path) -> DnsServer:
    server = DnsServer(
        parse_corefile(corefile.read_text()), Clock(), SeededChoices(), ServerConfig(addresses=("10.244.0.5",))
    )
    server.load(load_objects(objects))
    return server


def main() -> None:
    server = make_server(Path(sys.argv[1]), Path(sys.argv[2]))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 53))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 53))
    listener.listen(8)
    selector = selectors.DefaultSelector()
    selector.register(datagrams, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is datagrams:
                query, address = datagrams.recvfrom(65535)
                print("udp", query.hex(), flush=True)
                answer = server.answer(query, source=address[0])
                if answer is not None:
                    datagrams.sendto(answer, address)
                continue
            connection, address = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                while len(head := stream.read(2)) == 2:
                    query = stream.read(int.from_bytes(head, "big"))
                    print("tcp", query.hex(), flush=True)
                    answer = server.answer(query, tcp=True, source=address[0])
                    if answer is not None:
                        stream.write(len(answer).to_bytes(2, "big") + answer)
                        stream.flush()


if __name__ == "__main__":
    main()
