"""Plans: a TOML file, checked as a whole, becomes a frozen Plan, and the plan its trials.

Every mistake is found at once: each field alone (pydantic), fields against one another (`checks`), clauses and budgets
(`demands`); each is one sentence with its line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path as FilePath

from unnoticed.errors import PlanError
from unnoticed.experiments.planning.demands import BudgetTable, ClauseTable
from unnoticed.experiments.planning.document import Document, toml_text
from unnoticed.experiments.planning.draft import Draft
from unnoticed.experiments.planning.grid import Setting, Trial, factor_names, ordered, settings_of
from unnoticed.experiments.planning.problems import near_word
from unnoticed.experiments.planning.toml_lines import locate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment, checked. `document` is the plan as TOML reads it, with the command line's changes in it."""

    name: str
    source: FilePath
    text: str  # TOML that gives `document`: the file as it is, unless the command line changed something
    document: Document
    question: str
    repeats: int
    seed: int
    settings: tuple[Setting, ...]
    factors: tuple[str, ...]
    cases: tuple[str, ...]
    clauses: tuple[ClauseTable, ...]
    budgets: tuple[BudgetTable, ...]


def trials(plan: Plan) -> list[Trial]:
    """The trials of a plan in the order in which they are performed."""
    return ordered(plan.settings, repeats=plan.repeats, seed=plan.seed)


def setting_of(plan: Plan, case: str | None) -> Setting:
    """The first setting of a plan, or of one of its cases. Raises PlanError if there is no such case."""
    found = next((setting for setting in plan.settings if case is None or setting.case == case), None)
    if found is None:
        cases = ", ".join(dict.fromkeys(setting.case for setting in plan.settings if setting.case))
        raise PlanError(f"--case {case}: the plan has no such case; its cases are: {cases or 'none'}.")
    return found


def stock_plans() -> dict[str, FilePath]:
    """The plans that come with the product, by name."""
    folder = resources.files("unnoticed.experiments") / "stock"
    return {file.stem: file for file in sorted(FilePath(str(folder)).glob("*.toml"))}


def find_plan(name_or_path: str) -> FilePath:
    """The file of a stock name or a path. Raises PlanError where there is none."""
    path = FilePath(name_or_path)
    if path.is_file():
        return path
    stock = stock_plans()
    if name_or_path in stock:
        return stock[name_or_path]
    near = near_word(name_or_path, stock)
    hint = '; "unnoticed list" shows the stock experiments.' if near is None else f'; did you mean "{near}"?'
    what = "is a folder, not a plan" if path.is_dir() else "is neither a file nor a stock experiment"
    raise PlanError(f'"{name_or_path}" {what}{hint}')


def load_plan(name_or_path: str | FilePath, *, overrides: Sequence[str] = (), repeats: int | None = None) -> Plan:
    """Read and check a plan. `overrides` are texts like `guest.memory="512 MiB"` (a TOML value, or a bare word).

    Raises PlanError with one sentence for each mistake.
    """
    source = find_plan(str(name_or_path))
    shown_name = source.name if source in stock_plans().values() else str(source)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{shown_name}: cannot be read as UTF-8 text ({error}).") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(_syntax_sentence(shown_name, text, error)) from error
    draft = Draft(file=shown_name, folder=source.parent, document=document, lines=locate(text))
    for override in overrides:
        draft.override(override)
    if repeats is not None:
        draft.put(("repeats",), repeats, spelling="--repeats")
    head = draft.check()
    return Plan(
        name=source.stem,
        source=source,
        text=_changed_text(draft) if draft.overridden else text,
        document=draft.document,
        question=head.question,
        repeats=head.repeats,
        seed=head.seed,
        settings=settings_of(draft.body, draft.cases, folder=source.parent),
        factors=factor_names(draft.body, draft.cases),
        cases=tuple(case.name for case in draft.cases if case.name),
        clauses=tuple(head.clause),
        budgets=tuple(head.budget),
    )


def _syntax_sentence(file: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    message, _, place = str(error).rpartition(" (at ")
    if "line" not in place:
        return f"{file}:{text.count(chr(10)) + 1}: this is not TOML: {message or place}"
    line = place.split("line ")[1].split(",")[0]
    column = place.split("column ")[1].rstrip(")")
    return f"{file}:{line}: this is not TOML: {message[:1].lower()}{message[1:]} (column {column})."


def _changed_text(draft: Draft) -> str:
    changes = "".join(f"#   {spelling}\n" for spelling in draft.overridden.values())
    return f"# {draft.file}, changed on the command line:\n{changes}\n{toml_text(draft.document)}"
