"""What Linux's own tests of connection tracking and NAT assert, told anew as cases for one forwarding node.

Each function names the test of tools/testing/selftests/net/netfilter whose behaviour it states. There the hosts at the
ends are real; here their packets are given, and the node is the one in the middle, or the host itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.netfilter.case_script import (
    CLIENT,
    CLIENT6,
    MSS_ONLY,
    SERVER,
    SERVER6,
    SYN_OPTIONS,
    Conversation,
    Script,
    datagram,
    echo,
    icmp_error,
    segment,
)

SCRIPTS: dict[str, Callable[[], Script]] = {}


def selftest(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def table(name: str, *rules: str) -> str:
    """A table in ``iptables-restore``'s form, its chains open."""
    chains = {
        "raw": ("PREROUTING", "OUTPUT"),
        "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
    }[name]
    return "\n".join((f"*{name}", *(f":{chain} ACCEPT [0:0]" for chain in chains), *rules, "COMMIT", ""))


#: What is invalid is counted for each direction, and dropped.
INVALID = table(
    "filter",
    "-A FORWARD -i in -p tcp -m conntrack --ctstate INVALID -j DROP",
    "-A FORWARD -i out -p tcp -m conntrack --ctstate INVALID -j DROP",
)


def invalid(script: Script, *, client: int = 0, server: int = 0) -> None:
    """How many packets of each side were invalid."""
    script.counted(filter_FORWARD_1=client, filter_FORWARD_2=server)


def handshake(script: Script, flow: Conversation, *, options: bytes = SYN_OPTIONS, answer: bytes = MSS_ONLY) -> None:
    """Three segments; both sides start at 0."""
    script.passes("in", flow.c("S", 0, options=options), state="SYN_SENT", lacks="SEEN_REPLY")
    script.passes("out", flow.s("S.", 0, 1, options=answer), state="SYN_RECV", has="SEEN_REPLY")
    script.passes("in", flow.c(".", 1, 1), state="ESTABLISHED", has="ASSURED")


# ----------------------------------------------------------------------------------- packetdrill/conntrack_*.pkt


@selftest
def ack_loss_stall() -> Script:
    """conntrack_ack_loss_stall.pkt."""
    script = Script(
        "ack-loss-stall",
        "Data that was acknowledged long ago and is sent once more is no invalid packet: its ACK may have been lost, "
        "and without an answer the connection would stall.",
        INVALID,
    )
    flow = Conversation()
    handshake(script, flow, options=MSS_ONLY)
    size, segments = 1460, 46
    for number in range(segments):
        at = 1 + number * size
        script.passes("in", flow.c("P.", at, 1, size, window=257))
        script.passes("out", flow.s(".", 1, at + size), state="ESTABLISHED")
    script.passes("in", flow.c("P.", 1, 1, size, window=257), state="ESTABLISHED")
    script.passes("out", flow.s(".", 1, 1 + segments * size), state="ESTABLISHED")
    invalid(script)
    return script


@selftest
def inexact_rst() -> Script:
    """conntrack_inexact_rst.pkt."""
    script = Script(
        "inexact-rst",
        "Once a connection is closing, a RST that does not name the next sequence number exactly is no invalid packet "
        "any more.",
        INVALID,
    )
    flow = Conversation()
    handshake(script, flow)
    for at in (1, 1001, 2001):
        script.passes("out", flow.s(".", at, 1, 1000))
    for at in (1001, 2001, 3001):
        script.passes("in", flow.c(".", 1, at))
    script.passes("in", flow.c("P.", 1, 3001, 1000), state="ESTABLISHED")
    script.passes("out", flow.s("F.", 3001, 1001), state="FIN_WAIT")
    script.passes("in", flow.c(".", 1001, 3002), state="CLOSE_WAIT")
    script.passes("in", flow.c("R.", 1001, 3002), state="CLOSE")
    script.passes("out", flow.s("R", 2001, window=0), state="CLOSE")
    invalid(script)
    return script


