"""Which certificate a name gets.

Source: ingress-nginx internal/ingress/controller/controller.go (``createServers``, ``extractTLSSecretName``),
internal/net/ssl/ssl.go (``GetFakeSSLCert``), rootfs/etc/nginx/lua/certificate.lua.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from functools import cache

from pktsim.cluster.apps.tls import server_context
from pktsim.cluster.objects import Ingress, Secret
from pktsim.cluster.objects_ingress import TLS_CERTIFICATE, TLS_PRIVATE_KEY
from pktsim.errors import UnsupportedFeature
from pktsim.fidelity import approximated
from pktsim.kernel.capture import KeyLog

approximated(
    "ingress.http2",
    "TLS clients are offered HTTP/1.1 only, as with use-http2: false; the real one speaks HTTP/2 with those that can",
    source="ingress-nginx internal/ingress/controller/config/config.go UseHTTP2",
)

Secrets = Callable[[], dict[tuple[str, str], Secret]]

FAKE_NAME, FAKE_ORGANIZATION = "Kubernetes Ingress Controller Fake Certificate", "Acme Co"


class Certificates:
    """The contexts of a controller's TLS connections, made when they are first needed.

    Args:
        secrets: Gives all Secrets that are known.
        default: ``namespace/name`` of the certificate for names without one; a fake one if it is empty.
        key_log: Where the keys of connections go.
    """

    def __init__(self, secrets: Secrets, default: str, key_log: KeyLog | None) -> None:
        self._secrets = secrets
        self._default = default
        self._key_log = key_log
        self._contexts: dict[str, tuple[Secret, ssl.SSLContext | None]] = {}
        self._fake: ssl.SSLContext | None = None

    def context(self, key: str | None) -> ssl.SSLContext:
        """The context of a Secret, ``namespace/name``; of the default certificate if that is nothing, or no good."""
        for one in (key, self._default):
            if one and (found := self._of_secret(one)) is not None:
                return found
        if self._fake is None:
            self._fake = server_context(*fake_certificate(), self._key_log)
        return self._fake

    def choosing(self, choose: Callable[[str], str | None]) -> ssl.SSLContext:
        """A context for a new connection, which takes the certificate of the name that the client asks for."""
        # A context of its own: the call-back is a part of it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def named(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self.context(choose((name or "").lower()))

        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = named
        if self._key_log is not None:
            context.keylog_filename = str(self._key_log.path)
        return context

    def _of_secret(self, key: str) -> ssl.SSLContext | None:
        namespace, _, name = key.partition("/")
        secret = self._secrets().get((namespace, name))
        if secret is None:
            return None
        known = self._contexts.get(key)
        if known is None or known[0] is not secret:
            certificate, private = secret.value(TLS_CERTIFICATE), secret.value(TLS_PRIVATE_KEY)
            context = None
            if certificate and private:
                try:
                    context = server_context(certificate, private, self._key_log)
                except (ssl.SSLError, ValueError):
                    context = None  # logged by the real one, which goes on without
            known = self._contexts[key] = (secret, context)
        return known[1]

    def secret_for(self, host: str, ingress: Ingress) -> str | None:
        """The Secret with the certificate of a host: named for it, or with the host's name in it."""
        secrets = self._secrets()
        named = next((tls.secret_name for tls in ingress.spec.tls if host in map(str.lower, tls.hosts)), None)
        candidates = [named] if named is not None else [tls.secret_name for tls in ingress.spec.tls]
        for name in candidates:
            secret = secrets.get((ingress.namespace, name))
            if secret is not None and _covers(secret.value(TLS_CERTIFICATE) or b"", host):
                return name
        return None


def _covers(certificate: bytes, host: str) -> bool:
    """Whether a certificate is for a host: by its alternative names, or by its common name if it has none."""
    x509 = _cryptography().x509
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return False
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = list(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = [str(one.value) for one in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    wildcard = "*." + host.partition(".")[2]
    return any(name.lower() in (host, wildcard) for name in names)


@cache
def fake_certificate() -> tuple[bytes, bytes]:
    """The certificate for names without one, and its key, new in every process; it is for nobody's name."""
    library = _cryptography()
    x509, rsa, hashes, serialization = library.x509, library.rsa, library.hashes, library.serialization
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, FAKE_ORGANIZATION),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, FAKE_NAME),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(datetime(2049, 12, 31))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    private: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, private


class _Library:
    """What is used of cryptography, which takes a while to import."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.x509, self.hashes, self.serialization, self.rsa = x509, hashes, serialization, rsa


@cache
def _cryptography() -> _Library:
    try:
        return _Library()
    except ImportError:
        raise UnsupportedFeature("TLS without the package cryptography", mend="pip install cryptography") from None
