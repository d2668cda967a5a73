"""Hooks, tables, chains, rules, connection tracking and NAT of one network namespace.

Promises: what a rule set does to a packet is what Linux does. Must not know: interfaces beyond their names and numbers,
sockets, pods, Services. What it needs from above comes through small protocols defined here.
"""
