"""CONFIG: what is accepted and what becomes of it, and a table of mistakes with what is said to each."""

from __future__ import annotations

import hashlib
import inspect
import re
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, SecretBytes, ValidationError

from channel_layer.config import CommonConfig, parse
from channel_layer.domain.rules import Encryption
from channel_layer.errors import ChannelLayerError, ConfigError, ConfigWarning, FieldError
from channel_layer.options import Accepts, ChannelPattern, describe_unknown, describe_value
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.addresses import ClusterNodes, SentinelService, ServerAddress, TCPAddress, UnixAddress
from channel_layer_redis.config import RedisConfig
from channel_layer_redis.hosts import parse_hosts
from channel_layer_redis.tls import TLS
from tests.support import reference, tls
from tests.support.mistakes import KEY, MISTAKES


class Number(int):
    """An int whose repr tells something else."""

    def __repr__(self) -> str:
        return "secret"


def errors_of(options: Mapping[str, object], model: type[CommonConfig] = RedisConfig) -> tuple[FieldError, ...]:
    """Return what is wrong with a CONFIG."""
    with pytest.raises(ConfigError) as caught:
        parse(model, options)
    return caught.value.errors


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "field", "fragment"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_one_error_that_names_its_field_and_the_mend(
    options: Mapping[str, object], field: str, fragment: str
) -> None:
    """One mistake is one `FieldError`, at the field where it was written, with a mend and no secret."""
    (error,) = errors_of(options)
    assert error.field == field
    assert fragment in error.problem
    problem = error.problem.lower().replace("credential", "")
    assert not any(secret in problem for secret in ("hid", "den", "4711"))


def test_every_option_has_a_mistake_in_the_table() -> None:
    """The table leaves no option out."""
    fields = {re.split(r"[.\[]", field)[0] for _, field, _ in MISTAKES.values()}
    assert set(RedisConfig.model_fields) <= fields


def test_all_mistakes_come_at_once_in_the_order_of_the_options() -> None:
    """One error tells of every field, those included that pydantic does not see, in whatever order."""
    errors = errors_of(
        {
            "capcity": 5,
            "db": 1,
            "hosts": ["a", ("b", 0), {"host": "", "port": -1}],
            "timeout": 0,
            "channel_capacity": {"[": 0, "b": 0},
            "prefix": "{",
        }
    )
    assert [error.field for error in errors] == [
        "prefix",
        'channel_capacity["["]',
        'channel_capacity["["]',
        'channel_capacity["b"]',
        "timeout",
        "hosts[0]",
        "hosts[1].port",
        "hosts[2].host",
        "hosts[2].port",
        "db",
        "capcity",
    ]


def test_a_wrong_sentinel_is_told_all_its_mistakes() -> None:
    """Each mistake in a Sentinel dict is told at its place."""
    sentinel = {
        "sentinels": [("a", "x"), "b", ("c",)],
        "db": "x",
        "host": "a",
        "sentinel_kwargs": {"password": 5, "pasword": "hidden", "ssl_ca_certs": "/x"},
    }
    assert [error.field for error in errors_of({"hosts": [sentinel]})] == [
        "hosts[0].host",
        "hosts[0].sentinel_kwargs.pasword",
        "hosts[0].sentinel_kwargs.password",
        "hosts[0].sentinel_kwargs.ssl_ca_certs",
        "hosts[0].sentinels[0].port",
        "hosts[0].sentinels[1]",
        "hosts[0].sentinels[2]",
        "hosts[0].master_name",
        "hosts[0].db",
    ]
    nothing: list[object] = []
    for sentinels in (None, nothing, "a"):
        wrong = {"sentinels": sentinels, "master_name": "m"}
        assert [error.field for error in errors_of({"hosts": [wrong]})] == ["hosts[0].sentinels"]
    assert [error.field for error in errors_of({"hosts": [{"master_name": "m"}]})] == ["hosts[0].sentinels"]
    kwargs = {"sentinels": [("a", 1)], "master_name": "m", "sentinel_kwargs": 5}
    assert [error.field for error in errors_of({"hosts": [kwargs]})] == ["hosts[0].sentinel_kwargs"]


