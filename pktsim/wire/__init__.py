"""Frame bytes and capture files: what a packet looks like, and nothing about what a node does with it."""
