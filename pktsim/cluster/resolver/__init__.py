"""The resolver in each pod: from a name in a program to queries on the wire, as its C library does it.

``conf`` is ``/etc/resolv.conf``, also as the kubelet writes it; ``hosts`` is ``/etc/hosts``; ``glibc`` and ``musl`` are
the two libraries, which agree in little. They run on the sockets of a pod (``client``), or on anything that looks like
them.
"""

from __future__ import annotations

from .client import PodResolver, ResolutionError, pod_resolver, resolve

__all__ = ["PodResolver", "ResolutionError", "pod_resolver", "resolve"]
