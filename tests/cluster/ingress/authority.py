"""Certificates for tests, made while they run."""

from __future__ import annotations

import base64
import functools
from datetime import datetime
from typing import Any

import pytest

pytest.importorskip("cryptography")  # a dependency: missing only in an environment that is older than it

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_BEGIN, _END = datetime(2020, 1, 1), datetime(2049, 12, 31)


class Authority:
    """One that others believe."""

    def __init__(self, name: str = "Test Authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        found = self._signed(self._name, self._key, x509.CertificateBuilder().add_extension(constraints, critical=True))
        self.pem: str = found.public_bytes(serialization.Encoding.PEM).decode()

    def _signed(self, name: Any, key: Any, builder: Any) -> Any:
        begun = builder.subject_name(name).issuer_name(self._name).public_key(key.public_key())
        dated = begun.serial_number(x509.random_serial_number()).not_valid_before(_BEGIN).not_valid_after(_END)
        return dated.sign(self._key, hashes.SHA256())

    def certificate(self, *names: str) -> tuple[str, str]:
        """A certificate for these names and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0].replace("*", "any"))])
        found = self._signed(subject, key, x509.CertificateBuilder().add_extension(alternative, critical=False))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return found.public_bytes(serialization.Encoding.PEM).decode(), private.decode()

    def secret(self, name: str, *names: str) -> dict[str, Any]:
        """A Secret with a certificate for these names."""
        parts = (base64.b64encode(part.encode()).decode() for part in self.certificate(*names))
        data = dict(zip(("tls.crt", "tls.key"), parts, strict=True))
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/tls",
            "data": data,
        }


@functools.cache
def authority() -> Authority:
    """The one of this run."""
    return Authority()
