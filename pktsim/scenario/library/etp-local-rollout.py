"""A rollout under externalTrafficPolicy Local: a terminating pod that serves is used, one that does not is dropped.

Symptom: connections through a load balancer fail during each rollout. Cause: between the old pod's end and the new
one's start a node may have no ready pod, while the balancer still sends to it. Since KEP-1669 the terminating pod
takes new connections as long as it serves; if it does not, packets are dropped, however many ready pods there are
elsewhere.
Source: KEP-1669, kubernetes/kubernetes#85643, #99299; pkg/proxy/topology.go. Found on Linux 6.18: the rules'
outcomes.
"""

from pktsim.scenario.script import Story, front, world

SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: front-1, labels: {kubernetes.io/service-name: front}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.5], nodeName: node1, conditions: {ready: READY, serving: SERVING, terminating: TERMINATING}}
- {addresses: [10.244.2.5], nodeName: node2, conditions: {ready: true, serving: true, terminating: false}}
"""
NODE1 = "http://192.168.1.11:30080/"


def slices(ready: str, serving: str, terminating: str) -> str:
    return SLICE.replace("READY", ready).replace("SERVING", serving).replace("TERMINATING", terminating)


def run(seed: int) -> Story:
    cluster = world(seed, front("LoadBalancer", "Local", selector={}), slices("true", "true", "false"))
    yield cluster
    health = "http://192.168.1.11:30999/healthz"
    yield "before the rollout"
    assert cluster.outside.http_get(NODE1).text.startswith("a saw 203.0.113.9:")
    yield "terminating and serving: new connections still go there, while the health port tells the balancer to go away"
    cluster.apply(slices("false", "true", "true"))
    cluster.run(2)
    assert cluster.outside.http_get(NODE1).text.startswith("a saw 203.0.113.9:")
    assert cluster.outside.http_get(health).status == 503
    yield "terminating and not serving: dropped, although node2 has a ready one"
    cluster.apply(slices("false", "false", "true"))
    cluster.run(2)
    try:
        cluster.outside.http_get(NODE1, timeout=2)
    except TimeoutError:
        pass
    else:
        raise AssertionError("somebody answered")
    yield "node2 was never touched"
    assert cluster.outside.http_get("http://192.168.1.12:30080/").text.startswith("b saw 203.0.113.9:")
