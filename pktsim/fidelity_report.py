"""``pktsim fidelity``: what is modelled, what is approximated and how, what is refused.

Nothing here is a list of its own. What is modelled is read from the tables by which the package works (matches and
targets with a lowering, settings that something reads, plugins with a set-up function, kinds with a model); what is
approximated was declared beside the code (:mod:`pktsim.fidelity`); what is refused is in those tables too, or is a
place in the package's source that raises ``UnsupportedFeature``, found by reading the source.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable

from pktsim import fidelity
from pktsim.cluster import objects
from pktsim.cluster.ingress import settings as ingress
from pktsim.cluster.kubedns import plugins
from pktsim.cluster.kubeproxy import config as kube_proxy
from pktsim.cluster.objects_meta import KubeModel, LenientModel, api_name
from pktsim.errors import UnsupportedFeature
from pktsim.kernel import configuration, sysctl, tcp_settings
from pktsim.netfilter import catalogue, ipset_types, lower, nft_catalogue, timeouts
from pktsim.netfilter.opcodes import DropReason, Hook, LinkKind, RouteType, Step
from pktsim.netfilter.option import Extension
from pktsim.netfilter.ruleset import BUILTIN_CHAINS, Family
from pktsim.netfilter.targets.reject import RejectWith

#: Who refuses by name: the error itself, and short forms that say where as well.
_REFUSERS = frozenset({"UnsupportedFeature", "refuse", "unsupported"})
REFUSED_AREA = "refused where it is met"
#: How the areas of objects' fields begin.
FIELDS = "field of "


class Status(enum.StrEnum):
    """How faithful something is."""

    MODELLED = "modelled"
    APPROXIMATED = "approximated"
    HARMLESS = "harmless"  # taken and passed over: it changes nothing that this emulates
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Attributes:
        area: What it belongs to.
        name: In the words of the real thing. ``…`` stands for what a message fills in.
        status: How faithful it is.
        how: In what way it is approximated, or what to do where it is refused.
        where: The module that says so, or the real thing's source.
    """

    area: str
    name: str
    status: Status
    how: str = ""
    where: str = ""


def ledger() -> tuple[Entry, ...]:
    """The whole ledger, in the order of its areas."""
    modules = _modules()
    entries = (
        *_extensions("match", catalogue.MATCHES, lower.MATCHES, catalogue.UNMODELLED_MATCHES),
        *_extensions("target", catalogue.TARGETS, lower.TARGETS, catalogue.UNMODELLED_TARGETS),
        *(
            Entry("table", f"{table}: {', '.join(chains)}", Status.MODELLED)
            for table, chains in sorted(BUILTIN_CHAINS.items())
        ),
        *(Entry("hook", hook.name, Status.MODELLED) for hook in Hook),
        *(Entry("step of a hook", step.name, Status.MODELLED) for step in Step),
        *(Entry("nft expression", name, Status.MODELLED) for name in nft_catalogue.EXPRESSIONS),
        *(Entry("nft statement", name, Status.MODELLED) for name in nft_catalogue.STATEMENTS),
        *(Entry("nft", name, Status.REFUSED) for name in nft_catalogue.REFUSED),
        *(Entry("ipset type", name, Status.MODELLED) for name in sorted(ipset_types.TYPES)),
        *_conntrack(),
        *_settings(modules),
        *(Entry("device", kind.name.lower(), Status.MODELLED) for kind in LinkKind),
        *(Entry("route type", kind.name.lower(), Status.MODELLED) for kind in RouteType),
        *(Entry("reason to drop a packet", reason.name, Status.MODELLED) for reason in DropReason if reason),
        *(Entry("answer of -j REJECT", reason.name, Status.MODELLED) for reason in RejectWith),
        *_kube_proxy(),
        *_plugins(),
        *_ingress(),
        *_kinds(),
        *(
            Entry("approximation", one.name, Status.APPROXIMATED, one.how, one.source)
            for one in _approximations(modules)
        ),
        *_refusals(modules),
    )
    return tuple(entries)