@pytest.mark.parametrize("sentinel", [("a", 26379), ["a", 26379]])
def test_a_service_is_written_as_a_dict_or_as_a_url(sentinel: object) -> None:
    """Both give the same; the options of the primary are not those of the sentinels, but for TLS in a URL."""
    written = {"sentinels": [sentinel, ("b", 7)], "master_name": "m", "db": 2, "username": "u", "password": "p"}
    kwargs = {"username": "s", "password": "t"}
    (service,) = parse_hosts([{**written, "sentinel_kwargs": kwargs}])
    assert (service,) == parse_hosts(["redis+sentinel://u:p@a,b:7/2/m?sentinel_username=s&sentinel_password=t"])
    assert isinstance(service, SentinelService)
    assert [(each.host, each.port, each.password) for each in service.sentinels] == [("a", 26379, "t"), ("b", 7, "t")]
    assert (service.master_name, service.server.db, service.server.password) == ("m", 2, "p")
    (plain,) = parse_hosts([written])
    assert isinstance(plain, SentinelService)
    assert {each.password for each in plain.sentinels} == {None}
    (secure,) = parse_hosts(["valkeys+sentinel://[::1]:7/m?ssl_cert_reqs=none"])
    assert isinstance(secure, SentinelService)
    for address in (secure.server, *secure.sentinels):
        assert address.tls is not None
        assert address.tls.verify == "none"
    assert secure.label == "rediss+sentinel://[::1]:7/0/m"
    assert "p@ss" not in repr(parse_hosts(["redis+sentinel://:p%40ss@a/m"]))


def test_a_cluster_is_written_as_a_dict_or_as_a_url() -> None:
    """Both give the same; the options are those of the connections to every node."""
    written = {"cluster": [("a", 6379), ["b", 7]], "partitions": 8, "username": "u", "password": "p"}
    (cluster,) = parse_hosts([written])
    assert (cluster,) == parse_hosts(["redis+cluster://u:p@a,b:7?partitions=8"])
    assert isinstance(cluster, ClusterNodes)
    assert [(node.host, node.port, node.password) for node in cluster.nodes] == [("a", 6379, "p"), ("b", 7, "p")]
    assert (cluster.partitions, cluster.label) == (8, "redis+cluster://a:6379,b:7")
    (secure,) = parse_hosts([{"cluster": ["a", 1], "ssl": True, "address_remap": tuple}])
    assert isinstance(secure, ClusterNodes)
    assert (secure.partitions, secure.nodes[0].tls is None, secure.address_remap is None) == (64, False, False)


def test_several_services_are_several_shards() -> None:
    """What tells them apart is the name of the service and the database; sentinels and credentials do not matter."""
    layer = {"hosts": ["redis+sentinel://a,b/0/one", "redis+sentinel://:secret@b/1/one", "redis+sentinel://a/two"]}
    identities = [server.identity for server in parse(RedisConfig, layer).servers]
    assert identities == ["sentinel:one/0", "sentinel:one/1", "sentinel:two/0"]


def test_a_wrong_address_does_not_hide_what_is_wrong_beside_it() -> None:
    """Beside a URL that cannot be read, the other keys are checked, and TLS options not called useless."""
    fields = [
        error.field
        for error in errors_of(
            {"hosts": [{"address": "http://a", "db": "x", "ssl": False, "ssl_ca_certs": "/x", "dbb": 1}]}
        )
    ]
    assert fields == ["hosts[0].dbb", "hosts[0].address", "hosts[0].db"]


def test_a_config_error_is_ours_and_pydantic_does_not_hang_on_it() -> None:
    """It is a `ChannelLayerError` and a `ValueError`; pydantic's, which holds values, is not its context."""
    with pytest.raises(ChannelLayerError) as caught:
        parse(CommonConfig, {"symmetric_encryption_keys": ["hidden"], "expiry": "hidden", "hidden_": 1})
    assert type(caught.value) is ConfigError
    assert issubclass(ConfigError, ValueError)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_key_that_is_no_str_is_an_error() -> None:
    """An option's name that is no str is told like any other mistake."""
    options: dict[str, object] = {"expiry": 5}
    options.update({5: 1})  # type: ignore[dict-item]  # a CONFIG from outside holds anything
    (error,) = errors_of(options)
    assert error.field == "5"


