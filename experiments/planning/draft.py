"""A plan that is being checked: its document, where everything stands in it, and every mistake found in it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unnoticed.errors import PlanError
from unnoticed.experiments.planning import checks, demands
from unnoticed.experiments.planning.demands import BudgetTable, ClauseTable
from unnoticed.experiments.planning.document import (
    Document,
    Keys,
    holds,
    is_table_list,
    leaves,
    merged,
    put,
    remove,
    slices,
    value_at,
)
from unnoticed.experiments.planning.fields import dimension_of
from unnoticed.experiments.planning.grid import Case, Expected, factor_names, points, size_of_grid
from unnoticed.experiments.planning.idle_keys import idle_conflicts
from unnoticed.experiments.planning.problems import Problem, dotted, sentence_of, shown, suggestion
from unnoticed.experiments.planning.settings import Settings
from unnoticed.experiments.planning.toml_lines import Path

MOST_TRIALS = 100_000
SECTIONS = tuple(Settings.model_fields)


class CaseHead(BaseModel):
    """What a [[case]] holds besides its sections."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    expect: Expected = "completed"


class Head(BaseModel):
    """What a plan holds besides its sections. Cases are given without theirs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    repeats: int = Field(default=1, ge=1, le=MOST_TRIALS)
    seed: int = 1
    case: list[CaseHead] = Field(default_factory=list)
    clause: list[ClauseTable] = Field(default_factory=list)
    budget: list[BudgetTable] = Field(default_factory=list)


TABLE_LISTS = (("fabric", "schedule"),)
TOP_LEVEL = (*Head.model_fields, *SECTIONS)


class Draft:
    """A plan that is being checked. Take in the command line's changes by `override` and `put`, then `check`."""

    def __init__(self, *, file: str, folder: FilePath, document: Document, lines: dict[Path, int]) -> None:
        self.file = file
        self._context = {"folder": folder}
        self.document = document
        self.overridden: dict[Path, str] = {}
        self.body: Document = {}
        self.cases: list[Case] = []
        self._lines = lines
        self._problems: dict[str, int] = {}  # the sentence, complete, and the line to sort by

    def override(self, text: str) -> None:
        """Take in one `--set` of the command line."""
        key, equals, raw = (part.strip() for part in text.partition("="))
        path = tuple(key.split("."))
        if not equals or not raw or not all(path):
            self._add_plain(f'--set {text}: write it as key=value, like --set guest.memory="512 MiB".')
            return
        if path[0] not in TOP_LEVEL:
            self._add_plain(f'--set {key}: there is no key "{path[0]}" in a plan{suggestion(path[0], TOP_LEVEL)}')
            return
        if path[0] in ("case", "clause", "budget"):
            self._add_plain(f"--set {key}: a [[{path[0]}]] cannot be changed from the command line; copy the plan.")
            return
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw
        self.put(path, value, spelling=f"--set {text}")

    def put(self, path: Keys, value: Any, *, spelling: str) -> None:
        try:
            put(self.document, path, value)
        except KeyError as error:
            self._add_plain(f"{spelling}: {error.args[0]} is no table in this plan.")
            return
        self.overridden[path] = spelling

    def check(self) -> Head:
        """Find every mistake; raise PlanError if there is one."""
        document = self.document
        for key in document:
            if key not in TOP_LEVEL:
                self.add(
                    Problem(path=(key,), sentence=f'there is no key "{key}" in a plan{suggestion(key, TOP_LEVEL)}')
                )
        self.body = {key: document[key] for key in SECTIONS if key in document}
        tables = {kind: self._tables(kind) for kind in ("case", "clause", "budget")}
        head = self._head(tables)
        self.cases = self._cases(tables["case"])
        self._check_lists()
        broken = self._check_fields()
        self._check_grid(broken)
        names = [case.name for case in self.cases if case.name]
        factors = factor_names(self.body, self.cases)
        for kind in ("clause", "budget"):
            for path, sentence in demands.mistakes(tables[kind], kind=kind, cases=names, factors=factors):
                self.add(Problem(path=path, sentence=sentence))
        if self._problems or head is None:
            raise PlanError(*sorted(self._problems, key=lambda sentence: self._problems[sentence]))
        return head

    def add(self, problem: Problem) -> None:
        path = problem.path
        field = dotted(path)
        for changed, spelling in self.overridden.items():
            if path[: len(changed)] == changed:
                start = spelling.partition("=")[0] if "=" in spelling else spelling
                self._problems.setdefault(f"{start}: {problem.sentence}", 0)
                return
        while path and path not in self._lines:
            path = path[:-1]
        line = self._lines.get(path, 1)
        if field.startswith("[[case]]") and isinstance(problem.path[1], int):
            name = self._case_name(problem.path[1])
            field = field.replace(f"[[case]] {problem.path[1] + 1}", f"[[case]] {name}", 1)
        self._problems.setdefault(f"{self.file}:{line}: {field}: {problem.sentence}", line)

    def _add_plain(self, sentence: str) -> None:
        self._problems.setdefault(sentence, 0)

    def _case_name(self, number: int) -> str:
        cases = self.document["case"]
        name = cases[number].get("name") if isinstance(cases[number], dict) else None
        return shown(name) if isinstance(name, str) and name else str(number + 1)

    def _tables(self, kind: str) -> list[dict[str, Any]]:
        value = self.document.get(kind, [])
        if isinstance(value, list) and all(isinstance(element, dict) for element in value):
            return value
        self.add(Problem(path=(kind,), sentence=f"is not a list of tables; write [[{kind}]] above each of them."))
        return []

    def _head(self, tables: dict[str, list[dict[str, Any]]]) -> Head | None:
        head: Document = {key: self.document[key] for key in ("question", "repeats", "seed") if key in self.document}
        head["case"] = [{key: value for key, value in case.items() if key not in SECTIONS} for case in tables["case"]]
        head |= {kind: tables[kind] for kind in ("clause", "budget")}
        try:
            return Head.model_validate(head)
        except ValidationError as error:
            known = {
                "case": (*CaseHead.model_fields, *SECTIONS),
                "clause": tuple(ClauseTable.model_fields),
                "budget": tuple(BudgetTable.model_fields),
            }
            for detail in error.errors():
                sentence = sentence_of(detail, known=known.get(str(detail["loc"][0]), TOP_LEVEL), dimension=None)
                if detail["type"] == "missing" and len(detail["loc"]) > 1:
                    sentence = f"is missing; every [[{detail['loc'][0]}]] must have it."
                self.add(Problem(path=detail["loc"], sentence=sentence))
            return None

    def _cases(self, tables: list[dict[str, Any]]) -> list[Case]:
        cases: list[Case] = []
        for number, table in enumerate(tables):
            name, expected = table.get("name"), table.get("expect")
            if isinstance(name, str) and any(name == case.name for case in cases):
                self.add(
                    Problem(path=("case", number, "name"), sentence=f"{shown(name)} is the name of an earlier case.")
                )
            cases.append(
                Case(
                    name=name if isinstance(name, str) else f"{number + 1}",
                    expected=next((word for word in get_args(Expected) if word == expected), "completed"),
                    overrides={key: table[key] for key in SECTIONS if key in table},
                )
            )
        return cases or [Case(name="", expected="completed", overrides={})]

    def _sources(self) -> Iterator[tuple[Path, Document]]:
        """The plan's own sections and each case's, with the path that they stand under."""
        yield (), self.body
        for number, case in enumerate(self.cases):
            if case.overrides:
                yield ("case", number), case.overrides

    def _check_lists(self) -> None:
        """Find lists that make no factor, and mend them, so that the rest can be checked."""
        for above, document in self._sources():
            for path, value in list(leaves(document)):
                if not isinstance(value, list):
                    continue
                if is_table_list(value) and path in TABLE_LISTS:
                    continue
                if not value:
                    self.add(Problem(path=(*above, *path), sentence="is an empty list; give at least one value."))
                    remove(document, path)
                elif any(isinstance(element, dict | list) for element in value):
                    sentence = "is a list of tables or of lists; make the value inside the table a list instead."
                    self.add(Problem(path=(*above, *path), sentence=sentence))
                    remove(document, path)
                else:
                    for index, element in enumerate(value):
                        if element in value[:index]:
                            sentence = f"{shown(element)} stands twice in the list."
                            self.add(Problem(path=(*above, *path, index), sentence=sentence))

    def _origin(self, number: int | None, path: Keys) -> Path:
        """Where in the document the value at `path` comes from, for the case of this number."""
        if number is not None and holds(self.cases[number].overrides, path):
            return ("case", number, *path)
        return path

    def _check_fields(self) -> set[tuple[int | None, Keys]]:
        """Check each value alone; gives the paths, by case (None: the plan itself), that are wrong."""
        broken: set[tuple[int | None, Keys]] = set()
        variants: list[tuple[int | None, Document]] = [(None, self.body)]
        variants += [(number, merged(self.body, case.overrides)) for number, case in enumerate(self.cases)]
        for number, document in variants:
            for index, piece in slices(document):
                try:
                    Settings.model_validate(piece, context=self._context)
                except ValidationError as error:
                    for detail in error.errors():
                        # Within a list of tables, of which each has its lines, the list as a whole is broken.
                        path = _before_a_number(detail["loc"])
                        within = detail["loc"][len(path) :]
                        if not within:
                            detail["input"] = value_at(piece, path)  # as written: pydantic shows what was made of it
                        broken.add((number, path))
                        origin = (*self._origin(number, path), *within)
                        element = (*origin, index)
                        path = (*path, *(part for part in within if isinstance(part, str)))
                        sentence = sentence_of(detail, known=_keys_beside(path), dimension=_dimension_at(path))
                        if within and detail["type"] == "missing":
                            sentence = f"is missing; every [[{dotted(path[:-1])}]] must have it."
                        self.add(Problem(path=element if element in self._lines else origin, sentence=sentence))
        return broken

    def _check_grid(self, broken: set[tuple[int | None, Keys]]) -> None:
        """Check the values against one another, but for those that are wrong alone."""
        overrides = [case.overrides for case in self.cases]
        for number, conflict in idle_conflicts(self.body, overrides):
            path = conflict.paths[0]
            self.add(Problem(path=path if number is None else ("case", number, *path), sentence=conflict.sentence))
        repeats = self.document.get("repeats", 1)
        size = size_of_grid(self.body, self.cases) * (repeats if isinstance(repeats, int) else 1)
        if size > MOST_TRIALS:
            sentence = f"the grid has {size} trials, more than {MOST_TRIALS}; shorten its lists or repeats."
            self.add(Problem(path=("repeats",), sentence=sentence))
            return
        for number, case in enumerate(self.cases):
            document = merged(self.body, case.overrides)
            wrong = {path for where, path in broken if where == number}
            for path in wrong:
                remove(document, path)
            for point in points(document):
                try:
                    settings = Settings.model_validate(point, context=self._context)
                except ValidationError:  # only where a whole section is wrong, which has been said
                    continue
                for conflict in checks.conflicts(settings):
                    if any(_overlap(path, other) for path in conflict.paths for other in wrong):
                        continue
                    origins = [self._origin(number, path) for path in conflict.paths if holds(document, path)]
                    origin = (origins or [conflict.paths[0]])[0]
                    self.add(Problem(path=(*origin, *conflict.within), sentence=conflict.sentence))


def _before_a_number(path: Path) -> Keys:
    """A path up to the list of tables that it leads into; all of it, if it leads into none."""
    keys: list[str] = []
    for part in path:
        if isinstance(part, int):
            break
        keys.append(part)
    return tuple(keys)


def _overlap(one: Keys, other: Keys) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _model_at(path: Keys) -> type[BaseModel] | None:
    """The model of the table at this path of a section; a table of tables by name has the model of each of them."""
    model: type[BaseModel] = Settings
    is_name = False
    for key in path:
        if is_name:  # one that the user gave
            is_name = False
            continue
        field = next((info for name, info in model.model_fields.items() if key in (name, info.alias)), None)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return None
        is_name = field is not None and get_origin(field.annotation) is dict
        model = inner
    return model


def _keys_beside(path: Keys) -> list[str]:
    model = _model_at(path[:-1])
    return [] if model is None else [info.alias or name for name, info in model.model_fields.items()]


def _dimension_at(path: Keys) -> Any:
    model = _model_at(path[:-1])
    if model is None:
        return None
    return next((dimension_of(name) for name, info in model.model_fields.items() if path[-1] == info.alias), None)