def as_data(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """Entries for ``--json``; what is empty is left out."""
    return [{key: str(value) for key, value in dataclasses.asdict(entry).items() if value} for entry in entries]


def print_ledger(entries: Sequence[Entry], *, everything: bool = False) -> None:
    """Print the ledger for people.

    Args:
        entries: The ledger.
        everything: List the fields of objects too, not only how many there are.
    """
    areas = dict.fromkeys(entry.area for entry in entries)
    for area in areas:
        counted = area.startswith(FIELDS) and not everything
        print(f"\n{area}")
        for status in Status:
            found = [entry for entry in entries if entry.area == area and entry.status is status]
            plain = [entry.name for entry in found if not entry.how and not entry.where]
            if found and counted:
                print(f"  {status}: {len(found)}")
                continue
            if plain:
                print(_wrapped(f"{status}: ", ", ".join(plain)))
            for hows, names in _by_how(entry for entry in found if entry.how or entry.where).items():
                print(_wrapped(f"{status}: ", ", ".join(names) + (f" ({hows})" if hows else "")))
    totals = ", ".join(f"{sum(entry.status is status for entry in entries)} {status}" for status in Status)
    print(f"\n{len(entries)} entries: {totals}")


def _by_how(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Names by what is to be said of them; approximations have a line each."""
    grouped: dict[str, list[str]] = {}
    for entry in entries:
        said = "; ".join(part for part in (entry.how, entry.where) if part)
        grouped.setdefault(said, []).append(entry.name)
    return grouped


def _wrapped(head: str, text: str) -> str:
    return textwrap.fill(
        text, width=110, initial_indent=f"  {head}", subsequent_indent="      ", break_on_hyphens=False
    )


# ------------------------------------------------------------------------------------------------------ from the tables


def _extensions(
    area: str,
    known: dict[Family, dict[str, Extension[typing.Any]]],
    lowered: dict[type[typing.Any], lower.MatchLowering],
    unmodelled: Iterable[str],
) -> Iterator[Entry]:
    """Matches or targets: modelled with a lowering, else refused when a table is loaded or already when it is read."""
    lower.register_extensions()
    names = sorted({name for by_name in known.values() for name in by_name})
    for name in names:
        of = {family: by_name[name] for family, by_name in known.items() if name in by_name}
        only = "" if len(of) == len(known) else f" ({next(iter(of)).name.replace('IPV', 'IPv')})"
        results = [typing.get_type_hints(extension.build)["return"] for extension in of.values()]
        types = {each for result in results for each in typing.get_args(result) or (result,)}
        if types <= lowered.keys():
            yield Entry(area, name + only, Status.MODELLED)
        else:
            yield Entry(area, name + only, Status.REFUSED, "its text is read; refused when the table is loaded")
    yield from (Entry(area, name, Status.REFUSED, "refused where it is read") for name in sorted(unmodelled))


def _conntrack() -> Iterator[Entry]:
    protocols = ("TCP", "UDP", "ICMP", "ICMPV6", "SCTP", "GRE", "GENERIC")
    for name in protocols:
        held = getattr(timeouts, name)
        states = f" ({', '.join(state.name for state in held)})" if isinstance(held, dict) else ""
        yield Entry("conntrack protocol", name + states, Status.MODELLED)


def _settings(modules: Mapping[str, ast.Module]) -> Iterator[Entry]:
    """Every setting, and whether something goes by it."""
    engine = {*configuration.ENGINE_SETTINGS, *(f"{family}.IF.{key}" for family, key in configuration.ENGINE_CONF)}
    transport = {field.name for field in dataclasses.fields(tcp_settings.TcpSettings)}
    transport |= {name.removesuffix("_ms") for name in transport}
    read = _settings_read(modules)
    for name in sysctl.setting_names():
        last = name.rpartition(".")[2]
        if name in sysctl.ONLY_DEFAULT:
            yield Entry("setting", name, Status.REFUSED, "another value than the default")
        elif name in tcp_settings.FIXED:
            values = " or ".join(tcp_settings.FIXED[name])
            yield Entry("setting", name, Status.REFUSED, f"another value than {values}")
        elif name in tcp_settings.IGNORED:
            yield Entry("setting", name, Status.HARMLESS)
        elif name.startswith("net.ipv4.tcp_"):
            known = last.removeprefix("tcp_") in transport
            yield Entry("setting", name, Status.MODELLED if known else Status.REFUSED, "" if known else "another value")
        elif name in engine or name in read:
            yield Entry("setting", name, Status.MODELLED)
        else:
            yield Entry("setting", name, Status.APPROXIMATED, "its value is kept and shown; nothing goes by it")


def _kube_proxy() -> Iterator[Entry]:
    for mode in typing.get_args(kube_proxy.KubeProxyConfiguration.model_fields["mode"].annotation):
        if mode:
            try:
                kube_proxy.require_iptables(kube_proxy.KubeProxyConfiguration(mode=mode))
            except UnsupportedFeature as error:
                yield Entry("kube-proxy mode", mode, Status.REFUSED, error.mend)
            else:
                yield Entry("kube-proxy mode", mode, Status.MODELLED)
    yield from _fields("kube-proxy configuration", "", kube_proxy.KubeProxyConfiguration)


def _plugins() -> Iterator[Entry]:
    for name in sorted(plugins.ORDER):
        if name in plugins.MODELLED:
            yield Entry("kube-dns plugin", name, Status.MODELLED)
        elif name in plugins.HARMLESS:
            yield Entry("kube-dns plugin", name, Status.HARMLESS)
        else:
            yield Entry("kube-dns plugin", name, Status.REFUSED)


def _ingress() -> Iterator[Entry]:
    """What an ingress controller can be told; what stands nowhere here is refused when it is applied."""
    for name in sorted(ingress.ANNOTATIONS):
        yield Entry("ingress-nginx annotation", name, Status.MODELLED)
    for name in sorted(ingress.CONFIG.keys() | ingress.BOTH.keys()):
        yield Entry("ingress-nginx setting", name, Status.MODELLED)
    for name in sorted(ingress.HARMLESS):
        yield Entry("ingress-nginx setting", name, Status.HARMLESS)
    for name in sorted(ingress.FLAGS):
        yield Entry("ingress-nginx option", f"--{name}", Status.MODELLED)
    for name in sorted(ingress.REFUSED_FLAGS):
        yield Entry("ingress-nginx option", f"--{name}", Status.REFUSED)


def _kinds() -> Iterator[Entry]:
    for name, model in sorted(objects.KINDS.items()):
        yield Entry("kind", f"{name} ({', '.join(model.api_versions)})", Status.MODELLED)
        yield from _fields(f"{FIELDS}{name}", "", model)
    yield from (Entry("kind", name, Status.HARMLESS) for name in sorted(objects.HARMLESS_KINDS))
    yield from (Entry("kind", name, Status.REFUSED, mend) for name, mend in sorted(objects.REFUSED_KINDS.items()))


def _fields(area: str, prefix: str, model: type[KubeModel]) -> Iterator[Entry]:
    """The fields of a model and of the models in it. What is in neither is refused, as no API server takes it."""
    for attribute, field in model.model_fields.items():
        name = prefix + (field.alias or api_name(attribute))
        inner = list(_models_in(field.annotation))
        if not inner:
            yield Entry(area, name, Status.MODELLED)
        for part in inner:
            yield from _fields(area, f"{name}.", part)
    if issubclass(model, LenientModel):
        yield from (Entry(area, prefix + name, Status.HARMLESS) for name in sorted(model.harmless))


def _models_in(annotation: object) -> Iterator[type[KubeModel]]:
    if isinstance(annotation, type) and issubclass(annotation, KubeModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


# ------------------------------------------------------------------------------------------------------ from the source


def _modules() -> dict[str, ast.Module]:
    """The package's modules by name, parsed."""
    found: dict[str, ast.Module] = {}

    def walk(directory: Traversable, package: str) -> None:
        for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
            if entry.is_dir() and not entry.name.startswith("_"):
                walk(entry, f"{package}.{entry.name}")
            elif entry.name.endswith(".py"):
                name = entry.name.removesuffix(".py")
                module = package if name == "__init__" else f"{package}.{name}"
                found[module] = ast.parse(entry.read_text(encoding="utf-8"), module)

    walk(files("pktsim"), "pktsim")
    return found


def _words(tree: ast.Module) -> set[str]:
    """All string constants of a module."""
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


def _settings_read(modules: Mapping[str, ast.Module]) -> set[str]:
    """Settings that the kernel's modules read: whoever does names them, by the whole name or by its last part."""
    keepers = ("pktsim.kernel.sysctl", "pktsim.kernel.sysctl_defaults")
    kernel = [
        _words(tree) for name, tree in modules.items() if name.startswith("pktsim.kernel.") and name not in keepers
    ]
    found = set()
    for name in sysctl.setting_names():
        family, _, last = name.rpartition(".")
        # the devices' own keys have everyday names (mtu): whoever reads IPv6's also names the family
        wanted = {family.removesuffix(".IF"), last} if family == "net.ipv6.conf.IF" else {last}
        if any(name in words or wanted <= words for words in kernel):
            found.add(name)
    return found


def _approximations(modules: Mapping[str, ast.Module]) -> tuple[fidelity.Approximation, ...]:
    """What the whole package declares: the modules that declare something are imported."""
    for name, tree in modules.items():
        imported = any(isinstance(node, ast.ImportFrom) and node.module == "pktsim.fidelity" for node in ast.walk(tree))
        if imported:
            import_module(name)
    return fidelity.approximations()


def _refusals(modules: Mapping[str, ast.Module]) -> Iterator[Entry]:
    """Every place that refuses by name, in the words of its message."""
    entries: dict[tuple[str, str], Entry] = {}
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and _callee(node) in _REFUSERS:
                name = message_template(node.args[0])
                mends = [keyword.value for keyword in node.keywords if keyword.arg == "mend"] + node.args[1:2]
                how = message_template(mends[0]) if mends else ""
                if name.strip("…"):
                    how = how if how.strip("…") else ""
                    entries.setdefault((module, name), Entry(REFUSED_AREA, name, Status.REFUSED, how, module))
    return iter(sorted(entries.values(), key=lambda entry: (entry.where, entry.name)))


def _callee(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def message_template(node: ast.expr) -> str:
    """The text of an expression, with ``…`` for what is only known when it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message_template(part) for part in node.values)
    return "…"