def test_a_common_layer_knows_no_hosts() -> None:
    """The options of one layer are unknown to another, and its list of options names its own only."""
    (error,) = errors_of({"hosts": ["redis://a"]}, CommonConfig)
    assert error.field == "hosts"
    assert error.problem.startswith("unknown option")
    assert error.problem.endswith("inbox_capacity, timeout, faults")


# -- what is accepted ----------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_reference() -> None:
    """A CONFIG without options has the documented defaults, as numbers of the documented types."""
    config = parse(RedisConfig, {})
    rules = config.rules()
    assert config.servers == (TCPAddress("localhost", 6379, db=0),)
    assert config.symmetric_encryption_keys == ()
    assert (rules.prefix, rules.expiry, rules.group_expiry, rules.timeout) == ("asgi:", 60.0, 86400.0, 5.0)
    assert (rules.default_capacity, rules.channel_capacity, rules.inbox_capacity) == (100, {}, 10_000)
    assert rules.max_message_size == 4 * 1024 * 1024
    assert rules.capacity.of("anything") == 100
    assert {type(value) for value in (rules.expiry, rules.group_expiry, rules.timeout)} == {float}


def test_every_option_arrives_in_the_rules() -> None:
    """Each option that is given is what the core gets, ints as seconds included."""
    rules = parse(
        CommonConfig,
        {
            "prefix": "p",
            "expiry": 1,
            "group_expiry": None,
            "capacity": 2,
            "channel_capacity": {"http.*": 3},
            "symmetric_encryption_keys": [KEY, SecretBytes(b"other" * 8)],
            "encryption": "fernet",
            "blind_names": KEY.encode(),
            "max_message_size": 4,
            "inbox_capacity": 5,
            "timeout": 0.25,
        },
    ).rules()
    assert (rules.prefix, rules.expiry, rules.group_expiry, rules.default_capacity) == ("p", 1.0, None, 2)
    assert (rules.max_message_size, rules.inbox_capacity, rules.timeout) == (4, 5, 0.25)
    assert rules.channel_capacity == {"http.*": 3}
    first, second = (SecretBytes(hashlib.sha256(key).digest()) for key in (KEY.encode(), b"other" * 8))
    assert rules.encryption == Encryption((first, second), "fernet", first)
    assert (rules.capacity.of("http.request"), rules.capacity.of("chat")) == (3, 2)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"blind_names": True}, KEY),
        ({"blind_names": "other" * 8}, "other" * 8),
        ({}, None),
        ({"blind_names": False}, None),
    ],
)
def test_names_are_blinded_with_the_key_that_is_said(options: dict[str, object], names: str | None) -> None:
    """``blind_names=True`` takes the one key there is; a key stands for itself; else names stay as they are."""
    encryption = parse(CommonConfig, {"symmetric_encryption_keys": [KEY], **options}).rules().encryption
    assert encryption is not None
    assert encryption.cipher == "aes-256-gcm"
    assert encryption.names == (None if names is None else SecretBytes(hashlib.sha256(names.encode()).digest()))


def test_short_keys_are_warned_of() -> None:
    """A key under 32 bytes is a warning with its field and how to make one, where the layer is made; 32 are enough."""
    with pytest.warns(ConfigWarning) as warned:
        MemoryChannelLayer(symmetric_encryption_keys=["x" * 32, "hidden"], blind_names=b"hidden!")
    texts = [str(each.message) for each in warned]
    assert [each.filename for each in warned] == [__file__] * 2
    assert [text.partition(":")[0] for text in texts] == ["symmetric_encryption_keys[1]", "blind_names"]
    assert all(text.endswith("make one with: channel-layer genkey") for text in texts)
    assert "hidden" not in "".join(texts)


def test_no_repr_shows_a_key() -> None:
    """A configuration and its rules can be shown to anyone."""
    config = parse(RedisConfig, {"symmetric_encryption_keys": [KEY], "blind_names": KEY})
    shown = f"{config!r} {config} {config.rules()!r}"
    assert "hidden" not in shown
    assert hashlib.sha256(KEY.encode()).hexdigest() not in shown
    assert repr(hashlib.sha256(KEY.encode()).digest()) not in shown


