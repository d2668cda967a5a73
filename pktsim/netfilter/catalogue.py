"""All matches and targets there are, by the name that rules use, and those that exist but are not modelled."""

from __future__ import annotations

from collections.abc import Iterable

from pktsim.netfilter.matches import addrtype as addrtype_match
from pktsim.netfilter.matches import ah as ah_match
from pktsim.netfilter.matches import bpf as bpf_match
from pktsim.netfilter.matches import cgroup as cgroup_match
from pktsim.netfilter.matches import comment as comment_match
from pktsim.netfilter.matches import connbytes as connbytes_match
from pktsim.netfilter.matches import connlabel as connlabel_match
from pktsim.netfilter.matches import connlimit as connlimit_match
from pktsim.netfilter.matches import connmark as connmark_match
from pktsim.netfilter.matches import conntrack as conntrack_match
from pktsim.netfilter.matches import cpu as cpu_match
from pktsim.netfilter.matches import devgroup as devgroup_match
from pktsim.netfilter.matches import dscp as dscp_match
from pktsim.netfilter.matches import ecn as ecn_match
from pktsim.netfilter.matches import esp as esp_match
from pktsim.netfilter.matches import eui64 as eui64_match
from pktsim.netfilter.matches import frag as frag_match
from pktsim.netfilter.matches import hashlimit as hashlimit_match
from pktsim.netfilter.matches import helper as helper_match
from pktsim.netfilter.matches import hl as hl_match
from pktsim.netfilter.matches import icmp as icmp_match
from pktsim.netfilter.matches import icmp6 as icmp6_match
from pktsim.netfilter.matches import ip6opts as ip6opts_match
from pktsim.netfilter.matches import ipcomp as ipcomp_match
from pktsim.netfilter.matches import iprange as iprange_match
from pktsim.netfilter.matches import ipv6header as ipv6header_match
from pktsim.netfilter.matches import ipvs as ipvs_match
from pktsim.netfilter.matches import length as length_match
from pktsim.netfilter.matches import limit as limit_match
from pktsim.netfilter.matches import mac as mac_match
from pktsim.netfilter.matches import mark as mark_match
from pktsim.netfilter.matches import multiport as multiport_match
from pktsim.netfilter.matches import nfacct as nfacct_match
from pktsim.netfilter.matches import owner as owner_match
from pktsim.netfilter.matches import physdev as physdev_match
from pktsim.netfilter.matches import pkttype as pkttype_match
from pktsim.netfilter.matches import policy as policy_match
from pktsim.netfilter.matches import quota as quota_match
from pktsim.netfilter.matches import realm as realm_match
from pktsim.netfilter.matches import recent as recent_match
from pktsim.netfilter.matches import rpfilter as rpfilter_match
from pktsim.netfilter.matches import rt as rt_match
from pktsim.netfilter.matches import sctp as sctp_match
from pktsim.netfilter.matches import set as set_match
from pktsim.netfilter.matches import socket as socket_match
from pktsim.netfilter.matches import statistic as statistic_match
from pktsim.netfilter.matches import string as string_match
from pktsim.netfilter.matches import tcp as tcp_match
from pktsim.netfilter.matches import tcpmss as tcpmss_match
from pktsim.netfilter.matches import time as time_match
from pktsim.netfilter.matches import tos as tos_match
from pktsim.netfilter.matches import ttl as ttl_match
from pktsim.netfilter.matches import u32 as u32_match
from pktsim.netfilter.matches import udp as udp_match
from pktsim.netfilter.option import Extension
from pktsim.netfilter.ruleset import Family, Match, Target
from pktsim.netfilter.targets import audit as audit_target
from pktsim.netfilter.targets import checksum as checksum_target
from pktsim.netfilter.targets import classify as classify_target
from pktsim.netfilter.targets import connmark as connmark_target
from pktsim.netfilter.targets import ct as ct_target
from pktsim.netfilter.targets import dnat as dnat_target
from pktsim.netfilter.targets import dscp as dscp_target
from pktsim.netfilter.targets import ecn as ecn_target
from pktsim.netfilter.targets import hl as hl_target
from pktsim.netfilter.targets import idletimer as idletimer_target
from pktsim.netfilter.targets import log as log_target
from pktsim.netfilter.targets import mark as mark_target
from pktsim.netfilter.targets import masquerade as masquerade_target
from pktsim.netfilter.targets import netmap as netmap_target
from pktsim.netfilter.targets import nflog as nflog_target
from pktsim.netfilter.targets import nfqueue as nfqueue_target
from pktsim.netfilter.targets import queue as queue_target
from pktsim.netfilter.targets import redirect as redirect_target
from pktsim.netfilter.targets import reject as reject_target
from pktsim.netfilter.targets import set as set_target
from pktsim.netfilter.targets import snat as snat_target
from pktsim.netfilter.targets import tcpmss as tcpmss_target
from pktsim.netfilter.targets import tcpoptstrip as tcpoptstrip_target
from pktsim.netfilter.targets import tee as tee_target
from pktsim.netfilter.targets import tos as tos_target
from pktsim.netfilter.targets import tproxy as tproxy_target
from pktsim.netfilter.targets import trace as trace_target
from pktsim.netfilter.targets import ttl as ttl_target