@selftest
def rst_invalid() -> Script:
    """conntrack_rst_invalid.pkt."""
    script = Script(
        "rst-invalid",
        "A RST outside the window, and one inside it whose number is not the next, leave a connection established and "
        "are invalid; only the exact one closes it.",
        INVALID,
    )
    flow = Conversation()
    handshake(script, flow)
    for at in (1, 1001, 2001):
        script.passes("out", flow.s(".", at, 1, 1000))
    for at in (1001, 2001, 3001):
        script.passes("in", flow.c(".", 1, at))
    script.passes("in", flow.c("P.", 1, 3001, 1000))
    for number in (0, 1_000_000, 42):
        script.dropped("out", flow.s("R", number, window=0), state="ESTABLISHED")
    script.passes("out", flow.s(".", 3001, 1001), state="ESTABLISHED")
    script.dropped("out", flow.s("R.", 3000, 1001, window=0), state="ESTABLISHED")
    script.passes("out", flow.s("R.", 3001, 1001, window=0), state="CLOSE")
    invalid(script, server=4)
    return script


@selftest
def syn_challenge_ack() -> Script:
    """conntrack_syn_challenge_ack.pkt."""
    script = Script(
        "syn-challenge-ack",
        "A server that still has the last connection on these ports answers a SYN with an ACK; that and the RST it "
        "provokes pass, and the next SYN connects.",
        INVALID,
    )
    flow = Conversation()
    script.passes("in", flow.c("S", 0, options=SYN_OPTIONS), state="SYN_SENT")
    script.passes("out", flow.s(".", 145824453, 643160523, window=240))
    script.passes("in", flow.c("R", 643160523, window=0), state="CLOSE")
    script.passes("in", flow.c("S", 0, options=SYN_OPTIONS), state="SYN_SENT", lacks="SEEN_REPLY")
    script.passes("out", flow.s("S.", 0, 1, window=250, options=MSS_ONLY), state="SYN_RECV")
    script.passes("in", flow.c(".", 1, 1, window=256), state="ESTABLISHED", has="ASSURED")
    invalid(script)
    return script


@selftest
def synack_old() -> Script:
    """conntrack_synack_old.pkt."""
    script = Script(
        "synack-old",
        "A SYN/ACK that answers an older SYN is invalid and changes nothing: the right one, with other numbers, is not "
        "judged by it.",
        INVALID,
    )
    flow = Conversation()
    script.passes("in", flow.c("S", 0, options=SYN_OPTIONS), state="SYN_SENT")
    script.dropped("out", flow.s("S.", 145824453, 643160523, window=240, options=MSS_ONLY))
    script.passes("in", flow.c("S", 0, options=SYN_OPTIONS), state="SYN_SENT", lacks="SEEN_REPLY")
    script.passes("out", flow.s("S.", 145758918, 1, window=250, options=MSS_ONLY), state="SYN_RECV")
    script.passes("in", flow.c(".", 1, 145758919, window=256), state="ESTABLISHED", has="ASSURED")
    script.passes("in", flow.c("P.", 1, 145758919, 1, window=256), state="ESTABLISHED", has="ASSURED")
    invalid(script, server=1)
    return script


@selftest
def synack_reuse() -> Script:
    """conntrack_synack_reuse.pkt."""
    script = Script(
        "synack-reuse",
        "A SYN within an established connection is let through, as is the ACK that challenges it; the client's RST "
        "ends the connection, and its SYN begins a new one whose SYN/ACK is valid.",
        INVALID,
    )
    flow = Conversation()
    syn = Conversation().c("S", 2000, options=SYN_OPTIONS)
    handshake(script, flow, answer=SYN_OPTIONS)
    script.passes("in", flow.c("P.", 1, 1, 100))
    script.passes("out", flow.s(".", 1, 101))
    script.passes("in", syn, state="ESTABLISHED")
    script.passes("out", flow.s(".", 1, 101))
    script.passes("in", flow.c("R.", 101, 1), state="CLOSE")
    script.passes("in", syn, state="SYN_SENT", lacks="SEEN_REPLY")
    script.passes("out", flow.s("S.", 70_000, 2001, options=SYN_OPTIONS), state="SYN_RECV")
    script.passes("in", flow.c(".", 2001, 70_001), state="ESTABLISHED")
    invalid(script)
    return script


# ------------------------------------------------------------------------------------------ nf_nat_edemux.sh


