"""One node's kernel: namespaces, devices, routing, neighbours, IP, sockets and the processes that use them."""
