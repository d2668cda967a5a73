"""Random actions of the kinds that were recorded: who runs which program towards what.

The same seed and number tell the same action. Only the source ports are given from outside, so that an action can be
run again while the kernel still remembers the first time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Final

from pktsim.cluster.recording import ECHO_PORT, HTTP_PORT, Topology, load_topology, rules_file
from tests.live.cluster_recorder import Command, Script

_SERVICE = re.compile(r"^-A KUBE-SERVICES -d (?P<address>\S+)/\d+ -p (?P<protocol>\w+) .*--dport (?P<port>\d+)", re.M)
_NODE_PORT = re.compile(r"^-A KUBE-(?:NODEPORTS|EXTERNAL-SERVICES) -p (?P<protocol>\w+) .*--dport (?P<port>\d+)", re.M)
_CLOSED_PORT: Final = 9999
_DNS_PORT: Final = 53
_NOBODY: Final = {
    4: ("10.96.9.9", "198.51.100.99", "192.0.2.1"),
    6: ("fd00:10:96::9:9", "2001:db8:100::99", "2001:db8::1"),
}
#: Around what fits a frame, in a tunnel and without: headers of IPv4 and UDP or ICMP are 28 bytes, of IPv6 48.
_SIZES: Final = (1, 8, 100, 1200, *range(1371, 1374), *range(1401, 1404), *range(1421, 1424))
_LARGE_SIZES: Final = (*range(1451, 1454), *range(1471, 1474), 1500, 2500, 2952, 2953, 4000, 9000)
#: Bytes of HTTP answers and requests: less than a segment, a few, and more than the first window of either side.
_BODIES: Final = (1, 1000, 1380, 2800, 9000, 20000)
_WAITS_S: Final = (0.4, 2.6)
#: Until neighbours that were used have been confirmed (delay_first_probe_time is 5 s), and no entry has expired.
_LINGER_S: Final = 6.5


@dataclass(frozen=True, slots=True)
class _Target:
    """Something to talk to; ``protocol`` is empty where no service is meant."""

    address: str
    port: int
    protocol: str = ""


class Plan:
    """What can be done in a recorded cluster.

    Args:
        directory: The cluster's.
    """

    def __init__(self, directory: Path) -> None:
        self.topology: Topology = load_topology(directory)
        spaces = self.topology.wiring.spaces
        self.version = 6 if ":" in self.topology.pod_cidr else 4
        self.clients = [space.name for space in spaces if space.role in ("pod", "node", "outside")]
        self.addresses = {space.name: self._addresses(space.name) for space in spaces}
        self.services: list[_Target] = []
        self.node_ports: list[_Target] = []
        for space in spaces:
            if space.role == "node":
                path = rules_file(directory, space.name)
                text = path.read_text() if path is not None else ""
                for found in _SERVICE.finditer(text):
                    self.services.append(_Target(found["address"], int(found["port"]), found["protocol"]))
                for found in _NODE_PORT.finditer(text):
                    self.node_ports.append(_Target("", int(found["port"]), found["protocol"]))
        self.services = list(dict.fromkeys(one for one in self.services if one.port != _DNS_PORT))
        self.node_ports = list(dict.fromkeys(self.node_ports))
        networks = {
            ip_interface(text).network
            for space in spaces
            for link in space.interfaces
            for text in link.addresses
            if link.kind != "loopback" and ip_interface(text).network.num_addresses > 1 and not text.startswith("fe80")
        }
        if self.version == 4:  # a node without a bridge has a network of pods all the same
            networks |= {
                ip_network(route.split()[1])
                for space in spaces
                for route in space.routes
                if route.startswith("blackhole")
            }
        self.nobody = [*_NOBODY[self.version], *(str(network[0x99]) for network in sorted(networks, key=str))]
        self.tunnelled = any(link.vxlan is not None for space in spaces for link in space.interfaces)
        self.bridge_ports = [
            (space.name, link.name)
            for space in spaces
            for link in space.interfaces
            if space.role == "node" and link.master
        ]

    def _addresses(self, space: str) -> list[str]:
        links = self.topology.wiring.space(space).interfaces
        texts = [text for link in links if link.kind != "loopback" for text in link.addresses]
        found = [text.partition("/")[0] for text in texts if not text.startswith("fe80")]
        return [text for text in found if (":" in text) == (self.version == 6)]

    # an action

    def script(self, seed: str, number: int, sports: Sequence[int]) -> Script:
        """Tell an action.

        Args:
            sports: Three source ports that nothing else uses.
        """
        chance = random.Random(f"{seed}/{self.topology.cluster}/{number}")
        space = self._client(chance)
        commands = [self._command(chance, space, self._target(chance, space), sports[0])]
        # A tunnel's outer port follows the sending socket's own hash (sk_txhash), which is not modelled: an action with
        # two sockets on one flow would show that. Cut packets have no ports, so two large ones are one flow.
        if chance.random() < 0.35 and not self.tunnelled:
            commands.append(self._second(chance, commands[0], sports))
            if chance.random() < 0.3:
                commands.append(self._second(chance, commands[0], [sports[0], sports[2]]))
        warm = chance.random() < 0.6
        before: tuple[str, ...] = ()
        if self.bridge_ports and chance.random() < 0.1:
            node, port = chance.choice(self.bridge_ports)
            before = (f"{node}: bridge link set dev {port} hairpin off",)
        linger_s = 0.0
        if not warm and chance.random() < 0.04:
            # Of one command only: no entry of the tables may expire before they are read.
            linger_s, commands = _LINGER_S, commands[:1]
        return Script(f"random-{number}", tuple(commands), warm, before, linger_s)

    def _client(self, chance: random.Random) -> str:
        # The pod called client is where most of the recordings began.
        return "client" if "client" in self.clients and chance.random() < 0.35 else chance.choice(self.clients)

    def _target(self, chance: random.Random, space: str) -> _Target:
        kind = chance.random()
        if kind < 0.4:
            return chance.choice(self.services)
        if kind < 0.6 and self.node_ports:
            port = chance.choice(self.node_ports)
            return _Target(self._node_address(chance, space), port.port, port.protocol)
        port_number = chance.choice((HTTP_PORT, ECHO_PORT, HTTP_PORT, ECHO_PORT, _CLOSED_PORT, 80))
        if kind < 0.7:
            return _Target(chance.choice(self.nobody), port_number)
        if kind < 0.75:
            own = [*self.addresses[space], "127.0.0.1" if self.version == 4 else "::1"]
            return _Target(chance.choice(own), port_number)
        if kind < 0.8:
            return _Target(chance.choice(self.services).address, chance.choice((81, _CLOSED_PORT)))
        everywhere = [address for addresses in self.addresses.values() for address in addresses]
        return _Target(chance.choice(everywhere), port_number)

    def _node_address(self, chance: random.Random, space: str) -> str:
        if self.version == 4 and chance.random() < 0.15:
            return "127.0.0.1"
        nodes = [one.name for one in self.topology.wiring.with_role("node")]
        node = space if space in nodes and chance.random() < 0.3 else chance.choice(nodes)
        return chance.choice(self.addresses[node])

    def _command(self, chance: random.Random, space: str, target: _Target, sport: int) -> Command:
        protocol = target.protocol or chance.choice(("tcp", "udp", "ping"))
        if chance.random() < 0.08:
            protocol = chance.choice(("tcp", "udp", "ping"))
        if self.tunnelled and target.address in self.nobody:
            protocol = chance.choice(("udp", "ping"))  # a time-out gives a socket another hash
        if protocol == "tcp" and chance.random() < 0.6:
            return Command(space, self._curl(chance, space, target, sport))
        words = ["client", protocol, target.address]
        if protocol != "ping":
            words += [str(target.port), "--sport", str(sport)]
        if protocol != "tcp":
            words += self._datagrams(chance)
        else:
            # Whether a server's FIN comes before its ACK is due, at the next tick, would be a race.
            words.append("--reset")
        if chance.random() < 0.12:
            words += ["--ttl", str(chance.randint(1, 5))]
        if chance.random() < 0.2:
            words += ["--wait", str(chance.choice(_WAITS_S))]
        return Command(space, tuple(words))

    def _datagrams(self, chance: random.Random) -> list[str]:
        words = []
        if chance.random() < 0.5:
            words += ["--size", str(chance.choice(_SIZES if chance.random() < 0.5 else _LARGE_SIZES))]
        if chance.random() < 0.3:
            words += ["--count", str(chance.randint(2, 3))]
        if chance.random() < 0.4:
            words.append(chance.choice(("--df", "--no-df")))
        return words

    def _curl(self, chance: random.Random, space: str, target: _Target, sport: int) -> tuple[str, ...]:
        words = ["curl", "-s", "-S", "-m", "1.7", "--local-port", str(sport)]
        path = "/"
        kind = chance.random()
        if kind < 0.2:
            words += ["-o", "/dev/null"]
            path = f"/bytes/{chance.choice(_BODIES)}"
        elif kind < 0.35:
            # What a node itself sends is counted by its rules before it is cut into segments, which is not modelled.
            sizes = _BODIES[:2] if self.topology.wiring.space(space).role == "node" else _BODIES
            words += ["--data-binary", f"@{chance.choice(sizes)}-bytes", "-H", "Content-Type: x"]
        host = f"[{target.address}]" if self.version == 6 else target.address
        return (*words, f"http://{host}{f':{target.port}' if target.port != 80 else ''}{path}")

    def _second(self, chance: random.Random, first: Command, sports: Sequence[int]) -> Command:
        """Another command: the same once more, from elsewhere, or from the same port to another destination."""
        kind = chance.random()
        if kind < 0.35:
            return first if chance.random() < 0.5 else Command(first.space, _with_port(first.arguments, sports))
        space = first.space if kind < 0.7 else self._client(chance)
        if kind < 0.85:
            return self._command(chance, space, self._target(chance, space), sports[0 if chance.random() < 0.5 else 1])
        return Command(space, first.arguments)


def _with_port(arguments: tuple[str, ...], sports: Sequence[int]) -> tuple[str, ...]:
    return tuple(str(sports[1]) if word == str(sports[0]) else word for word in arguments)
