"""Which plugins there are, in the order in which they work, whatever the order in the Corefile.

Source: coredns v1.13.1, core/dnsserver/zdirectives.go.
"""

from __future__ import annotations

import difflib

from pktsim.errors import ObjectError, UnsupportedFeature

from . import any as any_plugin
from . import autopath, bufsize, cache, forward, hosts, kubernetes, loadbalance, local, minimal, rewrite, template
from .corefile import Directive, ServerBlock
from .plugin import Handler, Link, Setup, SetupFunction

#: Plugins that change no answer: they report, measure or watch the process. ``loop`` sends one question to itself when
#: it starts and stops the process if that comes back, which cannot happen to a configuration that works.
HARMLESS = frozenset({
    "cancel", "debug", "dnstap", "errors", "health", "log", "loop", "metadata", "pprof", "prometheus", "ready",
    "reload", "root", "trace",
})  # fmt: skip

#: All that are modelled, and how each reads its options.
MODELLED: dict[str, SetupFunction] = {
    "bufsize": bufsize.setup,
    "local": local.setup,
    "any": any_plugin.setup,
    "loadbalance": loadbalance.setup,
    "cache": cache.setup,
    "rewrite": rewrite.setup,
    "autopath": autopath.setup,
    "minimal": minimal.setup,
    "template": template.setup,
    "hosts": hosts.setup,
    "kubernetes": kubernetes.setup,
    "forward": forward.setup,
}

#: CoreDNS's own order.
ORDER = (
    "root", "metadata", "geoip", "cancel", "tls", "quic", "timeouts", "multisocket", "reload", "nsid",
    "bufsize", "bind", "debug", "trace", "ready", "health", "pprof", "prometheus", "errors", "log", "dnstap",
    "local", "dns64", "acl", "any", "chaos", "loadbalance", "tsig", "cache", "rewrite", "header", "dnssec",
    "autopath", "minimal", "template", "transfer", "hosts", "route53", "azure", "clouddns", "k8s_external",
    "kubernetes", "file", "auto", "secondary", "etcd", "loop", "forward", "grpc", "erratic", "whoami", "on",
    "sign", "view", "nomad",
)  # fmt: skip


def build_chain(block: ServerBlock, context: Setup) -> Handler | None:
    """Set up a block's plugins and put them into their order.

    Returns:
        The first of them; ``None`` if the block has none that answers.

    Raises:
        ObjectError: CoreDNS would not start with it.
        UnsupportedFeature: It has a plugin or option that is not modelled.
    """
    by_name: dict[str, list[Directive]] = {}
    for directive in block.directives:
        name = directive.name
        if name not in ORDER:
            near = difflib.get_close_matches(name, ORDER, n=1)
            raise ObjectError(
                f"unknown plugin {name!r}",
                file=directive.file,
                line=directive.line,
                mend=f"did you mean {near[0]!r}?" if near else "",
            )
        if name not in MODELLED and name not in HARMLESS:
            raise UnsupportedFeature(f"plugin {name}", mend="remove it", file=directive.file, line=directive.line)
        by_name.setdefault(name, []).append(directive)
    links: list[Link] = []
    for name in ORDER:
        if name in by_name and name in MODELLED:
            links += MODELLED[name](by_name[name], context)
    handler: Handler | None = None
    for link in reversed(links):
        handler = link(handler)
        context.chain.setdefault(handler.name, handler)
    return handler