def test_a_prefix_may_be_any_text_without_braces() -> None:
    """Nothing but braces is special in a prefix: it may be empty, or hold what looks like a pattern."""
    for prefix in ("", "*", "a\n", "é:", "[a-z]?"):
        assert parse(CommonConfig, {"prefix": prefix}).prefix == prefix


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("http.request", "http.request", "http.request2"),
        ("http.*", "http.", "https."),
        ("HTTP.*", "HTTP.x", "http.x"),
        ("a?c", "a?c", "ac"),
        ("a[bc]", "ac", "ad"),
        ("a[!bc]", "ad", "ab"),
        ("[]a]", "a", "b"),
        ("resp?*", "resp?x7", "resp"),
        ("re:http", "http.request", "xhttp"),
        ("re:http$", "http", "http.request"),
        (re.compile("http"), "http.request", "xhttp"),
        (re.compile("HTTP", re.IGNORECASE), "http", "xhttp"),
    ],
)
def test_a_pattern_is_a_whole_glob_or_a_regex_from_the_start(
    pattern: ChannelPattern, matching: str, other: str
) -> None:
    """A str is a glob for the whole name, in its case; a regex, compiled or as text, matches at the start."""
    rules = parse(CommonConfig, {"channel_capacity": {pattern: 7}}).rules()
    assert (rules.capacity.of(matching), rules.capacity.of(other)) == (7, 100)


def test_the_first_pattern_wins_in_the_order_of_the_mapping() -> None:
    """An OrderedDict that was reordered is tried in that order, not in that of insertion."""
    patterns: OrderedDict[str, int] = OrderedDict([("*", 1), ("http.*", 2), ("http.request", 3)])
    assert parse(CommonConfig, {"channel_capacity": patterns}).rules().capacity.of("http.request") == 1
    patterns.move_to_end("*")
    patterns.move_to_end("http.request", last=False)
    rules = parse(CommonConfig, {"channel_capacity": patterns}).rules()
    assert [rules.capacity.of(name) for name in ("http.request", "http.x", "x")] == [3, 2, 1]
    assert list(rules.channel_capacity) == ["http.request", "http.*", "*"]


def test_a_configuration_does_not_change_with_the_dict_it_came_from() -> None:
    """What the caller does to its mapping afterwards has no effect, and nobody can change the rules' own."""
    patterns = {"a": 1}
    rules = parse(CommonConfig, {"channel_capacity": patterns}).rules()
    patterns["a"] = 2
    assert rules.channel_capacity == {"a": 1}
    assert rules.capacity.of("a") == 1
    assert not hasattr(rules.channel_capacity, "__setitem__")


def test_a_model_is_frozen() -> None:
    """A configuration cannot be changed after it was checked."""
    config = parse(CommonConfig, {})
    with pytest.raises(ValidationError):
        config.capacity = 0


# -- hosts ---------------------------------------------------------------------------------------------------

