"""An Ingress is two connections: the client's ends in the controller's pod, whose own one goes to a pod and no Service.

Symptom: a capture at the pod shows neither the client nor the Service; policies and access logs see one address for
everybody; affinity, topology and internalTrafficPolicy of the Service do nothing; without endpoints users get a 503
where the Service would refuse them. Cause: client -> balancer -> node port -> controller is one flow, controller -> pod
another, to an endpoint that the controller took from EndpointSlices itself. Only X-Forwarded-For connects the two.
Source: ingress-nginx internal/ingress/controller/endpointslices.go; docs/user-guide/nginx-configuration/annotations.md
(service-upstream); the choice by host and path: kubernetes-sigs/ingress-controller-conformance.
"""

from pktsim.scenario.script import Story, seen, views, world

INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /old, pathType: Exact, backend: {service: {name: gone, port: {number: 80}}}}
"""
POD = "ingress-nginx/ingress-nginx-controller-1"
SHOP = "http://shop.example.com/"


def run(seed: int) -> Story:
    cluster = world(seed, load_balancer="nat")
    cluster.install_ingress(load_balancer_ip="198.51.100.20", node_ports=(30081, 30443))
    cluster.apply(INGRESS)
    yield cluster
    client, pod = cluster.outside, cluster.pod(POD).address
    yield "one address for all hosts: client to balancer, balancer to node port, node to the controller's pod"
    answers = [client.http_get(SHOP, connect_to="198.51.100.20") for _ in range(2)]
    assert seen(cluster, on="outside/eth0", direction="out", dst="198.51.100.20", dport=80, flags="S")
    assert seen(cluster, on="switch", dport=30081, flags="S")
    assert len(seen(cluster, on=f"{POD}/eth0", direction="in", dst=pod, dport=80, flags="S")) == 2
    yield "the controller asks pods in turn, at their own addresses: the Service's is on no wire"
    assert sorted(answer.text.partition(" saw ")[0] for answer in answers) == ["a", "b"]
    assert all(f" saw {pod}:" in answer.text for answer in answers)
    asked = views(cluster, on=f"{POD}/eth0", direction="out", dport=8080, flags="S")
    assert sorted(view.daddr for view in asked) == [bytes((10, 244, 1, 5)), bytes((10, 244, 2, 5))]
    assert not seen(cluster, dst="10.96.0.20")
    yield "the pod learns of the client from headers; here that is the node, which had to hide it to see the answer"
    (request, *_) = seen(cluster, on="default/a/eth0", direction="in", dport=8080, flags="P.")
    last = views(cluster, on=f"{POD}/eth0", direction="in", dst=pod, dport=80, flags="S")[-1]
    assert b"\r\nX-Forwarded-For: " + ".".join(map(str, last.saddr)).encode() in request.frame
    assert b"\r\nHost: shop.example.com\r\n" in request.frame
    yield "no such host: the default backend, which is nginx itself"
    assert client.http_get("http://www.example.com/", connect_to="198.51.100.20").status == 404
    assert seen(cluster, on=f"{POD}/lo", dst="127.0.0.1", dport=8181, flags="S")
    yield "a service that is not there: the connection stands, and the answer is 503"
    assert client.http_get(SHOP + "old", connect_to="198.51.100.20").status == 503
    yield "the last endpoint is gone: still 503 by the Ingress, while the Service itself refuses"
    cluster.delete("pod/a")
    assert client.http_get(SHOP, connect_to="198.51.100.20").text.startswith("b saw ")
    cluster.delete("pod/b")
    assert client.http_get(SHOP, connect_to="198.51.100.20").status == 503
    try:
        cluster.pod("client").http_get("http://10.96.0.20/")
    except OSError:
        assert seen(cluster, on="default/client/eth0", direction="in", text="*ICMP 10.96.0.20 tcp port 80 unreachable*")
    else:
        raise AssertionError("somebody answered")
    assert [line.split()[8] for line in cluster.logs(f"pod/{POD}").splitlines()] == ["200", "200", "503", "200", "503"]
