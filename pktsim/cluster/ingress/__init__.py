"""An ingress controller in a pod: HTTP in on one connection, HTTP out on another, which goes to an endpoint itself.

It is ingress-nginx as far as the wire, the log and the Ingress' status show it: which server and location a request
gets (:mod:`.routing`), which headers it is sent on with (:mod:`.messages`), which endpoint and connection it takes, and
when it is tried again (:mod:`.upstream`).

Source: kubernetes/ingress-nginx controller v1.15.1 (internal/ingress/controller, rootfs/etc/nginx/template/nginx.tmpl,
rootfs/etc/nginx/lua), and nginx 1.27 (src/http).
"""
