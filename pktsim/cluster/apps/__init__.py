"""What runs in pods, on nodes and outside: servers and clients on the sockets of a namespace.

Each is an ``async def`` to be started with :func:`pktsim.kernel.task.spawn`, and takes what it needs as arguments: the
socket layer of the namespace it runs in, and, where names occur, a function that resolves them.
"""
