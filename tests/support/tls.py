"""Issues throw-away certificates for servers on 127.0.0.1.

Only a real handshake with a certificate that the client has to be told to trust proves that `rediss://` works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ("CLIENT_PASSWORD", "Certificates", "issue")

CLIENT_PASSWORD: Final = "hidden-client"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files of a certificate authority and of a server certificate that it signed.

    Attributes:
        ca_file: the authority's certificate, which a client trusts.
        certificate_file: the server's certificate, for 127.0.0.1 and localhost.
        key_file: the server's private key.

    Beside them are ``client.pem`` and ``client.key``, for a client, and ``client-encrypted.key``, whose password is
    `CLIENT_PASSWORD`.
    """

    ca_file: Path
    certificate_file: Path
    key_file: Path


def issue(directory: Path) -> Certificates:
    """Write a new authority and a server certificate into `directory`.

    A call for another directory makes another authority, for a client that must *not* trust the server.

    Args:
        directory: an existing directory.
    """
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    authority.cert_pem.write_to_path(files.ca_file)
    server.cert_chain_pems[0].write_to_path(files.certificate_file)
    server.private_key_pem.write_to_path(files.key_file)
    client = authority.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    client.private_key_pem.write_to_path(directory / "client.key")
    key = load_pem_private_key(client.private_key_pem.bytes(), password=None)
    encryption = BestAvailableEncryption(CLIENT_PASSWORD.encode())
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    (directory / "client-encrypted.key").write_bytes(encrypted)
    return files
