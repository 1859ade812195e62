"""Throw-away certificates for servers on 127.0.0.1.

`rediss://` is only proved by a real handshake against a certificate that a client must be told to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ("Certificates", "issue")


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of one certificate authority and of one server certificate it signed.

    Attributes:
        ca_file: the authority's certificate, which a client trusts.
        certificate_file: the server's certificate, for 127.0.0.1 and localhost.
        key_file: the server's private key.
    """

    ca_file: Path
    certificate_file: Path
    key_file: Path


def issue(directory: Path) -> Certificates:
    """Write a new authority and a server certificate into `directory`.

    A call for another directory makes another authority, for a client that must *not* trust the server.
    """
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    authority.cert_pem.write_to_path(files.ca_file)
    server.cert_chain_pems[0].write_to_path(files.certificate_file)
    server.private_key_pem.write_to_path(files.key_file)
    return files
