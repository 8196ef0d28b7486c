from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "experiments", "probes", "results", "topology")
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "src", *PACKAGES)
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "runs")


def build(source: Path, folder: Path, kind: str) -> Path:
    """Build a "wheel" or an "sdist" of `source` into `folder` with the environment's setuptools: needs no network."""
    code = f"import sys, setuptools.build_meta as backend; print(backend.build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.splitlines()[-1]


OUTPUT = {("results", "runs"), ("results", "calibrations")}  # of the product, where it was used in the checkout


def source_files() -> set[str]:
    """What a wheel must hold, by the names it has there."""
    files = {f"unnoticed/{path.name}" for path in (ROOT / "src/unnoticed").iterdir() if path.is_file()}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT)
            if path.is_file() and "__pycache__" not in name.parts and name.parts[:2] not in OUTPUT:
                files.add(f"unnoticed/{name.as_posix()}")
    return files


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the package is built from, links as links, with the output of a run lying about in it."""
    copy = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=NOT_SOURCE)
        else:
            shutil.copy(ROOT / name, copy / name)
    run = copy / "results/runs/20260101T000000Z-claim"
    run.mkdir(parents=True)
    (run / "plan.toml").write_text("")
    (run / "__init__.py").write_text("")
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    with zipfile.ZipFile(build(source, tmp_path_factory.mktemp("wheel"), "wheel")) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("sdist"), "sdist")


def test_the_wheel_has_one_top_level_name(wheel):
    top = {PurePosixPath(name).parts[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"unnoticed"}


def test_the_wheel_has_every_file_of_the_packages_and_nothing_of_a_run(wheel):
    assert {name for name in wheel if name.startswith("unnoticed/")} == source_files()


def test_the_wheel_is_typed_and_carries_its_licence(wheel):
    assert "unnoticed/py.typed" in wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_the_sdist_holds_files_where_the_checkout_has_links(sdist):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    held = {str(PurePosixPath(*PurePosixPath(member.name).parts[2:])) for member in members if "/src/" in member.name}
    assert source_files() <= held


def test_a_wheel_built_from_the_sdist_is_the_same(sdist, wheel, tmp_path):
    # tarfile's own extraction either warns or lacks the filter, by Python's version.
    subprocess.run(["tar", "--extract", "--file", sdist, "--directory", tmp_path], check=True)
    (unpacked,) = tmp_path.iterdir()
    (tmp_path / "built").mkdir()
    with zipfile.ZipFile(build(unpacked, tmp_path / "built", "wheel")) as archive:
        assert set(archive.namelist()) == wheel
