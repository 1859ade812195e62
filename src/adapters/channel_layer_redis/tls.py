"""How to speak TLS with a server: the options, in redis-py's names, and the context that is made of them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import describe_value
from channel_layer_redis._given_options import GivenOptions, bool_option, file_option, text_option

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("TLS", "TLS_OPTIONS", "Verify", "parse_tls")

TLS_OPTIONS: Final[Mapping[str, str]] = {
    "ssl_ca_certs": "file of the authorities to trust; the default is those of the system",
    "ssl_certfile": "file of the client's own certificate, for servers that ask for one",
    "ssl_keyfile": "file of its private key, if that is not in `ssl_certfile`",
    "ssl_password": "what the private key is encrypted with",
    "ssl_cert_reqs": '`"required"` (the default), `"optional"` (the same for a client) or `"none"`: '
    "any server is accepted",
    "ssl_check_hostname": "whether the certificate has to be for this host's name; `True`, unless "
    '`ssl_cert_reqs` is `"none"`',
}
"""The TLS options of a server and their meaning. None of them may be given with a ready context."""

_CONTEXT_HINT: Final = (
    'write "ssl_context" for it, beside a rediss:// address or "ssl": True, '
    "or ssl_ca_certs, ssl_certfile, ssl_keyfile and ssl_cert_reqs instead"
)

Verify = Literal["required", "optional", "none"]
"""How far a server's certificate is checked, in redis-py's words.

For a client ``"optional"`` is the same as ``"required"``; ``"none"`` accepts any server.
"""


@dataclass(frozen=True, slots=True)
class TLS:
    """How to speak TLS with one server.

    Attributes:
        ca_certs: file of the certificate authorities to trust; None: the ones that the system trusts.
        certfile: file of the client's certificate.
        keyfile: file of its private key; None: the key is in ``certfile``.
        password: what the private key is encrypted with.
        verify: how far the server's certificate is checked.
        check_hostname: whether the certificate has to be for the host's name.
        context: a ready context; all else is ignored then.
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    verify: Verify = "required"
    check_hostname: bool = True
    context: ssl.SSLContext | None = None

    def make_context(self) -> ssl.SSLContext:
        """Read the files and make the context that a connection needs.

        Raises:
            ConfigError: a file cannot be read, or is not what it should be.
        """
        if self.context is not None:
            return self.context
        try:
            context = ssl.create_default_context(cafile=self.ca_certs)
        except OSError as exc:
            raise _bad_file("ssl_ca_certs", self.ca_certs, exc) from exc
        context.check_hostname = self.check_hostname
        context.verify_mode = _VERIFY_MODES[self.verify]
        if self.certfile is not None:
            try:
                # A password that is missing must not make OpenSSL ask for it at the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, self.password or "")
            except OSError as exc:
                name = "ssl_certfile" if self.keyfile is None else "ssl_certfile and ssl_keyfile"
                files = self.certfile if self.keyfile is None else f"{self.certfile} and {self.keyfile}"
                raise _bad_file(name, files, exc) from exc
        return context


_VERIFY_MODES: Mapping[Verify, ssl.VerifyMode] = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


def _bad_file(name: str, files: str | None, exc: OSError) -> ConfigError:
    return ConfigError([FieldError(name, f"{files or 'the system'} cannot be used: {exc.strerror or exc}")])


def parse_tls(options: GivenOptions, errors: list[FieldError]) -> TLS | None:
    """Return how to speak TLS with a server, of which these are all options; None: in plain text, or some are wrong."""
    wanted = options.get("ssl")
    used = [name for name in (*TLS_OPTIONS, "ssl_context") if name in options]
    if wanted is not None and not isinstance(wanted.value, bool):
        hint = f": {_CONTEXT_HINT}" if isinstance(wanted.value, ssl.SSLContext) else ""
        errors.append(wanted.error(f"must be True or False, not {describe_value(wanted.value)}{hint}"))
        return None
    if wanted is None or not wanted.value:
        errors += [options[name].error('needs TLS: a rediss:// URL, or "ssl": True in a dict') for name in used]
        return None
    if "ssl_context" in options:
        given = options["ssl_context"]
        if not isinstance(given.value, ssl.SSLContext):
            errors.append(given.error(f"must be an ssl.SSLContext, not {describe_value(given.value)}"))
            return None
        other = [options[name] for name in used if name != "ssl_context"]
        errors += [option.error("does not go together with 'ssl_context': remove one") for option in other]
        return TLS(context=given.value)
    certfile = file_option(options, "ssl_certfile", errors)
    for name in ("ssl_keyfile", "ssl_password"):
        if name in options and options[name].value is not None and "ssl_certfile" not in options:
            errors.append(options[name].error("needs the certificate it is for: add ssl_certfile"))
    verify = _verify(options, errors)
    return TLS(
        ca_certs=file_option(options, "ssl_ca_certs", errors),
        certfile=certfile,
        keyfile=file_option(options, "ssl_keyfile", errors),
        password=text_option(options, "ssl_password", errors),
        verify=verify,
        check_hostname=_check_hostname(options, verify, errors),
    )


def _verify(options: GivenOptions, errors: list[FieldError]) -> Verify:
    given = options.get("ssl_cert_reqs")
    if given is None:
        return "required"
    if given.value is None:  # redis-py's other word for "none", and the one that most examples use
        return "none"
    value = given.value
    word = value.name.removeprefix("CERT_").lower() if isinstance(value, ssl.VerifyMode) else value
    for verify in _VERIFY_MODES:
        if verify == word:
            return verify
    shown = "another str" if isinstance(value, str) else describe_value(value)
    errors.append(given.error(f"must be 'required', 'optional' or 'none', not {shown}"))
    return "required"


def _check_hostname(options: GivenOptions, verify: Verify, errors: list[FieldError]) -> bool:
    check = bool_option(options, "ssl_check_hostname", errors, default=verify != "none")
    if check and verify == "none":
        errors.append(options["ssl_check_hostname"].error("cannot be True while ssl_cert_reqs is 'none': remove one"))
    return check