@selftest
def edemux_local_dnat() -> Script:
    """nf_nat_edemux.sh: a virtual address, translated for the node's own process."""
    script = Script(
        "edemux-local-dnat",
        "A local connection whose translated destination would make it equal to one that is there gets another source "
        "port.",
        table("nat", "-A OUTPUT -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.2.0.9:5201"),
        routes=[{"dst": "10.96.0.1/32", "via": SERVER, "dev": "out"}],
    )
    own = "10.2.0.1"
    script.send_local(
        segment(own, SERVER, 10000, 5201, "S", 1, options=SYN_OPTIONS), out=[f"out {own}:10000 > {SERVER}:5201 tcp S"]
    )
    script.send_local(
        segment(own, "10.96.0.1", 10000, 443, "S", 1, options=SYN_OPTIONS),
        out=[f"out {own}:* > {SERVER}:5201 tcp S"],
        entries=2,
    )
    return script


@selftest
def edemux_redirect() -> Script:
    """nf_nat_edemux.sh: two ports that are redirected to a third one."""
    script = Script(
        "edemux-redirect",
        "Connections from one source port to ports that are redirected to the same one are told apart by a source port "
        "that the host changes for itself; the client does not see it.",
        table(
            "nat",
            "-A PREROUTING -p tcp -m tcp --dport 5202 -j REDIRECT --to-ports 5201",
            "-A PREROUTING -p tcp -m tcp --dport 5203 -j REDIRECT --to-ports 5201",
        ),
        listeners=[{"proto": "tcp", "address": "0.0.0.0", "port": 5201, "name": "server"}],
    )
    for count, port in enumerate((5201, 5202, 5203), start=1):
        syn = segment(CLIENT, "10.1.0.1", 10000, port, "S", 1, options=MSS_ONLY)
        script.receive("in", syn, out=[f"in 10.1.0.1:{port} > {CLIENT}:10000 tcp S."], entries=count)
    return script


# ---------------------------------------------------------------------------------- conntrack_icmp_related.sh

RELATED = table(
    "filter",
    "-A FORWARD -p icmp -m icmp --icmp-type 3 -m conntrack --ctstate RELATED -j ACCEPT",
    "-A FORWARD -p icmp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
    "-A FORWARD -j DROP",
)
RELATED6 = table(
    "filter",
    "-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 2 -m conntrack --ctstate RELATED -j ACCEPT",
    "-A FORWARD -p ipv6-icmp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
    "-A FORWARD -j DROP",
)


@selftest
def icmp_related_through_masquerade() -> Script:
    """conntrack_icmp_related.sh, the first router."""
    script = Script(
        "icmp-related-through-masquerade",
        "Fragmentation needed about a masqueraded ping is RELATED, and comes to who sent the ping, about what it sent.",
        RELATED + table("nat", "-A POSTROUTING -o out -p icmp -j MASQUERADE"),
    )
    ping = echo(CLIENT, SERVER, size=1300)
    script.receive("in", echo(CLIENT, SERVER, size=1000, identifier=76), out=[f"out 10.2.0.1 > {SERVER} icmp 8/0"])
    script.receive(
        "out", echo(SERVER, "10.2.0.1", size=1000, identifier=76, reply=True), out=[f"in {SERVER} > {CLIENT} icmp 0/0"]
    )
    script.receive("in", ping, out=[f"out 10.2.0.1 > {SERVER} icmp 8/0"])
    error = icmp_error(SERVER, "10.2.0.1", 3, 4, 1280, echo("10.2.0.1", SERVER, size=1300))
    script.receive("out", error, out=[f"in {SERVER} > {CLIENT} icmp 3/4"], rules={"filter/FORWARD/1": 1})
    script.counted(filter_FORWARD_1=1, filter_FORWARD_2=3, filter_FORWARD_3=0)
    return script


