"""A run's folder on disk: tables of single trials while the run goes on, one Parquet file per table at its end.

    run.json, plan.toml, environment.json
    trials/<id>/tables/<table>.parquet     the tables of one trial; the folder appears complete or not at all
    <table>.parquet                        all trials; trials.parquet is written last and removed first
    report.html

A crash at any moment leaves complete trials and nothing else that `load` or `recorded` would see.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from unnoticed.errors import RecordError
from unnoticed.results import schema
from unnoticed.results.run import Run, run_from_json

_VERSION_KEY, _TABLE_KEY = b"unnoticed.schema_version", b"unnoticed.table"
_TRIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All tables of a run (or of one trial), each valid in the sense of `schema.validate`."""

    trials: pd.DataFrame = field(default_factory=lambda: schema.empty("trials"))
    rounds: pd.DataFrame = field(default_factory=lambda: schema.empty("rounds"))
    encodings: pd.DataFrame = field(default_factory=lambda: schema.empty("encodings"))
    steps: pd.DataFrame = field(default_factory=lambda: schema.empty("steps"))
    faults: pd.DataFrame = field(default_factory=lambda: schema.empty("faults"))
    flows: pd.DataFrame = field(default_factory=lambda: schema.empty("flows"))
    retransmits: pd.DataFrame = field(default_factory=lambda: schema.empty("retransmits"))
    outages: pd.DataFrame = field(default_factory=lambda: schema.empty("outages"))
    requests: pd.DataFrame = field(default_factory=lambda: schema.empty("requests"))
    brownout: pd.DataFrame = field(default_factory=lambda: schema.empty("brownout"))
    relearned: pd.DataFrame = field(default_factory=lambda: schema.empty("relearned"))
    links: pd.DataFrame = field(default_factory=lambda: schema.empty("links"))
    waterfall: pd.DataFrame = field(default_factory=lambda: schema.empty("waterfall"))
    timeline: pd.DataFrame = field(default_factory=lambda: schema.empty("timeline"))
    stalls: pd.DataFrame = field(default_factory=lambda: schema.empty("stalls"))
    captures: pd.DataFrame = field(default_factory=lambda: schema.empty("captures"))

    def __getitem__(self, name: str) -> pd.DataFrame:
        return cast(pd.DataFrame, getattr(self, name))

    def of_trial(self, trial_id: str) -> Tables:
        """The rows of one trial."""
        return Tables(**{name: self[name][self[name]["trial_id"] == trial_id] for name in schema.BY_NAME})