SECURE = TLS()
UNSAFE = TLS(verify="none", check_hostname=False)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("redis://", TCPAddress()),
        ("redis://a", TCPAddress("a")),
        ("REDIS://A:1/2", TCPAddress("a", 1, db=2)),
        ("redis://a:1/2/", TCPAddress("a", 1, db=2)),
        ("redis://a/?db=2", TCPAddress("a", db=2)),
        ("redis://:p@a", TCPAddress("a", password="p")),
        ("redis://u@a", TCPAddress("a", username="u")),
        ("redis://u:p:%2F%40%3a+@a", TCPAddress("a", username="u", password="p:/@:+")),
        ("redis://:p@ss@a", TCPAddress("a", password="p@ss")),
        ("redis://a?username=u&password=p%20q", TCPAddress("a", username="u", password="p q")),
        ("redis://[::1]:1", TCPAddress("::1", 1)),
        ("redis://[0:0:0:0:0:0:0:1]", TCPAddress("::1")),
        ("redis://[::FFFF:7f00:1]", TCPAddress("::ffff:127.0.0.1")),
        ("redis://[fe80::1%25eth0]", TCPAddress("fe80::1%eth0")),
        ("redis://127.0.0.1", TCPAddress("127.0.0.1")),
        ("valkey://a", TCPAddress("a")),
        ("rediss://a", TCPAddress("a", tls=SECURE)),
        ("valkeys://a", TCPAddress("a", tls=SECURE)),
        ("rediss://a?ssl_cert_reqs=none", TCPAddress("a", tls=UNSAFE)),
        ("rediss://a?ssl_cert_reqs=optional", TCPAddress("a", tls=TLS(verify="optional"))),
        ("rediss://a?ssl_check_hostname=False", TCPAddress("a", tls=TLS(check_hostname=False))),
        (
            "rediss://a?ssl_ca_certs=/c&ssl_certfile=/e&ssl_keyfile=/k&ssl_password=p",
            TCPAddress("a", tls=TLS(ca_certs="/c", certfile="/e", keyfile="/k", password="p")),
        ),
        ("redis://a?health_check_interval=2.5", TCPAddress("a", health_check_interval=2.5)),
        ("redis://a?health_check_interval=0", TCPAddress("a", health_check_interval=0)),
        ("redis://a?socket_keepalive=no", TCPAddress("a", socket_keepalive=False)),
        ("unix:///run/r.sock?health_check_interval=30", UnixAddress("/run/r.sock", health_check_interval=30)),
        ("unix:///run/r.sock", UnixAddress("/run/r.sock")),
        ("unix://u:p@/run/r%20s@1?db=3", UnixAddress("/run/r s@1", db=3, username="u", password="p")),
        (("A", 1), TCPAddress("a", 1)),
        (["::1", 1], TCPAddress("::1", 1)),
        (["[::1]", 1], TCPAddress("::1", 1)),
        ({"host": "a", "port": 1, "db": 2}, TCPAddress("a", 1, db=2)),
        ({"db": 2}, TCPAddress(db=2)),
        ({"health_check_interval": 5, "socket_keepalive": True}, TCPAddress(health_check_interval=5.0)),
        ({"host": "a", "username": "u", "password": "p"}, TCPAddress("a", username="u", password="p")),
        ({"host": "a", "username": None, "password": None}, TCPAddress("a")),
        ({"host": "a", "password": ""}, TCPAddress("a")),
        ({"host": "a", "ssl": False}, TCPAddress("a")),
        ({"host": "a", "ssl": True, "ssl_cert_reqs": ssl.CERT_NONE}, TCPAddress("a", tls=UNSAFE)),
        ({"host": "a", "ssl": True, "ssl_cert_reqs": None}, TCPAddress("a", tls=UNSAFE)),
        ({"host": "a", "ssl": True, "ssl_ca_certs": Path("/c")}, TCPAddress("a", tls=TLS(ca_certs="/c"))),
        ({"host": "a", "ssl": True, "ssl_ca_certs": None, "ssl_keyfile": None}, TCPAddress("a", tls=SECURE)),
        ({"address": "redis://:p@a:1/2"}, TCPAddress("a", 1, db=2, password="p")),
        ({"address": "redis://a", "db": 2, "password": "p"}, TCPAddress("a", db=2, password="p")),
        ({"address": "redis://:p@a", "password": None}, TCPAddress("a", password="p")),
        (
            {"address": "redis://:p@a/1", "password": "p", "db": 1, "ssl": False},
            TCPAddress("a", db=1, password="p"),
        ),
        ({"address": "rediss://a", "ssl": True, "ssl_cert_reqs": None}, TCPAddress("a", tls=UNSAFE)),
        ({"address": "unix:///run/r.sock", "db": 1}, UnixAddress("/run/r.sock", db=1)),
    ],
)
def test_each_form_of_a_host_is_read(written: object, host: ServerAddress) -> None:
    """URLs, pairs and dicts, with what can be said in them, come out as the same kind of `ServerAddress`."""
    assert parse_hosts([written]) == (host,)


