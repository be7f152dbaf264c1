"""Flower apps as fedrad finds them: a folder, the defaults in its ``pyproject.toml``, and the two apps it names."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fedrad
from fedrad.errors import ConfigError, place_of
from fedrad.keys import flatten

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

App = TypeVar("App", "ServerApp", "ClientApp")


def app_folder(app: str) -> Path:
    """The folder of a simulation app, by path or by name.

    Raises:
        ConfigError: there is none.
    """
    shipped = shipped_apps()
    name = app.replace("-", "_")  # a package's name has no dash, but ct-rate is how the corpus is written elsewhere
    for candidate in (Path(app), shipped / app, shipped / name, Path.cwd() / "simulations" / app):
        if (candidate / "pyproject.toml").is_file():
            return candidate.resolve()
    known = sorted(p.parent.name for p in shipped.glob("*/pyproject.toml"))
    close = get_close_matches(app.replace("-", "_"), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"{app}: no Flower app of that name or folder; {hint}there are {', '.join(known) or 'none here'}")


def shipped_apps() -> Path:
    """The folder with the apps that come with fedrad: inside the package in a wheel, beside it in a checkout."""
    package = Path(fedrad.__file__).resolve().parent
    inside = package / "simulations"
    return inside if inside.is_dir() else package.parent / "simulations"


def app_defaults(folder: Path) -> dict[str, object]:
    """The app's run configuration, with dotted keys.

    Raises:
        ConfigError: its ``pyproject.toml`` is not that of a Flower app.
    """
    return flatten(_table(folder, "config"))


def load_apps(folder: Path) -> tuple[ServerApp, ClientApp]:
    """The two apps that ``[tool.flwr.app.components]`` of the folder's ``pyproject.toml`` names.

    Raises:
        ConfigError: one of them can't be loaded.
    """
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    components = _table(folder, "components")
    return (
        _load(folder, "serverapp", components.get("serverapp"), ServerApp),
        _load(folder, "clientapp", components.get("clientapp"), ClientApp),
    )


def _load(folder: Path, key: str, reference: object, kind: type[App]) -> App:
    where = f"{folder / 'pyproject.toml'}: tool.flwr.app.components.{key}"
    module, _, names = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not module or not names:
        raise ConfigError(f'{where}: must name a module and an object, as in "mimic.client_app:app"')
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: {module} can't be imported: there is no module {error.name}") from None
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__} at {place_of(error)}"
        raise ConfigError(f"{where}: {module} can't be imported: {problem}") from None
    for name in names.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, kind):
        raise ConfigError(f"{where}: {reference} is no {kind.__name__}")
    return found


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The app's modules can be imported, as in a process of its own, and are forgotten afterwards.

    Other apps may have modules of the same names: those of before are put aside meanwhile.
    """
    packages = {
        str(reference).partition(":")[0].partition(".")[0] for reference in _table(folder, "components").values()
    }
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in packages}
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            package = name.partition(".")[0]
            if (folder / package).is_dir() or (folder / f"{package}.py").is_file():
                del sys.modules[name]
        sys.modules.update(aside)


def _table(folder: Path, name: str) -> Mapping[str, Any]:
    file = folder / "pyproject.toml"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["flwr"]["app"][name]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: can't be read ({type(error).__name__})") from None
    except (KeyError, TypeError):
        raise ConfigError(f"{file}: there is no table tool.flwr.app.{name}, so this is no Flower app") from None
    if not isinstance(table, Mapping):
        raise ConfigError(f"{file}: tool.flwr.app.{name} must be a table")
    return table
