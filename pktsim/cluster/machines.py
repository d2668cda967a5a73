"""What people hold in their hands: a pod, a node, the host outside. A call runs the clock until it is answered."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.cluster import programs
from pktsim.cluster.apps.http_server import HttpServer, http_echo
from pktsim.cluster.apps.tls import server_context
from pktsim.cluster.connection import Connection
from pktsim.cluster.ingress.settings import APP, APP_ANNOTATION
from pktsim.cluster.node_health import NodeHealthPorts
from pktsim.cluster.programs import (
    HttpAnswer,
    HttpArguments,
    HttpOptions,
    PingAnswer,
    ResolverFiles,
    http_options,
)
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.kernel import task
from pktsim.kernel.capture import CapturedFrame
from pktsim.kernel.netns import Held, Netns
from pktsim.netfilter.conntrack import ConntrackTable, Entry
from pktsim.netfilter.ipset_text import restore_sets, run_ipset
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import located, print_save, restore
from pktsim.netfilter.opcodes import Hook, Step
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.wire import scapy_io
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, FrameView

if TYPE_CHECKING:
    from scapy.packet import Packet

    from pktsim.cluster.ingress.controller import IngressController
    from pktsim.cluster.kubeproxy.proxier import KubeProxy
    from pktsim.cluster.node_host import NodeHost
    from pktsim.cluster.objects import ObjectMeta, Pod
    from pktsim.cluster.store import ObjectStore
    from pktsim.cluster.walk import Note

T = TypeVar("T")

#: A pod with this annotation, ``"true"``, wants a PROXY header at the beginning of every HTTP connection.
PROXY_PROTOCOL_ANNOTATION = "pktsim.io/proxy-protocol"

#: What runs in a pod, by its annotation: ``whoami`` (also without one) says who it is and whom it sees, ``http-echo``
#: tells the request as JSON, ``ingress-controller`` is one.
APPS = ("whoami", "http-echo", APP)
#: Which HTTP a pod's server speaks: ``"1.0"`` (also without it) closes after each answer, ``"1.1"`` does not.
HTTP_VERSION_ANNOTATION = "pktsim.io/http"

#: The Secret with the certificate of a pod's server, which speaks TLS on ports 443 and 8443 and those named ``https``.
TLS_ANNOTATION = "pktsim.io/tls"
TLS_PORTS = frozenset({443, 8443})

#: How long replies to a crafted packet are waited for.
REPLY_WAIT_S = 1.0
#: How long a call at most goes on after its answer, until a millisecond passes without anything to do.
_SETTLE_NS = 100 * NS_PER_MS


class Machine:
    """A network namespace with programs in it.

    Attributes:
        name: ``namespace/name`` of a pod, a node's name, or ``outside``.
        netns: Its kernel.
        files: What its resolver reads.
    """

    def __init__(self, name: str, netns: Netns, files: ResolverFiles) -> None:
        self.name = name
        self.netns = netns
        self.files = files

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def address(self) -> str:
        """Its first address beyond loopback."""
        for device in self.netns.devices:
            if not device.loopback:
                for text in self.netns.addresses(device.name):
                    return text.partition("/")[0]
        return ""

    def resolve(self, name: str, *, timeout: float = 30.0) -> list[str]:
        """Look a name up as a program here would: search list, ndots, A and AAAA.

        Raises:
            OSError: The name does not exist (``socket.gaierror``), or nobody answers.
        """
        return self._run(programs.resolve(self.netns, name, self.files), f"resolve {name}", timeout)

    def http_get(self, url: str, **options: Unpack[HttpArguments]) -> HttpAnswer:
        """``curl``: look the name up, connect, ask, read the answer.

        Args:
            url: ``http://HOST[:PORT]/PATH``, or ``https``.
            options: ``sport``, the source port; ``timeout``, seconds after which to give up (5 if it is not said);
                ``headers``, ``Name: value`` each, also in place of its own ones; ``connect_to``, ``HOST``,
                ``HOST:PORT`` or ``:PORT`` to connect to instead of what the URL says; ``redirects``, how many to
                follow; and for https ``ca``, certificates in PEM, or a file of them, that are believed (without, none
                is), or ``insecure``, to believe any as ``curl -k`` does.

        Raises:
            TimeoutError: No answer in time.
            OSError: The name does not exist, the connection was refused or reset, the certificate is not accepted.
        """
        return self.http_request("GET", url, **options)

    def http_request(
        self, method: str, url: str, *, body: bytes | None = None, **options: Unpack[HttpArguments]
    ) -> HttpAnswer:
        """``curl -X METHOD --data-binary BODY``; options and errors are those of :meth:`http_get`."""
        chosen = http_options(**options)
        client = programs.http_client(self.netns, self.files, chosen)
        work = programs.http_request(client, method, url, body, chosen.headers)
        return self._run(work, f"{method} {url}", chosen.timeout_s + 60)

    def http_session(self, **options: Unpack[HttpArguments]) -> HttpSession:
        """Several requests, over one connection for each host and port as long as the server leaves it open.

        Args:
            options: As for :meth:`http_get`; ``headers`` go with every request, ``timeout`` is for each.
        """
        return HttpSession(self, http_options(**options))

    def ping(self, address: str, *, timeout: float = 1.5, size: int = programs.PING_BYTES) -> PingAnswer:
        """One ICMP echo.

        Returns:
            What came back: the reply, or an ICMP error.

        Raises:
            TimeoutError: Nothing came.
            OSError: It could not be sent.
        """
        return self._run(programs.ping(self.netns, address, size, timeout), f"ping {address}", timeout + 60)

    def udp(self, host: str, port: int, data: bytes = b"hello", *, sport: int = 0, timeout: float = 1.5) -> bytes:
        """Send a datagram and wait for the answer.

        Raises:
            TimeoutError: Nothing came.
            OSError: ICMP says that nobody is there.
        """
        work = programs.udp_exchange(self.netns, host, port, data, self.files, sport, timeout)
        return self._run(work, f"udp {host}:{port}", timeout + 60)

    def tcp(self, host: str, port: int, *, sport: int = 0, timeout: float = 5.0) -> None:
        """Connect and close again.

        Raises:
            TimeoutError: No answer in time.
            OSError: The connection was refused.
        """
        work = programs.tcp_connect(self.netns, host, port, self.files, sport, timeout)
        self._run(work, f"connect {host}:{port}", timeout + 60)

    def connect(self, host: str, port: int, *, sport: int = 0, timeout: float = 5.0) -> Connection:
        """Connect and stay connected.

        Args:
            host: An address or a name.
            port: The port.
            sport: The source port; any free one if 0.
            timeout: Seconds to wait until it is established; with 0 the SYN is sent, and :meth:`Connection.wait` waits.

        Raises:
            TimeoutError: No answer in time.
            OSError: The name does not exist, or the connection was refused.
        """
        connection = Connection(self.netns, self.resolve(host)[0], port, sport)
        if timeout:
            connection.wait(timeout)
        return connection

    def probe(self, host: str, port: int, protocol: str) -> tuple[bool, str]:
        """Try ``tcp``, ``udp`` or ``icmp`` and say in words what came of it."""
        try:
            if protocol == "icmp":
                answer = self.ping(host)
                return answer.ok, str(answer)
            if protocol == "udp":
                return True, f"answer: {self.udp(host, port).decode(errors='replace')}"
            answer_http = self.http_get(f"http://{host}:{port}/")
            return True, f"HTTP {answer_http.status}: {answer_http.text.strip()}"
        except TimeoutError:
            return False, "timed out"
        except OSError as error:
            return False, error.strerror or str(error)

    def ask(self, url: str, connect_to: str = "") -> tuple[bool, str]:
        """Get a URL, without judging certificates, and say in words what came of it."""
        try:
            answer = self.http_get(url, connect_to=connect_to, insecure=True)
            return True, f"HTTP {answer.status}: {answer.text.strip()}"
        except TimeoutError:
            return False, "timed out"
        except OSError as error:
            return False, error.strerror or str(error)

    def send(self, packet: Packet, *, wait: float = REPLY_WAIT_S) -> list[Packet]:
        """Send any Scapy packet and return what reaches this machine in answer.

        Args:
            packet: ``IP(dst=...)/TCP(...)``: routed by this machine, whose address it gets if it names none. With
                ``Ether(...)`` in front it leaves by ``eth0`` as it is.
            wait: Simulated seconds to listen for.

        Returns:
            Packets to this machine from the network layer on, in order of arrival. Its own kernel sees them too: it
            answers a SYN-ACK that it did not ask for with a RST, as Linux does.

        Raises:
            FrameError: The packet cannot be sent.
        """
        if type(packet).__name__ == "Ether":
            device = self.netns.devices.named("eth0")
            frame = scapy_io.frame_bytes(packet, src_mac=device.mac)
            heard = self._exchange(lambda: self.netns.transmit(device.ifindex, frame), wait)
        else:
            data = scapy_io.packet_bytes(packet, saddr=self._source_for(getattr(packet, "dst", "")))
            heard = self._exchange(lambda: self.netns.send_ip(data), wait)
        return [scapy_io.dissect(reply, link=False) for reply in heard]

    def send_ip(self, data: bytes, *, wait: float = REPLY_WAIT_S) -> list[bytes]:
        """As :meth:`send`, with the bytes of an IP packet in and out.

        Raises:
            OSError: No route, or a rule refused it.
        """
        return self._exchange(lambda: self.netns.send_ip(data), wait)

    def _exchange(self, send: Callable[[], None], wait: float) -> list[bytes]:
        """Send something and gather the packets to this machine that come in meanwhile."""
        own = {
            ip_from_text(text.partition("/")[0])
            for device in self.netns.devices
            for text in self.netns.addresses(device.name)
        }
        heard: list[bytes] = []

        def listen(frame: CapturedFrame) -> None:
            if frame.space == self.netns.name and frame.direction == "in":
                view = FrameView(frame.frame)
                if view.ethertype in (ETH_P_IP, ETH_P_IPV6) and view.daddr in own:
                    heard.append(view.data)

        capture = self.netns.capture
        assert capture is not None
        capture.listeners.append(listen)
        try:
            send()
            self.netns.clock.run_for(round(wait * NS_PER_S))
        finally:
            capture.listeners.remove(listen)
        return heard

    def _source_for(self, target: str) -> bytes:
        return self.netns.route_output(ip_from_text(str(target))).saddr

    def _run(self, work: Coroutine[Any, Any, T], name: str, limit_s: float) -> T:
        clock = self.netns.clock
        result = task.run(clock, work, f"{self.name}: {name}", limit_ns=round(limit_s * NS_PER_S))
        # What the answer leaves to be done (closing a connection) belongs to it.
        end_ns = clock.now_ns + _SETTLE_NS
        while (due_ns := clock.next_at_ns()) is not None and due_ns <= min(clock.now_ns + NS_PER_MS, end_ns):
            clock.step()
        return result


class Server(Protocol):
    """A program that serves until it is killed."""

    def stop(self) -> None: ...


class HttpSession:
    """An HTTP client that keeps its connections. Made by :meth:`Machine.http_session`."""

    def __init__(self, machine: Machine, options: HttpOptions) -> None:
        self._machine = machine
        self._options = options
        self._client = programs.http_client(machine.netns, machine.files, options)
        self._client.keep = True

    def get(self, url: str, *, headers: Sequence[str] = ()) -> HttpAnswer:
        """As :meth:`Machine.http_get`."""
        return self.request("GET", url, headers=headers)

    def request(self, method: str, url: str, *, body: bytes | None = None, headers: Sequence[str] = ()) -> HttpAnswer:
        """As :meth:`Machine.http_request`."""
        work = programs.http_request(self._client, method, url, body, (*self._options.headers, *headers))
        return self._machine._run(work, f"{method} {url}", self._options.timeout_s + 60)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> HttpSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PodMachine(Machine):
    """A pod. Servers run on the ports that it declares and that services lead to.

    Attributes:
        ingress: The ingress controller in it, if there is one.
        log: What its program has printed.
        stopped: Whether its programs were killed.
    """

    def __init__(self, name: str, netns: Netns, files: ResolverFiles, pod: Pod) -> None:
        super().__init__(name, netns, files)
        self.pod = pod
        self.ingress: IngressController | None = None
        self.stopped = False
        self._serving: set[tuple[int, str]] = set()
        self._servers: list[Server] = []
        #: Its server's certificate and key, if it speaks TLS.
        self.certificate: tuple[bytes, bytes] | None = None
        self._proxy_protocol = pod.metadata.annotations.get(PROXY_PROTOCOL_ANNOTATION) == "true"

    def serve(self, ports: Collection[tuple[int, str]]) -> None:
        """Start servers on ports that have none: HTTP on TCP ports, an echo that names its peer on UDP ports."""
        if self.stopped:
            return
        for port, protocol in sorted(set(ports) - self._serving):
            self._serving.add((port, protocol))
            if protocol == "TCP":
                self._servers.append(self._serve_http(port))
            elif protocol == "UDP":
                self._servers.append(programs.serve_echo(self.netns, self.pod.name, port, Family.IPV4))

    def _serve_http(self, port: int) -> HttpServer:
        pod = self.pod
        handler = http_echo(pod.name, pod.namespace) if app_of(pod.metadata, str(pod)) == "http-echo" else None
        version = pod.metadata.annotations.get(HTTP_VERSION_ANNOTATION, "1.0")
        capture = self.netns.capture
        tls = None
        if self.certificate is not None and (port in TLS_PORTS or port in self._named("https")):
            tls = server_context(*self.certificate, capture.key_log if capture is not None else None)
        return programs.serve_http(
            self.netns,
            pod.name,
            port,
            Family.IPV4,
            proxy_protocol=self._proxy_protocol,
            handler=handler,
            version=version,
            tls=tls,
        )

    def _named(self, name: str) -> set[int]:
        """The ports that it declares by a name."""
        ports = (port for container in self.pod.spec.containers for port in container.ports)
        return {port.container_port for port in ports if port.name == name}

    def start_ingress(self, store: ObjectStore, notes: list[Note]) -> None:
        """Start an ingress controller, which tells in ``notes`` what it does."""
        self.ingress = programs.serve_ingress(self.netns, self.pod, store, self.files, notes)
        self._servers.append(self.ingress)

    def run_server(self, server: Server) -> None:
        """Let a server that was started in its namespace end with the pod."""
        self._servers.append(server)

    def stop(self) -> None:
        """Kill what runs in it: the kernel closes its sockets."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        self._serving.clear()
        self.stopped = True

    @property
    def log(self) -> list[str]:
        return self.ingress.log if self.ingress is not None else []