def test_the_old_literal_is_one_pair_and_two_urls_are_two() -> None:
    """``["localhost", 6379]`` and its tuple are one server; only a str and a number together are read so."""
    for pair in (["localhost", 6379], ("localhost", 6379)):
        assert parse(RedisConfig, {"hosts": pair}).servers == (TCPAddress("localhost", 6379),)
    assert parse_hosts(("redis://a", "redis://b")) == (TCPAddress("a"), TCPAddress("b"))
    assert parse_hosts([("a", 1), ("b", 2)]) == (TCPAddress("a", 1), TCPAddress("b", 2))


def test_shorthand_is_one_host() -> None:
    """``host``, ``port`` and ``db``, any of them, make one server; the rest of it is the default's."""
    assert parse(RedisConfig, {"host": "Redis", "db": 4}).servers == (TCPAddress("redis", 6379, db=4),)
    assert parse(RedisConfig, {"port": 1}).servers == (TCPAddress("localhost", 1),)
    assert parse(RedisConfig, {"host": "[::1]"}).servers == (TCPAddress("::1"),)


def test_an_identity_says_where_and_never_who() -> None:
    """The identity is the host in lower case, port and database, or socket and database: no login."""
    hosts = parse_hosts(["rediss://u:p@A:1/2", "redis://[::1]", "unix://u:p@/run/r.sock?db=3"])
    assert [host.identity for host in hosts] == ["a:1/2", "[::1]:6379/0", "/run/r.sock/3"]
    assert [host.label for host in hosts] == [
        "rediss://a:1/2",
        "redis://[::1]:6379/0",
        "unix:///run/r.sock?db=3",
    ]


def test_databases_of_one_server_are_different_hosts() -> None:
    """Several databases of one server, or of one socket, may be listed: they are shards of their own."""
    hosts = parse_hosts(["redis://a/0", "redis://a/1", "unix:///r", "unix:///r?db=1"])
    assert len({host.identity for host in hosts}) == 4


def test_a_repr_shows_no_password() -> None:
    """Neither a host nor a configuration shows the password of a login or of a private key."""
    config = parse(RedisConfig, {"hosts": ["rediss://u:hidden@a?ssl_certfile=/e&ssl_password=hidden2"]})
    (server,) = config.servers
    assert isinstance(server, TCPAddress)
    assert server.password == "hidden"
    assert server.tls is not None
    assert server.tls.password == "hidden2"
    assert "hidden" not in f"{config!r} {config} {config.servers!r} {config.rules()!r}"


# -- TLS -----------------------------------------------------------------------------------------------------


def test_a_tls_context_checks_the_server_unless_it_is_told_not_to() -> None:
    """By default certificate and name are checked; each can be turned off, and only that one is."""
    context = TLS().make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = TLS(check_hostname=False).make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    context = UNSAFE.make_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_tls_context_trusts_the_given_authority_and_shows_the_given_certificate(tmp_path: Path) -> None:
    """A context trusts only the authority that is named, and takes the client's certificate and key."""
    files = tls.issue(tmp_path)
    options = TLS(ca_certs=str(files.ca_file), certfile=str(files.certificate_file), keyfile=str(files.key_file))
    assert len(options.make_context().get_ca_certs()) == 1


def test_a_ready_context_is_used_as_it_is() -> None:
    """``ssl_context`` is the context of the connection, the same object."""
    ready = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (host,) = parse_hosts([{"address": "rediss://a", "ssl_context": ready}])
    assert isinstance(host, TCPAddress)
    assert host.tls is not None
    assert host.tls.make_context() is ready


