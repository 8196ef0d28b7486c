"""Topologies of the user's own: found by "file.py:Name" or "module:Name", and made.

Name is a class derived from Mininet's Topo, anything else that returns one when it is called, or a key of the `topos`
that Mininet's own `--custom` files have. The file is the user's and is not changed by any of this.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology.quietly import Topo


def load_topo(shape: str) -> Topo:
    """The topology that `shape` names, made anew. Raises PlanError, saying what its code said.

    What its code prints goes to stderr: stdout has the drawing, the JSON or the answers of who asked for it.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return _loaded(shape)


def _loaded(shape: str) -> Topo:
    where, _, name = shape.rpartition(":")
    module = _module(where, shape=shape)
    make = getattr(module, name, None) or _topos(module).get(name)
    if make is None:
        raise PlanError(f'fabric.shape: {where} has no "{name}"; it has {_those_there_are(module)}.')
    if not callable(make):
        raise PlanError(
            f"fabric.shape: {shape} is a {type(make).__name__}, of which no topology can be made; "
            f"{where} has {_those_there_are(module)}."
        )
    topo = _called(make, shape=shape)
    if not isinstance(topo, Topo):
        raise PlanError(
            f"fabric.shape: {shape} is no topology: calling it gave a {type(topo).__name__}; "
            "name a class derived from mininet.topo.Topo."
        )
    return topo


def _module(where: str, *, shape: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where)
        # A name of its own for each file; registered, since dataclasses and pickle look a module up by its name.
        name = f"unnoticed_topo_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PlanError(f"fabric.shape: {where} cannot be read as Python.")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except PlanError:
        raise
    except (Exception, SystemExit) as error:
        raise PlanError(f"fabric.shape: importing {where} failed: {_said(error, shape)}") from error


def _called(make: Callable[[], Any], *, shape: str) -> Any:
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise PlanError(f"fabric.shape: making {shape} failed: {_said(error, shape)}") from error


def _said(error: BaseException, shape: str) -> str:
    """The error in one line, with the line of the user's file that it came from, where it came from there."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if shape.startswith(frame.filename)]
    line = f" (line {own[-1].lineno})" if own else ""
    words = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{f': {words}' if words else ''}{line}."


def _topos(module: ModuleType) -> Mapping[Any, Any]:
    topos = getattr(module, "topos", None)
    return topos if isinstance(topos, Mapping) else {}


def _those_there_are(module: ModuleType) -> str:
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Topo) and value.__module__ == module.__name__
    ]
    names = [*classes, *(str(name) for name, make in _topos(module).items() if callable(make))]
    return f"the topologies {', '.join(names)}" if names else "no topology at all"