class RunFolder:
    """The folder of one run. Every method that writes leaves the folder whole, whenever it is interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # What the run is

    def write_run(self, run: Run) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _write_text(self.path / "run.json", run.to_json())

    def run(self) -> Run:
        """Raises RecordError where run.json is missing or damaged."""
        return run_from_json(self._read_text("run.json"), source=str(self.path / "run.json"))

    def write_plan(self, text: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _write_text(self.path / "plan.toml", text)

    def plan(self) -> str:
        """The plan as the user wrote it."""
        return self._read_text("plan.toml")

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _write_text(self.path / "environment.json", json.dumps(environment, indent=1, ensure_ascii=False) + "\n")

    def environment(self) -> dict[str, Any]:
        """Raises RecordError where environment.json is missing or damaged."""
        try:
            environment = json.loads(self._read_text("environment.json"))
        except ValueError as error:
            raise RecordError(f"{self.path / 'environment.json'}: not JSON ({error}).") from error
        if not isinstance(environment, dict):
            raise RecordError(f"{self.path / 'environment.json'}: not a JSON object.")
        return environment

    def _read_text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(
                f"{self.path}: not the folder of a run, since {name} cannot be read ({error})."
            ) from error

    # Trials

    def trial_path(self, trial_id: str) -> Path:
        """Where the raw records of a trial go. Raises RecordError for an id that cannot name a folder."""
        if not _TRIAL_NAME.fullmatch(trial_id):
            raise RecordError(f"Trial id {trial_id!r}: only letters, digits and . _ = - may stand in it.")
        return self.path / "trials" / trial_id

    def network(self, trial_id: str) -> dict[str, Any] | None:
        """What the fabric said of the network that a trial had; None where there was no fabric, or an older one.

        Raises RecordError where the record is damaged.
        """
        path = self.trial_path(trial_id) / "fabric.json"
        try:
            network = json.loads(path.read_text(encoding="utf-8")).get("network")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError) as error:
            raise RecordError(f"{path}: cannot be read as the record of a fabric ({error}).") from error
        return network if isinstance(network, dict) else None

    def recorded(self) -> frozenset[str]:
        """The ids of the trials whose tables are complete: what `--resume` need not run again."""
        return frozenset(folder.parent.name for folder in self.path.glob("trials/*/tables") if folder.is_dir())

    def write_trial(self, trial_id: str, tables: Mapping[str, pd.DataFrame]) -> None:
        """Store the tables of one trial; those left out are empty. Replaces what was stored of it before.

        Raises RecordError where a table is not valid, holds another trial's rows, or `trials` has not exactly one row.
        """
        folder = self.trial_path(trial_id)
        unknown = sorted(set(tables) - set(schema.BY_NAME))
        if unknown:
            raise RecordError(f"Trial {trial_id}: no table is called {unknown[0]}.")
        valid = {name: schema.validate(name, frame) for name, frame in tables.items()}
        if len(valid.get("trials", ())) != 1:
            raise RecordError(f"Trial {trial_id}: its trials table must have one row.")
        for name, frame in valid.items():
            if bool((frame["trial_id"] != trial_id).any()):
                raise RecordError(f"Trial {trial_id}: table {name} has rows of another trial.")
        (self.path / "trials.parquet").unlink(missing_ok=True)  # from here on the gathered tables are out of date
        partial, final = folder / "tables.partial", folder / "tables"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in schema.BY_NAME:
            _write_table(partial / f"{name}.parquet", name, valid[name] if name in valid else schema.empty(name))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(folder)

    # All tables

    def gather(self) -> Tables:
        """Put the tables of all recorded trials into one Parquet file per table."""
        tables = self._from_trials()
        for name in sorted(schema.BY_NAME, key=lambda name: name == "trials"):
            partial = self.path / f"{name}.parquet.partial"
            _write_table(partial, name, tables[name])
            partial.rename(self.path / f"{name}.parquet")
        _sync_folder(self.path)
        return tables

    def load(self) -> Tables:
        """All tables: gathered ones where they are, else those of the recorded trials.

        Raises RecordError where there are none, or where one is missing, damaged or of a newer version.
        """
        if (self.path / "trials.parquet").exists():
            paths = {name: self.path / f"{name}.parquet" for name in schema.BY_NAME}
            return Tables(**{name: _valid(name, _read_table(path, name), path) for name, path in paths.items()})
        return self._from_trials()

    def _from_trials(self) -> Tables:
        recorded = self.recorded()
        if not recorded:
            raise RecordError(f"{self.path}: no trial has been recorded here.")
        order = {trial_id: place for place, trial_id in enumerate(self._planned())}
        ordered = sorted(recorded, key=lambda trial_id: (order.get(trial_id, len(order)), trial_id))
        frames: dict[str, pd.DataFrame] = {}
        for name in schema.BY_NAME:
            paths = [self.trial_path(trial_id) / "tables" / f"{name}.parquet" for trial_id in ordered]
            parts = [_read_table(path, name) for path in paths]
            filled = [part for part in parts if len(part)] or parts[:1]
            frames[name] = _valid(name, pd.concat(_alike(filled), ignore_index=True), self.path / "trials")
        return Tables(**frames)

    def _planned(self) -> tuple[str, ...]:
        return self.run().planned if (self.path / "run.json").exists() else ()


def _alike(parts: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Give factors that are numbers in some trials and texts in others one dtype: text."""
    names = {str(name) for part in parts for name in part.columns if "." in str(name)}
    mixed = [name for name in names if len({str(part[name].dtype) for part in parts if name in part}) > 1]
    return [part.astype({name: "string" for name in mixed if name in part}) for part in parts] if mixed else parts


def _write_table(path: Path, name: str, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    version = str(schema.SCHEMA_VERSION).encode()
    table = table.replace_schema_metadata({**table.schema.metadata, _VERSION_KEY: version, _TABLE_KEY: name.encode()})
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _read_table(path: Path, name: str) -> pd.DataFrame:
    try:
        # One file, read as it is: pq.read_table would take `key=value` in the names of folders for columns.
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing: the run's record is incomplete.") from error
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{path} is damaged ({str(error).splitlines()[0]}).") from error
    metadata = table.schema.metadata or {}
    if metadata.get(_TABLE_KEY, b"").decode() != name:
        raise RecordError(f"{path} is not the table {name} of a run.")
    version = int(metadata.get(_VERSION_KEY, b"0"))
    if version != schema.SCHEMA_VERSION:
        raise RecordError(f"{path}: schema version {version}; this release reads version {schema.SCHEMA_VERSION}.")
    return cast(pd.DataFrame, table.to_pandas())


def _valid(name: str, frame: pd.DataFrame, source: Path) -> pd.DataFrame:
    try:
        return schema.validate(name, frame)
    except RecordError as error:
        raise RecordError(f"{source}: {error}") from error


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
