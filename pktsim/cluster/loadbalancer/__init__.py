"""What stands in front of Services of type LoadBalancer: addresses from pools, five ways to bring packets to nodes."""