_ALL_MATCHES: tuple[Extension[Match], ...] = (
    *addrtype_match.EXTENSIONS,
    *ah_match.EXTENSIONS,
    *bpf_match.EXTENSIONS,
    *cgroup_match.EXTENSIONS,
    *comment_match.EXTENSIONS,
    *connbytes_match.EXTENSIONS,
    *connlabel_match.EXTENSIONS,
    *connlimit_match.EXTENSIONS,
    *connmark_match.EXTENSIONS,
    *conntrack_match.EXTENSIONS,
    *cpu_match.EXTENSIONS,
    *devgroup_match.EXTENSIONS,
    *dscp_match.EXTENSIONS,
    *ecn_match.EXTENSIONS,
    *esp_match.EXTENSIONS,
    *eui64_match.EXTENSIONS,
    *frag_match.EXTENSIONS,
    *hashlimit_match.EXTENSIONS,
    *helper_match.EXTENSIONS,
    *hl_match.EXTENSIONS,
    *icmp6_match.EXTENSIONS,
    *icmp_match.EXTENSIONS,
    *ip6opts_match.EXTENSIONS,
    *ipcomp_match.EXTENSIONS,
    *iprange_match.EXTENSIONS,
    *ipv6header_match.EXTENSIONS,
    *ipvs_match.EXTENSIONS,
    *length_match.EXTENSIONS,
    *limit_match.EXTENSIONS,
    *mac_match.EXTENSIONS,
    *mark_match.EXTENSIONS,
    *multiport_match.EXTENSIONS,
    *nfacct_match.EXTENSIONS,
    *owner_match.EXTENSIONS,
    *physdev_match.EXTENSIONS,
    *pkttype_match.EXTENSIONS,
    *policy_match.EXTENSIONS,
    *quota_match.EXTENSIONS,
    *realm_match.EXTENSIONS,
    *recent_match.EXTENSIONS,
    *rpfilter_match.EXTENSIONS,
    *rt_match.EXTENSIONS,
    *sctp_match.EXTENSIONS,
    *set_match.EXTENSIONS,
    *socket_match.EXTENSIONS,
    *statistic_match.EXTENSIONS,
    *string_match.EXTENSIONS,
    *tcp_match.EXTENSIONS,
    *tcpmss_match.EXTENSIONS,
    *time_match.EXTENSIONS,
    *tos_match.EXTENSIONS,
    *ttl_match.EXTENSIONS,
    *u32_match.EXTENSIONS,
    *udp_match.EXTENSIONS,
)

_ALL_TARGETS: tuple[Extension[Target], ...] = (
    *audit_target.EXTENSIONS,
    *checksum_target.EXTENSIONS,
    *classify_target.EXTENSIONS,
    *connmark_target.EXTENSIONS,
    *ct_target.EXTENSIONS,
    *dnat_target.EXTENSIONS,
    *dscp_target.EXTENSIONS,
    *ecn_target.EXTENSIONS,
    *hl_target.EXTENSIONS,
    *idletimer_target.EXTENSIONS,
    *log_target.EXTENSIONS,
    *mark_target.EXTENSIONS,
    *masquerade_target.EXTENSIONS,
    *netmap_target.EXTENSIONS,
    *nflog_target.EXTENSIONS,
    *nfqueue_target.EXTENSIONS,
    *queue_target.EXTENSIONS,
    *redirect_target.EXTENSIONS,
    *reject_target.EXTENSIONS,
    *set_target.EXTENSIONS,
    *snat_target.EXTENSIONS,
    *tcpmss_target.EXTENSIONS,
    *tcpoptstrip_target.EXTENSIONS,
    *tee_target.EXTENSIONS,
    *tos_target.EXTENSIONS,
    *tproxy_target.EXTENSIONS,
    *trace_target.EXTENSIONS,
    *ttl_target.EXTENSIONS,
)


def _by_name(extensions: Iterable[Extension[Match]], family: Family) -> dict[str, Extension[Match]]:
    return {one.name: one for one in extensions if one.family in (None, family)}


def _targets_by_name(extensions: Iterable[Extension[Target]], family: Family) -> dict[str, Extension[Target]]:
    return {one.name: one for one in extensions if one.family in (None, family)}


MATCHES: dict[Family, dict[str, Extension[Match]]] = {family: _by_name(_ALL_MATCHES, family) for family in Family}
TARGETS: dict[Family, dict[str, Extension[Target]]] = {
    family: _targets_by_name(_ALL_TARGETS, family) for family in Family
}
# xtables_find_match() knows one match under the protocol's names too.
for _alias in ("icmpv6", "ipv6-icmp"):
    MATCHES[Family.IPV6][_alias] = MATCHES[Family.IPV6]["icmp6"]

#: Matches of iptables 1.8.9 that are refused by name.
UNMODELLED_MATCHES = frozenset(
    {
        "cluster",
        "dccp",
        "mh",
        "osf",
        "rateest",
        "srh",
    }
)

#: Targets of iptables 1.8.9 that are refused by name.
UNMODELLED_TARGETS = frozenset(
    {
        "CLUSTERIP",
        "CONNSECMARK",
        "DNPT",
        "HMARK",
        "LED",
        "RATEEST",
        "SECMARK",
        "SNPT",
        "SYNPROXY",
        "ULOG",
    }
)


def find_match(name: str, family: Family) -> Extension[Match] | None:
    """The match called ``name`` in rules of ``family``."""
    return MATCHES[family].get(name)


def find_target(name: str, family: Family) -> Extension[Target] | None:
    """The target called ``name`` in rules of ``family``, other than verdicts and chains."""
    return TARGETS[family].get(name)