@selftest
def icmp6_related_through_masquerade() -> Script:
    """conntrack_icmp_related.sh, the first router, IPv6."""
    script = Script(
        "icmp6-related-through-masquerade",
        "Packet too big about a masqueraded ping is RELATED, and comes to who sent the ping.",
        rules6=RELATED6 + table("nat", "-A POSTROUTING -o out -p ipv6-icmp -j MASQUERADE"),
    )
    script.receive("in", echo(CLIENT6, SERVER6, size=1300), out=[f"out fd02::1 > {SERVER6} icmp6 128/0"])
    error = icmp_error(SERVER6, "fd02::1", 2, 0, 1280, echo("fd02::1", SERVER6, size=1300))
    script.receive("out", error, out=[f"in {SERVER6} > {CLIENT6} icmp6 2/0"], rules={"6:filter/FORWARD/1": 1})
    script.final_rules |= {"6:filter/FORWARD/1": 1, "6:filter/FORWARD/2": 1, "6:filter/FORWARD/3": 0}
    return script


@selftest
def icmp_related_made_here() -> Script:
    """conntrack_icmp_related.sh, the second router."""
    script = Script(
        "icmp-related-made-here",
        "The router that finds a packet too large for its next link says so itself: FORWARD does not see the answer.",
        RELATED,
        mtus={"out": 1280},
    )
    script.receive("in", echo(CLIENT, SERVER, size=1000), out=[f"out {CLIENT} > {SERVER} icmp 8/0"])
    script.receive("in", echo(CLIENT, SERVER, size=1300, identifier=78), out=[f"in 10.1.0.1 > {CLIENT} icmp 3/4"])
    script.counted(filter_FORWARD_1=0, filter_FORWARD_3=0)
    return script


@selftest
def icmp6_related_made_here() -> Script:
    """conntrack_icmp_related.sh, the second router, IPv6."""
    script = Script(
        "icmp6-related-made-here",
        "The router that finds a packet too large for its next link says so itself: FORWARD does not see the answer.",
        rules6=RELATED6,
        mtus={"out": 1280},
    )
    script.receive("in", echo(CLIENT6, SERVER6, size=1300), out=[f"in fd01::1 > {CLIENT6} icmp6 2/0"])
    script.final_rules |= {"6:filter/FORWARD/1": 0, "6:filter/FORWARD/3": 0}
    return script


@selftest
def icmp_redirect_related() -> Script:
    """conntrack_icmp_related.sh, the client that is told a better way."""
    script = Script(
        "icmp-redirect-related",
        "A redirect about a ping of one's own is RELATED.",
        table(
            "filter",
            "-A INPUT -p icmp -m icmp --icmp-type 5 -m conntrack --ctstate RELATED -j ACCEPT",
            "-A INPUT -p icmp -m conntrack --ctstate ESTABLISHED,UNTRACKED -j ACCEPT",
            "-A INPUT -j DROP",
        ),
        routes=[{"dst": "10.1.0.42/32", "via": CLIENT, "dev": "in"}],
    )
    ping = echo("10.1.0.1", "10.1.0.42", size=56)
    script.send_local(ping, out=["in 10.1.0.1 > 10.1.0.42 icmp 8/0"])
    better = int.from_bytes(bytes((10, 1, 0, 42)), "big")
    script.receive("in", icmp_error(CLIENT, "10.1.0.1", 5, 1, better, ping), rules={"filter/INPUT/1": 1})
    script.counted(filter_INPUT_1=1, filter_INPUT_3=0)
    return script


# --------------------------------------------------------------------------------- conntrack_tcp_unreplied.sh


@selftest
def tcp_unreplied() -> Script:
    """conntrack_tcp_unreplied.sh."""
    redirect = table("nat", "-A PREROUTING -d 10.99.99.99/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080")
    script = Script(
        "tcp-unreplied",
        "SYNs that are repeated without an answer do not keep their entry alive: it ends with its timeout, and then a "
        "rule that was loaded meanwhile redirects the next one.",
        table("nat") + table("filter", "-A FORWARD -m conntrack --ctstate NEW"),
        routes=[{"dst": "10.99.99.99/32", "via": SERVER, "dev": "out"}],
        sysctls={"net.netfilter.nf_conntrack_tcp_timeout_syn_sent": "5"},
    )
    flow = Conversation(server="10.99.99.99", dport=80)
    syn = flow.c("S", 0, options=SYN_OPTIONS)
    script.passes("in", syn, state="SYN_SENT", lacks="SEEN_REPLY")
    script.load(redirect + table("filter", "-A FORWARD -m conntrack --ctstate NEW"))
    for _ in range(2):
        script.advance(1)
        script.passes("in", syn, state="SYN_SENT", lacks="SEEN_REPLY", rules={"nat/PREROUTING/1": 0})
    script.advance(4, entries=0)
    script.receive("in", syn, out=[f"in 10.99.99.99:80 > {CLIENT}:1000 tcp R."], rules={"nat/PREROUTING/1": 1})
    return script


