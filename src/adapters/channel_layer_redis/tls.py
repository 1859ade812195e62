"""How to speak TLS with a server: the options, in redis-py's names, and the context that is made of them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import describe_value
from channel_layer.validators import is_sequence
from channel_layer_redis._given_options import GivenOptions, bool_option, file_option, text_option

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("TLS", "TLS_OPTIONS", "Verify", "parse_tls")

TLS_OPTIONS: Final[Mapping[str, str]] = {
    "ssl_ca_certs": "file of the authorities to trust; the default is those of the system",
    "ssl_ca_path": "folder of such files, as `openssl rehash` prepares it",
    "ssl_ca_data": "the certificates of such authorities themselves: PEM text, or DER bytes",
    "ssl_certfile": "file of the client's own certificate, for servers that ask for one",
    "ssl_keyfile": "file of its private key, if that is not in `ssl_certfile`",
    "ssl_password": "what the private key is encrypted with",
    "ssl_cert_reqs": '`"required"` (the default), `"optional"` (the same for a client) or `"none"`: '
    "any server is accepted",
    "ssl_check_hostname": "whether the certificate has to be for this host's name; `True`, unless "
    '`ssl_cert_reqs` is `"none"`',
    "ssl_min_version": "the oldest version of TLS to speak: an `ssl.TLSVersion`, its number or its name, as in "
    '`"TLSv1_3"`',
    "ssl_ciphers": "the ciphers of TLS 1.2 and older, as OpenSSL writes such a list",
    "ssl_include_verify_flags": "flags to check certificates by, besides those of Python: a list of `ssl.VerifyFlags` "
    "or of their names",
    "ssl_exclude_verify_flags": "flags of Python not to check certificates by, as in `[ssl.VERIFY_X509_STRICT]`",
}
"""The TLS options of a server and their meaning. None of them may be given with a ready context."""

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
        ca_path: folder of files of certificate authorities to trust.
        ca_data: the certificates of authorities to trust: PEM text or DER bytes.
        min_version: the oldest version of TLS to speak; None: Python's choice.
        ciphers: the ciphers of TLS 1.2 and older, in OpenSSL's format; None: Python's choice.
        include_flags: flags to check certificates by, added to Python's.
        exclude_flags: flags that are removed from those.
        context: a ready context; all else is ignored then.
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    verify: Verify = "required"
    check_hostname: bool = True
    ca_path: str | None = None
    ca_data: str | bytes | None = field(default=None, repr=False)
    min_version: ssl.TLSVersion | None = None
    ciphers: str | None = None
    include_flags: int = 0
    exclude_flags: int = 0
    context: ssl.SSLContext | None = None

    def make_context(self) -> ssl.SSLContext:
        """Read the files and make the context that a connection needs.

        Raises:
            ConfigError: a file cannot be read, or is not what it should be.
        """
        if self.context is not None:
            return self.context
        try:
            context = ssl.create_default_context(cafile=self.ca_certs, capath=self.ca_path, cadata=self.ca_data)
        except OSError as exc:
            raise _bad_file("ssl_ca_certs", self.ca_certs, exc) from exc
        context.check_hostname = self.check_hostname
        context.verify_mode = _VERIFY_MODES[self.verify]
        context.verify_flags = ssl.VerifyFlags((context.verify_flags | self.include_flags) & ~self.exclude_flags)
        if self.min_version is not None:
            context.minimum_version = self.min_version
        if self.ciphers is not None:
            context.set_ciphers(self.ciphers)
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
    if wanted is not None and isinstance(wanted.value, ssl.SSLContext) and "ssl_context" not in options:
        options = {**options, "ssl_context": wanted}  # as aioredis 1 took it
        used.append("ssl_context")
    elif wanted is not None and not isinstance(wanted.value, bool):
        errors.append(wanted.error(f"must be True or False, not {describe_value(wanted.value)}"))
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
        ca_path=file_option(options, "ssl_ca_path", errors),
        ca_data=_ca_data(options, errors),
        min_version=_min_version(options, errors),
        ciphers=_ciphers(options, errors),
        include_flags=_flags(options, "ssl_include_verify_flags", errors),
        exclude_flags=_flags(options, "ssl_exclude_verify_flags", errors),
    )


def _verify(options: GivenOptions, errors: list[FieldError]) -> Verify:
    given = options.get("ssl_cert_reqs")
    if given is None:
        return "required"
    if given.value is None:  # redis-py's other word for "none", and the one that most examples use
        return "none"
    value = given.value
    word = value.name if isinstance(value, ssl.VerifyMode) else value
    if isinstance(word, str):  # of any case, and with the prefix that Celery's URLs have
        word = word.lower().removeprefix("cert_")
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


def _ca_data(options: GivenOptions, errors: list[FieldError]) -> str | bytes | None:
    given = options.get("ssl_ca_data")
    if given is None or given.value is None:
        return None
    value = given.value
    if isinstance(value, (str, bytes)):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
        except (OSError, ValueError):
            errors.append(given.error("must be one or more certificates as PEM text or DER bytes, and these are none"))
        return value
    errors.append(given.error(f"must be certificates as PEM text or DER bytes, not {describe_value(value)}"))
    return None


def _min_version(options: GivenOptions, errors: list[FieldError]) -> ssl.TLSVersion | None:
    given = options.get("ssl_min_version")
    if given is None or given.value is None:
        return None
    for version in ssl.TLSVersion:
        if given.value in (version, version.name, str(version.value)):
            return version
    names = ", ".join(version.name for version in ssl.TLSVersion if version > 0)
    errors.append(given.error(f"must be one of {names}, as an ssl.TLSVersion, its number or its name"))
    return None


def _ciphers(options: GivenOptions, errors: list[FieldError]) -> str | None:
    ciphers = text_option(options, "ssl_ciphers", errors)
    if ciphers is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(ciphers)
        except (OSError, ValueError):
            errors.append(options["ssl_ciphers"].error("must be a list of ciphers as OpenSSL writes it, and has none"))
    return ciphers


def _flags(options: GivenOptions, name: str, errors: list[FieldError]) -> int:
    """Read a list of flags or of their names; in a URL, a text with commas."""
    given = options.get(name)
    if given is None or given.value is None:
        return 0
    value = given.value
    if isinstance(value, str):
        value = [word.strip() for word in value.strip("[]").split(",")]
    flags = 0
    for each in value if is_sequence(value) else (None,):
        if isinstance(each, ssl.VerifyFlags):
            flags |= each
        elif isinstance(each, str) and each in ssl.VerifyFlags.__members__:
            flags |= ssl.VerifyFlags[each]
        else:
            errors.append(given.error("must be a list of ssl.VerifyFlags, or of their names"))
            break
    return flags
