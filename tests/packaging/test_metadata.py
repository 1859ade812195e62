"""What pyproject.toml says in several places is said in one voice."""

from __future__ import annotations

import importlib.metadata
import re

from pydantic import BaseModel

import channel_layer
from channel_layer_cli._main import BENCH_NEEDS
from tests.packaging.support import PACKAGES, ROOT, pyproject

_WORLDLY = {
    *("__init__", "blocking", "config", "courier", "discovery", "faults", "hosting", "layer", "loops", "schema"),
    *("sealing", "simple", "subscription", "threads", "typed", "waking"),
}
"""The modules of the core that may know event loops, threads, clocks, chance or Pydantic."""


class _Contract(BaseModel):
    """The parts of an import-linter contract that are compared here."""

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
    """Return the run-time requirements and those of the extras, without references from extra to extra."""
    extras = pyproject(dict[str, list[str]], "project", "optional-dependencies")
    groups = [pyproject(list[str], "project", "dependencies"), *extras.values()]
    return [item for group in groups for item in group if not item.startswith("channel-layer[")]


def test_version_is_said_once() -> None:
    """``channel_layer.__version__``, the installed metadata and pyproject.toml agree."""
    version = pyproject(str, "project", "version")
    assert channel_layer.__version__ == importlib.metadata.version("channel-layer") == version


def test_lowest_versions_are_the_declared_ones() -> None:
    """What `make lowest` installs is exactly the lower bounds of the requirements and the extras."""
    declared = {requirement.replace(">=", "==") for requirement in _requirements()}
    lines = (ROOT / "tests" / "packaging" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == declared


def test_requirements_have_a_lower_bound_and_no_upper_one() -> None:
    """A library that caps its dependencies takes them from its users: every requirement is a plain ``>=``."""
    for requirement in _requirements():
        assert re.fullmatch(r"[a-z-]+>=[0-9.]+", requirement), requirement


def test_all_means_every_extra() -> None:
    """The extra ``all`` names every other extra."""
    extras = pyproject(dict[str, list[str]], "project", "optional-dependencies")
    assert extras["all"] == [f"channel-layer[{','.join(sorted(extras.keys() - {'all'}))}]"]


def test_the_benchmark_asks_for_what_its_extra_installs() -> None:
    """What the command looks for before it loads the benchmark is the extra, package by package."""
    extra = pyproject(list[str], "project", "optional-dependencies", "bench")
    assert [requirement.partition(">=")[0] for requirement in extra] == list(BENCH_NEEDS)


def test_every_package_is_declared_everywhere() -> None:
    """A package that is added to src is shipped, expected in the wheel, and bound by the contracts."""
    sources = pyproject(dict[str, str], "tool", "hatch", "build", "targets", "wheel", "sources")
    assert sources == {folder.relative_to(ROOT).as_posix(): name for name, folder in PACKAGES.items()}
    assert pyproject(list[str], "tool", "check-wheel-contents", "toplevel") == sorted(PACKAGES)
    assert pyproject(list[str], "tool", "importlinter", "root_packages") == sorted(PACKAGES)
    layered = {name for layer in _contract("hexagon").layers for name in layer.split(" | ")}
    assert layered == set(_contract("acyclic").ancestors) == PACKAGES.keys()


def test_the_domain_is_bound_module_by_module() -> None:
    """Every module of the core, but the few that may know the world, is in the contract of purity."""
    modules = {path.stem for path in PACKAGES["channel_layer"].glob("*.py")}
    assert {f"channel_layer.{name}" for name in modules - _WORLDLY} == set(_contract("pure").source_modules)


def test_entry_points_lead_to_layers() -> None:
    """The adapters are announced in the group that third parties use, each by a name that loads a layer."""
    ours = {
        point.name: point.load()
        for point in importlib.metadata.entry_points(group="channel_layer.adapters")
        if point.dist is not None and point.dist.name == "channel-layer"
    }
    assert set(ours) == {"ipc", "memory", "redis", "redis-local"}
    assert all(issubclass(layer, channel_layer.ChannelLayer) for layer in ours.values())
    assert all(layer.config is not None for layer in ours.values())


def test_every_scheme_leads_to_a_layer_that_takes_it() -> None:
    """Each scheme that is announced makes a layer of the class that it is announced for."""
    schemes = pyproject(dict[str, str], "project", "entry-points", "channel_layer.schemes")
    for scheme, target in schemes.items():
        layer = channel_layer.from_url(f"{scheme}:///run/x.sock" if scheme.startswith("unix") else f"{scheme}://")
        assert f"{type(layer).__module__.partition('.')[0]}:{type(layer).__name__}" == target