# ------------------------------------------------------------------------- nft_nat.sh, as far as iptables says it


def nat(*rules: str) -> str:
    return table("nat", *rules)


@selftest
def local_dnat() -> Script:
    """nft_nat.sh test_local_dnat."""
    script = Script(
        "local-dnat",
        "A destination translated in OUTPUT routes the packet anew; without the rule, a new flow goes where it says.",
        nat(f"-A OUTPUT -d {CLIENT}/32 -j DNAT --to-destination {SERVER}")
        + table("filter", "-A OUTPUT -m conntrack --ctstate NEW"),
    )
    script.send_local(echo("10.1.0.1", CLIENT), out=[f"out 10.1.0.1 > {SERVER} icmp 8/0"])
    script.receive("out", echo(SERVER, "10.1.0.1", reply=True), out=[], has="SEEN_REPLY")
    script.load(nat())
    script.send_local(echo("10.1.0.1", CLIENT, identifier=78), out=[f"in 10.1.0.1 > {CLIENT} icmp 8/0"], entries=2)
    return script


@selftest
def local_dnat6() -> Script:
    """nft_nat.sh test_local_dnat6."""
    script = Script(
        "local-dnat6",
        "A destination translated in OUTPUT routes the packet anew, in IPv6 too.",
        rules6=nat(f"-A OUTPUT -d {CLIENT6}/128 -j DNAT --to-destination {SERVER6}"),
    )
    script.send_local(echo("fd01::1", CLIENT6), out=[f"out fd01::1 > {SERVER6} icmp6 128/0"])
    script.receive("out", echo(SERVER6, "fd01::1", reply=True), out=[], has="SEEN_REPLY")
    return script


@selftest
def local_dnat_portonly() -> Script:
    """nft_nat.sh test_local_dnat_portonly."""
    script = Script(
        "local-dnat-portonly",
        "A translation of the port alone leaves the address as it is.",
        nat("-A OUTPUT -p tcp -j DNAT --to-destination :2000"),
    )
    script.send_local(
        segment("10.2.0.1", SERVER, 1000, 80, "S", 1, options=SYN_OPTIONS),
        out=[f"out 10.2.0.1:1000 > {SERVER}:2000 tcp S"],
    )
    return script


def masquerade(name: str, options: str) -> Script:
    script = Script(
        name,
        "What leaves by the masqueraded interface comes from that interface's address, and the answer finds its way.",
        nat(f"-A POSTROUTING -o out -j MASQUERADE{options}"),
    )
    taken = {"from": {"step": 0, "frame": 0, "field": "udp.sport"}, "field": "udp.dport"}
    port = "*" if options else "1405"
    script.receive("in", datagram(CLIENT, SERVER, 1405, 53), out=[f"out 10.2.0.1:{port} > {SERVER}:53 udp"])
    script.receive(
        "out", datagram(SERVER, "10.2.0.1", 53, 1405), take=[taken], out=[f"in {SERVER}:53 > {CLIENT}:1405 udp"]
    )
    script.receive("in", datagram(CLIENT, SERVER, 1405, 53), out=[f"out 10.2.0.1:{port} > {SERVER}:53 udp"], entries=1)
    return script


@selftest
def masquerade_plain() -> Script:
    """nft_nat.sh test_masquerade."""
    return masquerade("masquerade", "")


@selftest
def masquerade_fully_random() -> Script:
    """nft_nat.sh test_masquerade with fully-random."""
    return masquerade("masquerade-fully-random", " --random-fully")


