"""kube-proxy: Services and EndpointSlices in, packet rules out. See README.md beside this file."""
