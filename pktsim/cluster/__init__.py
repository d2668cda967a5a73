"""Kubernetes on top of the emulated nodes: objects, endpoint slices, kube-proxy, kube-dns, wiring.

Names are imported from the modules that define them; :class:`~pktsim.cluster.cluster.Cluster` is the face of it all.
"""