@selftest
def masquerade6() -> Script:
    """nft_nat.sh test_masquerade6."""
    script = Script(
        "masquerade6",
        "What leaves by the masqueraded interface comes from that interface's address, in IPv6 too.",
        rules6=nat("-A POSTROUTING -o out -j MASQUERADE"),
    )
    for _ in range(2):
        script.receive("in", echo(CLIENT6, SERVER6), out=[f"out fd02::1 > {SERVER6} icmp6 128/0"], entries=1)
        script.receive("out", echo(SERVER6, "fd02::1", reply=True), out=[f"in {SERVER6} > {CLIENT6} icmp6 129/0"])
    return script


@selftest
def redirect() -> Script:
    """nft_nat.sh test_redirect."""
    script = Script(
        "redirect",
        "A redirected ping is answered by the router, in the name of whom it was meant for.",
        nat(f"-A PREROUTING -s {CLIENT}/32 -d {SERVER}/32 -i in -p icmp -j REDIRECT"),
    )
    script.receive("in", echo(CLIENT, SERVER), out=[f"in {SERVER} > {CLIENT} icmp 0/0"], has="SEEN_REPLY")
    return script


@selftest
def redirect6() -> Script:
    """nft_nat.sh test_redirect6."""
    script = Script(
        "redirect6",
        "A redirected ping is answered by the router, in the name of whom it was meant for, in IPv6 too.",
        rules6=nat(f"-A PREROUTING -s {CLIENT6}/128 -d {SERVER6}/128 -i in -p ipv6-icmp -j REDIRECT"),
    )
    script.receive("in", echo(CLIENT6, SERVER6), out=[f"in {SERVER6} > {CLIENT6} icmp6 129/0"], has="SEEN_REPLY")
    return script


def port_shadow(name: str, proves: str, rules: str, *, shadowed: bool, first: Sequence[str]) -> Script:
    """A client's flow from a port that the router serves, to a port that the server will use later."""
    script = Script(
        name,
        proves,
        rules,
        listeners=[{"proto": "udp", "address": "10.2.0.1", "port": 1405, "name": "service"}],
    )
    script.receive("in", datagram(CLIENT, SERVER, 1405, 41404), out=first)
    query = datagram(SERVER, "10.2.0.1", 41404, 1405)
    if shadowed:
        script.receive("out", query, out=[f"in {SERVER}:41404 > {CLIENT}:1405 udp"], datagrams=[])
    else:
        script.receive("out", query, out=[], datagrams=[f"{SERVER}:41404"])
        script.answer("service", SERVER, 41404, b"router", out=[f"out 10.2.0.1:1405 > {SERVER}:41404 udp"])
    return script


MASQUERADED = nat("-A POSTROUTING -o out -j MASQUERADE")


@selftest
def port_shadow_default() -> Script:
    """nft_nat.sh test_port_shadow."""
    return port_shadow(
        "port-shadow",
        "A masqueraded flow from the port of a router's service takes what the other end sends to that service.",
        MASQUERADED,
        shadowed=True,
        first=[f"out 10.2.0.1:1405 > {SERVER}:41404 udp"],
    )


@selftest
def port_shadow_filter() -> Script:
    """nft_nat.sh test_port_shadow_filter."""
    return port_shadow(
        "port-shadow-filter",
        "A flow that is dropped leaves no entry that could shadow a service.",
        MASQUERADED + table("filter", "-A FORWARD -i in -p udp -m udp --sport 1405 -j DROP"),
        shadowed=False,
        first=[],
    )


@selftest
def port_shadow_notrack() -> Script:
    """nft_nat.sh test_port_shadow_notrack."""
    return port_shadow(
        "port-shadow-notrack",
        "Packets that are not tracked meet no entry: the service answers although a flow shadows it.",
        table(
            "raw",
            "-A PREROUTING -i out -p udp -m udp --dport 1405 -j CT --notrack",
            "-A OUTPUT -o out -p udp -m udp --sport 1405 -j CT --notrack",
        )
        + MASQUERADED,
        shadowed=False,
        first=[f"out 10.2.0.1:1405 > {SERVER}:41404 udp"],
    )


@selftest
def port_shadow_pat() -> Script:
    """nft_nat.sh test_port_shadow_pat."""
    return port_shadow(
        "port-shadow-pat",
        "Flows from the ports of services are given other ones, so that none shadows a service.",
        nat(
            "-A POSTROUTING -s 10.1.0.0/24 -p udp -m udp --sport 0:1405 -j MASQUERADE --to-ports 1406-65535 --random",
            "-A POSTROUTING -o out -j MASQUERADE",
        ),
        shadowed=False,
        first=[f"out 10.2.0.1:* > {SERVER}:41404 udp"],
    )


