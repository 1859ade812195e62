"""Facts that pyproject.toml states in several places agree with each other and with the source."""

from __future__ import annotations

import importlib.metadata
import re

from pydantic import BaseModel

import channel_layer
from channel_layer_cli._main import BENCH_NEEDS
from tests.packaging.support import PACKAGES, ROOT, pyproject

_IMPURE = {
    *("__init__", "blocking", "config", "discovery", "layer", "schema", "subscription", "typed"),
    *("runtime", "stores", "testing", "validators"),
}
"""The modules and packages of the core that may use event loops, threads, clocks, randomness or Pydantic."""


class _Contract(BaseModel):
    """The parts of an import-linter contract that these tests compare."""

    id: str
    layers: list[str] = []
    ancestors: list[str] = []
    source_modules: list[str] = []


def _contract(name: str) -> _Contract:
    """Return the contract with the id *name*."""
    contracts = pyproject(list[_Contract], "tool", "importlinter", "contracts")
    [found] = [contract for contract in contracts if contract.id == name]
    return found


def _requirements() -> list[str]:
    """Return the requirements of the distribution and of its extras, without references from extra to extra."""
    extras = pyproject(dict[str, list[str]], "project", "optional-dependencies")
    groups = [pyproject(list[str], "project", "dependencies"), *extras.values()]
    return [item for group in groups for item in group if not item.startswith("channel-layer[")]


def test_the_versions_agree() -> None:
    """``channel_layer.__version__``, the installed metadata and pyproject.toml agree."""
    version = pyproject(str, "project", "version")
    assert channel_layer.__version__ == importlib.metadata.version("channel-layer") == version


def test_lowest_versions_are_the_declared_ones() -> None:
    """`make lowest` installs exactly the lower bounds of the requirements and the extras."""
    declared = {requirement.replace(">=", "==") for requirement in _requirements()}
    lines = (ROOT / "tests" / "packaging" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == declared


def test_requirements_have_a_lower_bound_and_no_upper_one() -> None:
    """Every requirement is a plain ``>=``: an upper bound would keep users of the library from newer releases."""
    for requirement in _requirements():
        assert re.fullmatch(r"[a-z-]+>=[0-9.]+", requirement), requirement


def test_all_means_every_extra() -> None:
    """The extra ``all`` names every other extra."""
    extras = pyproject(dict[str, list[str]], "project", "optional-dependencies")
    assert extras["all"] == [f"channel-layer[{','.join(sorted(extras.keys() - {'all'}))}]"]


def test_the_benchmark_asks_for_what_its_extra_installs() -> None:
    """The packages that the command requires before it loads the benchmark are those of the extra."""
    extra = pyproject(list[str], "project", "optional-dependencies", "bench")
    assert [requirement.partition(">=")[0] for requirement in extra] == list(BENCH_NEEDS)


def test_every_package_is_declared_everywhere() -> None:
    """Every package of src is in the wheel, in the check of the wheel and in the import contracts."""
    sources = pyproject(dict[str, str], "tool", "hatch", "build", "targets", "wheel", "sources")
    assert sources == {folder.relative_to(ROOT).as_posix(): name for name, folder in PACKAGES.items()}
    assert pyproject(list[str], "tool", "check-wheel-contents", "toplevel") == sorted(PACKAGES)
    assert pyproject(list[str], "tool", "importlinter", "root_packages") == sorted(PACKAGES)
    layered = {name for layer in _contract("hexagon").layers for name in layer.split(" | ")}
    assert layered == set(_contract("acyclic").ancestors) == PACKAGES.keys()


def test_the_pure_contract_covers_the_rest_of_the_core() -> None:
    """Every module and package of the core that is not in `_IMPURE` is in the contract ``pure``."""
    folder = PACKAGES["channel_layer"]
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert {f"channel_layer.{name}" for name in names - _IMPURE} == set(_contract("pure").source_modules)


def test_entry_points_lead_to_layers() -> None:
    """The entry points of the adapters, in the group that third parties use too, load layers."""
    ours = {
        point.name: point.load()
        for point in importlib.metadata.entry_points(group="channel_layer.adapters")
        if point.dist is not None and point.dist.name == "channel-layer"
    }
    assert set(ours) == {"ipc", "memory", "redis", "redis-local"}
    assert all(issubclass(layer, channel_layer.ChannelLayer) for layer in ours.values())
    assert all(layer.config is not None for layer in ours.values())


def test_every_scheme_leads_to_a_layer_that_takes_it() -> None:
    """A URL of each scheme makes a layer of the class that the entry point of the scheme names."""
    schemes = pyproject(dict[str, str], "project", "entry-points", "channel_layer.schemes")
    for scheme, target in schemes.items():
        places = {"unix": "/run/x.sock", "+sentinel": "sentinel/service", "+cluster": "node"}
        place = next((place for form, place in places.items() if form in scheme), "")
        layer = channel_layer.from_url(f"{scheme}://{place}")
        assert f"{type(layer).__module__.partition('.')[0]}:{type(layer).__name__}" == target
