"""Issues throw-away certificates for servers on 127.0.0.1.

Only a real handshake with a certificate that the client has to be told to trust proves that `rediss://` works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ("Certificates", "issue")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files of a certificate authority and of a server certificate that it signed.

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

    Args:
        directory: an existing directory.
    """
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    authority.cert_pem.write_to_path(files.ca_file)
    server.cert_chain_pems[0].write_to_path(files.certificate_file)
    server.private_key_pem.write_to_path(files.key_file)
    return files