@selftest
def dnat_clash() -> Script:
    """nft_nat.sh test_dnat_clash."""
    script = Script(
        "dnat-clash",
        "A flow to where another one has been translated to, from the same port, is not lost: the host gives it "
        "another source port for itself.",
        nat("-A PREROUTING -d 10.2.0.1/32 -p udp -m udp --dport 1234 -j DNAT --to-destination 10.1.0.1:1234"),
        listeners=[{"proto": "udp", "address": "10.1.0.1", "port": 1234, "name": "service"}],
    )
    script.receive("in", datagram(CLIENT, "10.2.0.1", 4321, 1234), datagrams=[f"{CLIENT}:4321"], entries=1)
    script.answer("service", CLIENT, 4321, b"PONG", out=[f"in 10.2.0.1:1234 > {CLIENT}:4321 udp"])
    script.receive("in", datagram(CLIENT, "10.1.0.1", 4321, 1234), datagrams=[f"{CLIENT}:*"], entries=2)
    return script


# --------------------------------------------------------------------------------------------------- rpath.sh

#: The way back to 192.168.42.0/24 is the interface ``out``.
RPATH: dict[str, Any] = {
    "addresses": {
        "in": ("192.168.23.1/24", "fd23::1/64"),
        "out": ("192.168.42.1/24", "fd42::1/64"),
    },
    "neighbours": [("in", "192.168.23.2"), ("out", "192.168.42.2")],
}
RPATH6 = {**RPATH, "neighbours": [("in", "fd23::2"), ("out", "fd42::2")]}


def rpath_rules(network: str) -> str:
    return table(
        "raw",
        f"-A PREROUTING -s {network} -m rpfilter",
        f"-A PREROUTING -s {network} -m rpfilter --invert",
    )


@selftest
def rpath() -> Script:
    """rpath.sh, IPv4."""
    script = Script(
        "rpath",
        "The reverse path match holds for what came by the way back to its source, and its inverse for the rest.",
        rpath_rules("192.168.0.0/16"),
        **RPATH,
    )
    matched, inverse = "raw/PREROUTING/1", "raw/PREROUTING/2"
    script.receive("in", echo("192.168.42.2", "192.168.42.1"), rules={matched: 0, inverse: 1})
    script.receive(
        "in",
        echo("192.168.23.2", "192.168.23.1"),
        out=["in 192.168.23.1 > 192.168.23.2 icmp 0/0"],
        rules={matched: 1, inverse: 0},
    )
    return script


@selftest
def rpath6() -> Script:
    """rpath.sh, IPv6."""
    script = Script(
        "rpath6",
        "The reverse path match holds for what came by the way back to its source, in IPv6 too.",
        rules6=rpath_rules("fd00::/8"),
        **RPATH6,
    )
    matched, inverse = "6:raw/PREROUTING/1", "6:raw/PREROUTING/2"
    script.receive("in", echo("fd42::2", "fd42::1"), rules={matched: 0, inverse: 1})
    script.receive(
        "in",
        echo("fd23::2", "fd23::1"),
        out=["in fd23::1 > fd23::2 icmp6 129/0"],
        rules={matched: 1, inverse: 0},
    )
    return script


@selftest
def rp_filter() -> Script:
    """rpath.sh's topology, with the setting in the place of the match."""
    script = Script(
        "rp-filter",
        "With rp_filter=1 what came by another way than that back to its source is dropped before it is routed.",
        table("filter", "-A INPUT -p icmp"),
        sysctls={"net.ipv4.conf.in.rp_filter": "1"},
        **RPATH,
    )
    script.dropped("in", echo("192.168.42.2", "192.168.42.1"), rules={"filter/INPUT/1": 0})
    script.receive(
        "in",
        echo("192.168.23.2", "192.168.23.1"),
        out=["in 192.168.23.1 > 192.168.23.2 icmp 0/0"],
        rules={"filter/INPUT/1": 1},
    )
    return script