def test_a_certificate_that_cannot_be_read_is_an_error_of_its_option(tmp_path: Path) -> None:
    """A missing or wrong file is a `ConfigError` that names option and file, and shows no password."""
    files = tls.issue(tmp_path)
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("no certificate", encoding="ascii")
    for options, field, file in (
        (TLS(ca_certs=str(missing)), "ssl_ca_certs", "missing.pem cannot be used: No such file"),
        (TLS(ca_certs=str(wrong)), "ssl_ca_certs", "wrong.pem cannot be used"),
        (TLS(certfile=str(missing)), "ssl_certfile", "missing.pem cannot be used"),
        (
            TLS(certfile=str(files.certificate_file), keyfile=str(wrong), password="hidden"),
            "ssl_certfile and ssl_keyfile",
            "wrong.pem cannot be used",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            options.make_context()
        (error,) = caught.value.errors
        assert error.field == field
        assert file in error.problem
        assert "hidden" not in error.problem


# -- for other adapters --------------------------------------------------------------------------------------


class OtherConfig(CommonConfig):
    """What a third party writes."""

    refused: ClassVar[Mapping[str, str]] = {"file": "write path"}

    path: Annotated[str, Accepts("the path of a file")] = "queue.db"
    pages: tuple[int, ...] = Field(default=())


def test_another_adapter_gets_the_same_errors_for_options_of_its_own() -> None:
    """A subclass has the common options and its own, errors in the same words, and refusals of its own."""
    assert parse(OtherConfig, {"path": "a", "capacity": 1}).path == "a"
    errors = errors_of({"path": 5, "file": "x", "pages": (1, "2"), "pathh": 1}, OtherConfig)
    assert [error.field for error in errors] == ["path", "pages[1]", "file", "pathh"]
    assert errors[0].problem == "must be the path of a file, not 5"
    assert errors[1].problem == "Input should be a valid integer"
    assert errors[2].problem == "write path"
    assert "did you mean 'path'?" in errors[3].problem


def test_values_are_described_by_kind_unless_they_are_plain_numbers() -> None:
    """An error shows None, bools and numbers, and of all else the kind only."""
    described = [describe_value(value) for value in (None, True, -5, 0.5, "x", b"x", [1], Number(5), OtherConfig())]
    assert described == ["None", "True", "-5", "0.5", "a str", "a bytes", "a list", "5", "an OtherConfig"]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    """The closest known name is offered if one is close, and all are listed."""
    assert (
        describe_unknown("hosst", ["hosts", "db"]) == "unknown option, did you mean 'hosts'? the options are hosts, db"
    )
    assert describe_unknown("zzz", ["hosts", "db"]) == "unknown option; the options are hosts, db"


# -- the page ------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_models_say() -> None:
    """docs/reference/configuration.md is generated: ``python -m tests.support.reference`` writes it."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.configuration()


def test_the_schemas_are_what_the_command_prints() -> None:
    """docs/reference/*.schema.json are generated by the same command."""
    assert {file: file.read_text(encoding="utf-8") for file in reference.schemas()} == reference.schemas()
    assert {*reference.PAGE.parent.glob("*.schema.json")} == reference.schemas().keys()


def test_the_page_shows_the_mistakes() -> None:
    """The table of mistakes has at least 40, each with the whole text that its writer gets."""
    rows = [
        row for row in reference.configuration().splitlines() if row.startswith(tuple(f"| {m} | " for m in MISTAKES))
    ]
    assert len(rows) >= 40
    assert len(MISTAKES) - len(rows) <= 6  # those that are too long to show, or differ from run to run


def test_the_defaults_on_the_page_are_the_defaults() -> None:
    """What the page shows as the default of ``hosts`` is read as what is the default."""
    assert '| `[("localhost", 6379)]` |' in reference.configuration()
    assert parse(RedisConfig, {"hosts": [("localhost", 6379)]}).servers == parse(RedisConfig, {}).servers


@pytest.mark.parametrize(("layer", "model"), [(MemoryChannelLayer, CommonConfig), (RedisChannelLayer, RedisConfig)])
def test_the_keyword_arguments_of_a_layer_are_the_options_with_their_defaults(
    layer: type[MemoryChannelLayer | RedisChannelLayer], model: type[CommonConfig]
) -> None:
    """Every option is a keyword argument, and what its signature shows as the default is the documented one."""
    arguments = inspect.signature(layer).parameters
    assert set(model.model_fields) <= set(arguments)
    shown = {name: arguments[name].default for name in model.model_fields}
    given = {name: value for name, value in shown.items() if value is not None}
    assert parse(model, given) == parse(model, {})
    assert {name for name, value in shown.items() if value is None} <= {
        "channel_capacity",
        "faults",
        "hosts",
        "host",
        "port",
        "db",
    }
