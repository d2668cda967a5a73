"""Experiments as data: Kubernetes objects, what is done with them, and what must come of it."""