def app_of(metadata: ObjectMeta, place: str) -> str:
    """What runs in a pod: ``whoami``, ``http-echo`` or ``ingress-controller``.

    Raises:
        UnsupportedFeature: Its annotations ask for something else.
    """
    app = metadata.annotations.get(APP_ANNOTATION, "whoami")
    if app not in APPS:
        raise UnsupportedFeature(f"{APP_ANNOTATION}: {app}", place=place, mend=" or ".join(APPS))
    version = metadata.annotations.get(HTTP_VERSION_ANNOTATION, "1.0")
    if version not in ("1.0", "1.1"):
        raise UnsupportedFeature(f"{HTTP_VERSION_ANNOTATION}: {version}", place=place, mend='"1.0" or "1.1"')
    return app


class RuledMachine(Machine):
    """A machine with rules and connection tracking: a router, a balancer, a node."""

    def ruleset(self, family: Family = Family.IPV4) -> Ruleset:
        """The rules in force, with their counters."""
        return self.netns.ruleset(family)

    def replace_rules(self, ruleset: Ruleset) -> None:
        """Put rules in force at once."""
        self.netns.load_ruleset(ruleset)

    def iptables_save(self, *, counters: bool = False, family: Family = Family.IPV4) -> str:
        """What ``iptables-save`` prints."""
        return print_save(self.ruleset(family), counters=counters)

    def ipset(self, arguments: str) -> str:
        """One ``ipset`` command. Returns what it prints."""
        return run_ipset(self.netns.datapath.context.sets, shlex.split(arguments), now_ns=self.netns.clock.now_ns)

    def iptables(self, arguments: str) -> None:
        """Run ``iptables`` with these arguments: ``-A FORWARD -p tcp --dport 8080 -j DROP``, ``-t nat -F``."""
        self.replace_rules(run_command(self.ruleset(), arguments).ruleset)

    def nft(self, text: str) -> str:
        """``nft -f``: all commands of a script or none of them. Returns what they print."""
        return self.netns.nft(text)

    def nft_list_ruleset(self, *, handles: bool = False) -> str:
        """What ``nft list ruleset`` prints."""
        return self.netns.nft_list_ruleset(handles=handles)

    def conntrack(self) -> list[Entry]:
        """Connection tracking entries; ``entry.text(extended=True)`` is the tool's line."""
        return ConntrackTable(self.netns.datapath).entries(self.netns.clock.now_ns)

    def conntrack_stats(self) -> dict[str, int]:
        """Connection tracking counters, by the names that ``conntrack -S`` gives them."""
        return ConntrackTable(self.netns.datapath).stats()

    @contextmanager
    def holding(self, hook: Hook, step: Step) -> Iterator[list[Held]]:
        """Hold packets back before a step of a hook (``Hook.POSTROUTING``, ``Step.CONFIRM``), to make a race happen.

        Yields:
            Those that wait, in order of arrival; :meth:`release` lets one go on. At the end all others go on too.
        """
        held = self.netns.held
        self.netns.hold(hook, step)
        try:
            yield held
        finally:
            self.netns.hold(hook, step, on=False)
            while held:
                self.release(held[0])

    def release(self, held: Held) -> None:
        """Let a packet that is held back go on."""
        self.netns.release(held)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a setting, or write it first."""
        if value is not None:
            self.netns.sysctl_set(name, value)
        return self.netns.sysctls.text(name)


class NodeMachine(RuledMachine):
    """A node: a machine with rules that kube-proxy writes."""

    def __init__(self, name: str, netns: Netns, host: NodeHost, proxy: KubeProxy, files: ResolverFiles) -> None:
        super().__init__(name, netns, files)
        self.host = host
        self.proxy: KubeProxy | None = proxy
        self._health = NodeHealthPorts(netns, proxy)
        host.after_sync.append(self._health.sync)

    @property
    def address(self) -> str:
        return self.netns.addresses("eth0")[0].partition("/")[0]

    def ruleset(self, family: Family = Family.IPV4) -> Ruleset:
        return self.host.ruleset(family)

    def replace_rules(self, ruleset: Ruleset) -> None:
        self.host.replace(ruleset)

    def load_iptables(self, source: str | PathLike[str]) -> None:
        """Use a real ``iptables-save`` dump, file or text, instead of what kube-proxy writes; kube-proxy is stopped.

        Raises:
            RulesetSyntaxError: It is not what the tool prints.
            UnsupportedFeature: A match or target is not modelled.
        """
        text, file = (source, None) if isinstance(source, str) and "\n" in source else _read(Path(source))
        with located(text, file):
            ruleset = restore(Ruleset(Family.IPV4), text, file)
            self.stop_kube_proxy()
            self.host.replace(ruleset)

    def load_ipsets(self, source: str | PathLike[str]) -> None:
        """Make the sets that ``ipset save`` printed, file or text; before rules that name them.

        Raises:
            RulesetSyntaxError: It is not what the tool prints.
        """
        text, file = (source, None) if isinstance(source, str) and "\n" in source else _read(Path(source))
        restore_sets(self.netns.datapath.context.sets, text, now_ns=self.netns.clock.now_ns, file=file)

    def stop_kube_proxy(self) -> None:
        """End kube-proxy; its rules stay as they are."""
        if self.proxy is not None:
            self.proxy.stop()
            self.proxy = None
            self._health.stop()
            self.host.after_sync.remove(self._health.sync)
        self.host.flush()


def _read(path: Path) -> tuple[str, str]:
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as error:
        raise RulesetSyntaxError(error.strerror or "cannot be read", file=str(path)) from None
    except UnicodeDecodeError:
        raise RulesetSyntaxError("is not UTF-8 text", file=str(path)) from None
