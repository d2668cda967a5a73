"""pktsim: Kubernetes service networking, packet by packet, on simulated wires."""
