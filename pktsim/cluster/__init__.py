"""Kubernetes on top of the emulated nodes: objects, endpoint slices, kube-proxy, kube-dns, wiring."""
