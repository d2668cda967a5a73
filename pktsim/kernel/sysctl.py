"""Settings by name: values, checks, and how ``all``, ``default`` and an interface's own value make one.

Unknown names are refused, and so are values that would change what happens to a packet in a way that is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pktsim.errors import PktsimError, UnsupportedFeature
from pktsim.kernel.sysctl_defaults import DEFAULTS

#: Families of per-interface settings.
_PER_INTERFACE: Final = ("net.ipv4.conf", "net.ipv4.neigh", "net.ipv6.conf", "net.ipv6.neigh")
#: Only ``default`` has these: they belong to the neighbour table, not to an interface.
_TABLE_WIDE: Final = frozenset(("gc_interval", "gc_thresh1", "gc_thresh2", "gc_thresh3"))

#: Ranges that the kernel checks (``.extra1``/``.extra2`` of its tables); everything else takes any 32-bit number.
_RANGES: Final[dict[str, tuple[int, int]]] = {
    "net.ipv4.ip_default_ttl": (1, 255),
    "net.ipv4.icmp_echo_ignore_all": (0, 1),
    "net.ipv4.icmp_echo_enable_probe": (0, 1),
    "net.ipv4.icmp_echo_ignore_broadcasts": (0, 1),
    "net.ipv4.icmp_errors_use_inbound_ifaddr": (0, 1),
    "net.ipv4.icmp_ignore_bogus_error_responses": (0, 1),
    "net.ipv4.icmp_msgs_burst": (0, 2**31 - 1),
    "net.ipv4.icmp_msgs_per_sec": (0, 2**31 - 1),
    "net.ipv4.ip_forward_update_priority": (0, 1),
    "net.ipv4.ip_unprivileged_port_start": (0, 65535),
    "net.ipv4.tcp_early_retrans": (0, 4),
    "net.ipv4.tcp_ecn": (0, 5),
    "net.ipv4.tcp_migrate_req": (0, 1),
    "net.ipv4.tcp_min_snd_mss": (48, 65535),
    "net.ipv4.tcp_retries1": (0, 255),
    "net.ipv4.tcp_syn_linear_timeouts": (0, 127),
    "net.ipv4.tcp_syn_retries": (1, 127),
    "net.ipv4.tcp_synack_retries": (0, 255),
    "net.ipv4.tcp_tw_reuse": (0, 2),
    "net.ipv4.fib_multipath_hash_policy": (0, 3),
    "net.ipv4.ipfrag_max_dist": (0, 2**31 - 1),
    "net.netfilter.nf_conntrack_acct": (0, 1),
    "net.netfilter.nf_conntrack_checksum": (0, 1),
    "net.netfilter.nf_conntrack_tcp_be_liberal": (0, 1),
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": (0, 1),
    "net.netfilter.nf_conntrack_tcp_loose": (0, 1),
    "net.netfilter.nf_conntrack_tcp_max_retrans": (0, 255),
}

#: Settings with words in them.
_TEXTS: Final = frozenset(
    ("net.ipv4.tcp_congestion_control", "net.ipv4.ip_local_reserved_ports", "net.ipv6.icmp.ratemask")
)

#: Settings that would change what happens to a packet and of which only the default is modelled.
ONLY_DEFAULT: Final = frozenset(
    (
        "net.bridge.bridge-nf-filter-pppoe-tagged",
        "net.bridge.bridge-nf-filter-vlan-tagged",
        "net.bridge.bridge-nf-pass-vlan-input-dev",
        "net.ipv4.conf.IF.bc_forwarding",
        "net.ipv4.conf.IF.bootp_relay",
        "net.ipv4.conf.IF.drop_unicast_in_l2_multicast",
        "net.ipv4.conf.IF.ignore_routes_with_linkdown",
        "net.ipv4.conf.IF.mc_forwarding",
        "net.ipv4.conf.IF.medium_id",
        "net.ipv4.conf.IF.tag",
        "net.ipv4.fib_multipath_hash_fields",
        "net.ipv4.fib_multipath_use_neigh",
        "net.ipv4.icmp_echo_enable_probe",
        "net.netfilter.nf_conntrack_events",
    )
)
#: Settings of which some values are modelled: up to this one.
_HIGHEST_MODELLED: Final = {"net.ipv4.fib_multipath_hash_policy": 1}
#: ... or these.
_MODELLED: Final = {"net.ipv6.flowlabel_reflect": ("0", "4")}
#: ... except that turning these off is what not modelling them amounts to.
_ONLY_DEFAULT_OR_OFF: Final = frozenset(("net.netfilter.nf_conntrack_events",))

#: Setting these to what they are for ``all`` leaves interfaces alone (``devinet_sysctl_forward``).
_ONLY_IF_CHANGED: Final = frozenset((("net.ipv4.conf", "forwarding"), ("net.ipv6.conf", "force_forwarding")))
#: What ``all`` is set to, all are (``inet_forward_change``, ``addrconf_forward_change``, ``addrconf_disable_change``).
_ALL_MEANS_ALL: Final = frozenset(
    (
        ("net.ipv4.conf", "forwarding"),
        ("net.ipv6.conf", "forwarding"),
        ("net.ipv6.conf", "force_forwarding"),
        ("net.ipv6.conf", "disable_ipv6"),
    )
)

#: ``net.ipv4.ip_forward`` is another name of ``net.ipv4.conf.all.forwarding``.
_ALIASES: Final = {"net.ipv4.ip_forward": "net.ipv4.conf.all.forwarding"}

_UINT32 = 2**32


def _load() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    plain: dict[str, str] = {}
    per_interface: dict[str, dict[str, str]] = {}
    for prefix, lines in DEFAULTS.items():
        pairs = {name: value for name, _, value in (line.partition(" ") for line in lines.split("\n") if line)}
        if prefix.endswith(".default"):
            per_interface[prefix.removesuffix(".default")] = pairs
        else:
            plain.update({f"{prefix}.{name}": value for name, value in pairs.items()})
    return plain, per_interface


_PLAIN, _INTERFACE = _load()
for _alias in _ALIASES:
    del _PLAIN[_alias]


def setting_names() -> tuple[str, ...]:
    """All settings, sorted, with ``IF`` in the place of an interface."""
    per_interface = (f"{family}.IF.{key}" for family, values in _INTERFACE.items() for key in values)
    return tuple(sorted((*_PLAIN, *per_interface)))


class Sysctls:
    """The settings of one namespace.

    Args:
        changed: Called after a value changed, with the family of settings or the whole name, the interface (or
            ``all``/``default``, or empty), and the last part of the name (empty for a whole name).
    """

    def __init__(self, changed: Callable[[str, str, str], None] | None = None) -> None:
        self._changed = changed
        self._plain = dict(_PLAIN)
        #: (family, interface) -> values; what an interface does not list, it has from ``default`` when it was made
        self._conf: dict[tuple[str, str], dict[str, str]] = {}
        #: What was set for an interface itself, and so does not follow ``default`` any more (``ipv4_devconf.state``).
        self._own: dict[tuple[str, str], set[str]] = {}
        for family, values in _INTERFACE.items():
            self._conf[family, "default"] = dict(values)
            if family.endswith(".conf"):
                self._conf[family, "all"] = dict(values)
        self._conf["net.ipv4.conf", "all"]["accept_source_route"] = "0"  # ipv4_devconf, unlike ipv4_devconf_dflt
        self._cache: dict[tuple[str, str, str], int] = {}

    # ------------------------------------------------------------------------------------------------------- interfaces

    def interface_added(self, name: str) -> None:
        """A new interface starts with the values of ``default``."""
        for family in _PER_INTERFACE:
            values = {key: value for key, value in self._conf[family, "default"].items() if key not in _TABLE_WIDE}
            self._conf[family, name] = values
            self._own[family, name] = set()
        self._cache.clear()

    def interface_removed(self, name: str) -> None:
        for family in _PER_INTERFACE:
            self._conf.pop((family, name), None)
            self._own.pop((family, name), None)
        self._cache.clear()

    def interface_renamed(self, old: str, new: str) -> None:
        for family in _PER_INTERFACE:
            self._conf[family, new] = self._conf.pop((family, old))
            self._own[family, new] = self._own.pop((family, old))
        self._cache.clear()

    # ------------------------------------------------------------------------------------------------------------ names

    @staticmethod
    def _split(name: str) -> tuple[str, str, str]:
        """Return family, interface, key; or the whole name and two empty strings."""
        if "/" in name.partition(".")[0]:
            # sysctl's other spelling, for interface names with dots in them
            name = name.replace(".", "\0").replace("/", ".").replace("\0", "/")
            name = name.replace("/", ".") if not name.startswith(_PER_INTERFACE) else name
        name = _ALIASES.get(name, name)
        for family in _PER_INTERFACE:
            if name.startswith(family + "."):
                interface, _, key = name[len(family) + 1 :].rpartition(".")
                return family, interface.replace("/", "."), key
        return name, "", ""

    def _values(self, name: str) -> tuple[dict[str, str], str, tuple[str, str, str]]:
        if name in self._plain:
            return self._plain, name, (name, "", "")
        family, interface, key = self._split(name)
        if not key:
            if family in self._plain:
                return self._plain, family, (family, "", "")
        else:
            values = self._conf.get((family, interface))
            if values is None:
                raise PktsimError(
                    f"sysctl {name}: there is no interface {interface!r}", mend="create the interface first"
                )
            if key in values:
                return values, key, (family, interface, key)
        raise UnsupportedFeature(f"sysctl {name}", mend="check the name; settings are those of Linux 6.18")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Names and values, sorted by name, as ``sysctl -a`` prints them."""
        everything = dict(self._plain)
        for (family, interface), values in self._conf.items():
            everything.update({f"{family}.{interface}.{key}": value for key, value in values.items()})
        for alias, name in _ALIASES.items():
            family, interface, key = self._split(name)
            everything[alias] = self._conf[family, interface][key]
        return iter(sorted(everything.items()))

    # ----------------------------------------------------------------------------------------------------------- values

    def text(self, name: str) -> str:
        """Return a setting as ``sysctl -n`` prints it, with single spaces between several numbers."""
        values, key, _ = self._values(name)
        return values[key]

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return all numbers of a setting such as ``net.ipv4.tcp_rmem``."""
        return tuple(int(word) for word in self.text(name).split())

    def number(self, name: str) -> int:
        """Return a setting that is one number."""
        cache_key = (name, "", "")
        value = self._cache.get(cache_key)
        if value is None:
            value = self._cache[cache_key] = int(self.text(name))
        return value

    def conf(self, family: str, interface: str, key: str) -> int:
        """Return an interface's own value, e.g. ``conf("net.ipv4.neigh", "eth0", "proxy_delay")``."""
        cache_key = (family, interface, key)
        value = self._cache.get(cache_key)
        if value is None:
            value = self._cache[cache_key] = int(self._conf[family, interface][key])
        return value

    def conf_or(self, interface: str, key: str) -> bool:
        """``IN_DEV_ORCONF``: on if on for ``all`` or for the interface."""
        return bool(self.conf("net.ipv4.conf", "all", key) or self.conf("net.ipv4.conf", interface, key))

    def conf_and(self, interface: str, key: str) -> bool:
        """``IN_DEV_ANDCONF``."""
        return bool(self.conf("net.ipv4.conf", "all", key) and self.conf("net.ipv4.conf", interface, key))

    def conf_max(self, interface: str, key: str) -> int:
        """``IN_DEV_MAXCONF``: the larger of ``all`` and the interface's."""
        return max(self.conf("net.ipv4.conf", "all", key), self.conf("net.ipv4.conf", interface, key))

    def set(self, name: str, value: str | int) -> None:
        """Write a setting.

        Raises:
            PktsimError: The value is not what this setting takes, or there is no such interface.
            UnsupportedFeature: The name is unknown, or the value is not modelled.
        """
        values, key, (family, interface, conf_key) = self._values(name)
        generic = f"{family}.IF.{conf_key}" if conf_key else family
        text = self._checked(name, generic, " ".join(str(value).split()), values[key])
        if generic in ONLY_DEFAULT:
            default = _INTERFACE[family][conf_key] if conf_key else _PLAIN[generic]
            if text != default and not (text == "0" and generic in _ONLY_DEFAULT_OR_OFF):
                raise UnsupportedFeature(f"sysctl {name}={text}", mend=f"leave it at {default}")
        highest = _HIGHEST_MODELLED.get(generic)
        if highest is not None and int(text) > highest:
            raise UnsupportedFeature(f"sysctl {name}={text}", mend=f"0 to {highest}")
        if text not in _MODELLED.get(generic, (text,)):
            raise UnsupportedFeature(f"sysctl {name}={text}", mend=" or ".join(_MODELLED[generic]))
        same = values[key] == text
        values[key] = text
        self._cache.clear()
        if same and (family, conf_key) in _ONLY_IF_CHANGED:
            return
        if conf_key:
            self._set_conf(family, interface, conf_key, text)
        elif self._changed:
            self._changed(family, "", "")

    def _checked(self, name: str, generic: str, text: str, old: str) -> str:
        if generic in _TEXTS:
            return text
        words = text.split()
        if len(words) != max(len(old.split()), 1) and not (old == "" and not words):
            raise PktsimError(f"sysctl {name} takes {len(old.split())} numbers, not {text!r}")
        for word in words:
            try:
                number = int(word)
            except ValueError:
                raise PktsimError(f"sysctl {name}: {word!r} is not a number") from None
            low, high = _RANGES.get(generic, (-(_UINT32 // 2), _UINT32 - 1))
            if not low <= number <= high:
                raise PktsimError(f"sysctl {name}: {number} is not in {low}..{high}")
        return " ".join(str(int(word)) for word in words)

    def _interfaces(self, family: str) -> list[str]:
        return [name for known, name in self._conf if known == family and name not in ("all", "default")]

    def _set_conf(self, family: str, interface: str, key: str, text: str) -> None:
        touched = [interface]
        if interface == "default":
            # devinet_copy_dflt_conf: interfaces that had not been told otherwise follow
            for name in self._interfaces(family):
                if key in self._conf[family, name] and key not in self._own[family, name]:
                    self._conf[family, name][key] = text
                    touched.append(name)
        elif interface != "all":
            self._own[family, interface].add(key)
        elif (family, key) in _ALL_MEANS_ALL:
            for name in ["default", *self._interfaces(family)]:
                self._conf[family, name][key] = text
                touched.append(name)
            if (family, key, text) == ("net.ipv6.conf", "forwarding", "0"):
                # addrconf_force_forward_change: then none is forced to forward any more
                for name in ("all", "default", *self._interfaces(family)):
                    self._conf[family, name]["force_forwarding"] = "0"
                self._tell(family, touched, "force_forwarding")
            if family == "net.ipv4.conf" and key == "forwarding":
                # inet_forward_change also turns accepting redirects off on routers, and back on
                self._conf[family, "all"]["accept_redirects"] = "0" if int(text) else "1"
        self._tell(family, touched, key)

    def _tell(self, family: str, touched: Sequence[str], key: str) -> None:
        self._cache.clear()
        if self._changed:
            for name in touched:
                self._changed(family, name, key)
