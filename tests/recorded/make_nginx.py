"""Records what nginx says to clients and endpoints: ``unshare -n python -m tests.recorded.make_nginx`` (root, nginx).

The configuration has the directives that ingress-nginx writes for a location (rootfs/etc/nginx/template/nginx.tmpl).
What its Lua does (endpoints, redirects) and its headers-more module (no ``Server``) are not in it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

FILE = Path(__file__).with_name("nginx-answers.json")
_PORT, _ENDPOINT = 80, 3000
_QUIET_S = 0.5

_CONFIGURATION = """
worker_processes 1; pid {directory}/pid; error_log {directory}/error; daemon off;
events {{}}
http {{
  access_log off; server_tokens off; keepalive_timeout 75s; keepalive_requests 1000; reset_timedout_connection on;
  server_name_in_redirect off; port_in_redirect off; client_header_buffer_size 1k; large_client_header_buffers 4 8k;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream endpoints {{ server 127.0.0.1:{endpoint} max_fails=0; keepalive 320; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      client_max_body_size 1m;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Request-ID $http_x_request_id;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Scheme $scheme;
      proxy_set_header X-Scheme $scheme;
      proxy_set_header X-Original-Forwarded-For $http_x_forwarded_for;
      proxy_set_header X-Original-Forwarded-Host $http_x_forwarded_host;
      proxy_set_header Proxy "";
      proxy_buffering off; proxy_buffer_size 4k; proxy_buffers 4 4k; proxy_request_buffering on;
      proxy_http_version 1.1; proxy_cookie_domain off; proxy_cookie_path off; proxy_redirect off;
      proxy_next_upstream error timeout; proxy_next_upstream_tries 3;
      proxy_pass http://endpoints;
    }}
  }}
}}
"""

_GET = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-Request-ID: 7\r\n\r\n"
_HOST = b"Host: shop.example.com\r\nX-Request-ID: 7\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
#: Name, what the client says, and what the endpoint answers before it closes.
CASES: list[tuple[str, bytes, bytes]] = [
    ("get", b"GET /a?b=c HTTP/1.1\r\n" + _HOST + b"User-Agent: me\r\nAccept: */*\r\n\r\n", _OK),
    ("close", b"GET / HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n", _OK),
    ("head", b"HEAD / HTTP/1.1\r\n" + _HOST + b"\r\n", _OK[:-2]),
    ("post", b"POST /p HTTP/1.1\r\n" + _HOST + b"Content-Type: t/x\r\nContent-Length: 3\r\n\r\nabc", _OK),
    (
        "post chunked",
        b"POST /p HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        _OK,
    ),
    ("post nothing", b"POST /p HTTP/1.1\r\n" + _HOST + b"Content-Length: 0\r\n\r\n", _OK),
    ("pipelined", b"GET /1 HTTP/1.1\r\n" + _HOST + b"\r\nGET /2 HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("old client", b"GET / HTTP/1.0\r\n" + _HOST + b"\r\n", _OK),
    ("old client that stays", b"GET / HTTP/1.0\r\n" + _HOST + b"Connection: keep-alive\r\n\r\n", _OK),
    ("absolute target", b"GET http://shop.example.com/x HTTP/1.1\r\nHost: b\r\nX-Request-ID: 7\r\n\r\n", _OK),
    ("dots in the path", b"GET /a/../b//c HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    (
        "what ends at a proxy",
        b"GET / HTTP/1.1\r\n" + _HOST + b"TE: trailers\r\nKeep-Alive: 5\r\nProxy: x\r\nX_Y: 1\r\n"
        b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: h\r\nX-Forwarded-Proto: https\r\nCookie: a=b\r\n\r\n",
        _OK,
    ),
    ("upgrade refused", b"GET / HTTP/1.1\r\n" + _HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", _OK),
    (
        "upgrade",
        b"GET / HTTP/1.1\r\n" + _HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: 1\r\n\r\nhello",
    ),
    ("answer in chunks", _GET,
     b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nContent-Type: a/b\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("answer to its end", _GET, b"HTTP/1.0 200 OK\r\nServer: x\r\nDate: y\r\n\r\nhello"),
    ("answer to its end, old client", b"GET / HTTP/1.0\r\n" + _HOST + b"\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"),
    ("answer with what ends at a proxy", _GET,
     b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: 3\r\nX-Accel-Buffering: no\r\nX-Pad: x\r\nSet-Cookie: a\r\n"
     b"Set-Cookie: b\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    ("no content", _GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("not modified", _GET, b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
    ("an error of the endpoint", _GET,
     b"HTTP/1.1 404 Gone Fishing\r\nContent-Length: 2\r\n\r\nno"),
    ("the endpoint only closes", b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n", b""),
    ("the endpoint speaks something else", b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n", b"\x00\x01nonsense\r\n\r\n"),
    ("too long a head", _GET,
     b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"),
    ("the answer breaks off", _GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
    ("no host", b"GET / HTTP/1.1\r\n\r\n", _OK),
    ("no request", b"hello\r\n\r\n", _OK),
    ("small letters", b"get / HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("another version", b"GET / HTTP/2.0\r\n" + _HOST + b"\r\n", _OK),
    ("trace", b"TRACE / HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("connect", b"CONNECT a:1 HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("two hosts", b"GET / HTTP/1.1\r\n" + _HOST + b"Host: b\r\n\r\n", _OK),
    ("no host's name", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", _OK),
    ("above the root", b"GET /../x HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("no percent", b"GET /%zz HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("two lengths",
     b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", _OK),
    ("no number", b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: x\r\n\r\n", _OK),
    ("bad chunk", b"POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", _OK),
    ("too large", b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 9999999\r\n\r\n", _OK),
    ("too large, expected",
     b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n", _OK),
    ("expected", b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", _OK),
    ("long target", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", _OK),
    ("long header", b"GET / HTTP/1.1\r\n" + _HOST + b"X: " + b"a" * 9000 + b"\r\n\r\n", _OK),
]  # fmt: skip


def _endpoint(listener: socket.socket, answer: bytes, heard: list[bytes]) -> None:
    """Answer each connection's first request, and close."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(_QUIET_S)
            with contextlib.suppress(OSError):
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                with contextlib.suppress(TimeoutError):
                    if b"\r\nContent-Length: " in data:
                        while len(data.partition(b"\r\n\r\n")[2]) < int(
                            data.split(b"\r\nContent-Length: ")[1].split()[0]
                        ):
                            data += connection.recv(65536)
                heard.append(data)
                connection.sendall(answer)
            connection.close()


def _ask(request: bytes) -> tuple[bytes, str]:
    client = socket.create_connection(("127.0.0.1", _PORT))
    client.settimeout(_QUIET_S)
    client.sendall(request)
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except TimeoutError:
        return data, "open"
    except ConnectionResetError:
        return data, "RST"
    finally:
        client.close()
    return data, "FIN"


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(directory=directory, port=_PORT, endpoint=_ENDPOINT))
        Path(directory).chmod(0o777)
        nginx = subprocess.Popen(["nginx", "-c", str(configuration), "-p", directory])
        try:
            for name, request, answer in CASES:
                listener = socket.create_server(("127.0.0.1", _ENDPOINT))
                heard: list[bytes] = []
                threading.Thread(target=_endpoint, args=(listener, answer, heard), daemon=True).start()
                while True:
                    try:
                        said, end = _ask(request)
                        break
                    except ConnectionRefusedError:
                        continue
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
                parts = {"request": request, "answer": answer, "client": said, "endpoint": b"".join(heard)}
                found[name] = {key: value.decode("latin-1") for key, value in parts.items()} | {"end": end}
        finally:
            nginx.terminate()
            nginx.wait()
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} cases in {FILE}")


if __name__ == "__main__":
    main()
