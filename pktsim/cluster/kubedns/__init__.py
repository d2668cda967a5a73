"""The DNS pod: CoreDNS 1.13 with the plugins that clusters use, answering byte for byte as it does.

``corefile`` reads the configuration; ``server`` is a server for one port of it, without any sockets: bytes in, bytes
out, and in between requests to other servers which whoever drives it carries out (``service`` does, over the sockets
of an emulated pod). One file per plugin. ``wire`` and ``dnsname`` follow the DNS library that CoreDNS is built on
(miekg/dns 1.1.68), because what is compressed, how long a message is taken to be and where it is cut are that
library's habits and not the protocol's.
"""
