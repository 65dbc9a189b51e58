"""Benchmarks of other packages: the page's example by class path and as an installed package, on real clips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avrt.config.class_paths import ENVIRONMENT_VARIABLE, granted
from avrt.evaluation import benchmarks
from avrt.evaluation.benchmarks import BENCHMARKS, get_benchmark, present_benchmarks
from avrt.evaluation.comparison import compare
from avrt.evaluation.records.log import read_records
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.report.run_labels import title_of
from avrt.evaluation.scoring import OWN_RULE, score_run, score_runs
from tests.documentation.sandbox import lay_out_streets
from tests.evaluation.test_run_server import ModelServer, choice, evaluate, parts, question

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
PATH = "street_benchmark.STREETS"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path with the page's example; nothing of it stays loaded."""
    folder = tmp_path / "site"
    folder.mkdir()
    (example,) = (part.partition("```")[0] for part in PAGE.read_text().split("```python\n")[1:])
    (folder / "street_benchmark.py").write_text(example)
    monkeypatch.syspath_prepend(str(folder))
    before = dict(BENCHMARKS)
    yield folder
    BENCHMARKS.clear()
    BENCHMARKS.update(before)
    benchmarks._class_paths.clear()
    sys.modules.pop("street_benchmark", None)


@pytest.fixture
def data(real_data: Path, tmp_path: Path) -> Path:
    """Two questions in the example's own form, with real clips."""
    lay_out_streets(tmp_path / "data" / "streets", real_data / "avqa")
    return tmp_path / "data"


def install(
    folder: Path, value: str = "street_benchmark:STREETS", name: str = "streets", package: str = "street"
) -> None:
    """What pip leaves of a package with an entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[avrt.benchmarks]\nstreets = {value}\n")


def command(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "avrt", *words],
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
    )


def test_the_pages_example_runs_by_class_path_and_is_scored_again_by_its_own_rule(
    package: Path, data: Path, tmp_path: Path
) -> None:
    first, second = json.loads((data / "streets" / "test.json").read_text())
    replies = {
        first["question"]: f"{first['answer']} it is not, or",
        second["question"]: f"The answer is {second['answer']}",
    }
    server = ModelServer(lambda body, before: choice(replies[question(body)]))
    words = (f"questions.benchmarks={PATH}", "server.max_concurrency=1")
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", data, *words) == 1  # not allowed
        assert "street_benchmark" not in sys.modules
        assert not server.requests
        assert evaluate(url, tmp_path / "run", data, *words, "allow-classes=street_benchmark") == 0
    assert all(len(parts(body, "image_url")) == 4 for body in server.requests)
    folder = tmp_path / "run" / "streets"
    records = read_records(folder)
    assert sorted(record.correct_official for record in records) == [False, True]
    assert all(record.categories == {"place": "town"} for record in records)
    info = RunInfo.read(folder)
    assert (info.benchmark, info.benchmark_class) == ("streets", PATH)
    scores = (folder / "metrics.json").read_bytes()
    assert json.loads(scores)["official"]["rule"] == "evaluate.py of its authors"

    refused = command("score", str(tmp_path / "run"), folder=package)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert "scoring rule of 'streets'" in refused.stderr
    assert "--allow-classes street_benchmark" in refused.stderr
    assert (folder / "metrics.json").read_bytes() == scores
    again = command("score", str(tmp_path / "run"), folder=package, **{ENVIRONMENT_VARIABLE: "street_benchmark"})
    assert again.returncode == 0, again.stderr
    assert (folder / "metrics.json").read_bytes() == scores


def test_tables_have_its_title_number_older_rule_and_own_scores(package: Path, tmp_path: Path, make_run: Any) -> None:
    """In commands that begin with finished runs, of which only the second is of that package."""
    path = package / "street_benchmark.py"
    more = "own_scores=lambda records: {'n': len(records)}, older_rules={'streets-v0': (lambda record: True, 'v0')}"
    path.write_text(f"{path.read_text()}\nfrom dataclasses import replace\nSTREETS = replace(STREETS, {more})\n")
    first = make_run("first", "mmau", ["A", "B"])
    second = make_run("second", "streets", ["A", "B"], benchmark_class=PATH)
    with granted(["street_benchmark"]):
        scored = score_runs([first, second], rule="streets-v0")
        result = compare(first, second, score="official", rule="streets-v0")
    assert [run.metrics["official"]["rule"] for (run,) in scored][1] == "v0"
    assert scored[1][0].metrics["official"]["correct"] == 2
    assert scored[1][0].metrics["own_scores"] == {"n": 2}
    column = result["columns"]["streets"]
    assert (column["title"], column["published_items"]) == ("Street Sounds", 2)
    assert title_of("streets") == "Street Sounds"


def test_a_benchmark_without_rules_needs_no_package_to_be_scored(package: Path, make_run: Any) -> None:
    run = make_run("run", "streets", ["A"])
    (scored,) = score_run(run)
    assert scored.metrics["official"]["rule"] == OWN_RULE
    path = package / "street_benchmark.py"
    path.write_text(f"{path.read_text()}\nfrom dataclasses import replace\nSTREETS = replace(STREETS, official=None)\n")
    install(package)
    score_run(run)
    assert title_of("streets") == "Street Sounds"


def test_an_installed_package_is_found_by_name_and_needs_no_permission(package: Path, data: Path) -> None:
    install(package)
    assert [benchmark.name for benchmark in present_benchmarks(data)] == ["streets"]
    assert get_benchmark("streets").title == "Street Sounds"
    assert get_benchmark(PATH) is BENCHMARKS["streets"]
    assert benchmarks.rule_path(BENCHMARKS["streets"]) == PATH


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("", "street_benchmark:NOTHING", "entry point 'streets' of street: cannot be imported"),
        ("", "no_such_module:STREETS", "entry point 'streets' of street: cannot be imported"),
        ("OTHER = 3", "street_benchmark:OTHER", "is a int, not a Benchmark"),
        ("STREETS = replace(STREETS, name='other')", "street_benchmark:STREETS", "both names must be equal"),
        ("STREETS = replace(STREETS, name='../up')", "street_benchmark:STREETS", "a benchmark's name is a folder's"),
    ],
)
def test_a_broken_plugin_is_named(code: str, value: str, message: str, package: Path) -> None:
    install(package, value)
    path = package / "street_benchmark.py"
    path.write_text(f"{path.read_text()}\nfrom dataclasses import replace\n{code}\n")
    with pytest.raises(ValueError, match=message):
        get_benchmark("streets")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.path.join", "Python's own modules can run any code"),
        ("other_package.X", "--allow-classes other_package"),
        ("avrt.cli.os", "is a module, not a Benchmark"),
        ("street_benchmark.NOTHING", "has no attribute 'NOTHING'"),
        ("street_benchmark.no.X", "cannot be imported"),
        ("street_benchmark.json", "is a module, not a Benchmark"),
        ("avrt.evaluation.benchmarks.mmau.BENCHMARK", "there is another benchmark named 'mmau'"),
    ],
)
def test_a_class_path_that_is_no_allowed_benchmark_is_refused(path: str, message: str, package: Path) -> None:
    with granted(["street_benchmark"]), pytest.raises(ValueError, match=message):
        get_benchmark(path)


def test_a_class_that_makes_the_benchmark_works_too(package: Path) -> None:
    path = package / "street_benchmark.py"
    made = "class Streets(Benchmark):\n    def __init__(self):\n        super().__init__(**vars(STREETS))\n"
    path.write_text(f"{path.read_text()}\n{made}")
    with granted(["street_benchmark"]):
        assert get_benchmark("street_benchmark.Streets").name == "streets"


def test_two_packages_with_one_name_are_refused(package: Path) -> None:
    install(package)
    install(package, "second:STREETS", package="second")
    with pytest.raises(ValueError, match=r"'streets' of avrt\.benchmarks is declared twice"):
        get_benchmark("streets")


def test_permission_ends_with_its_command(package: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    with ModelServer(lambda body, before: choice("A")).running() as url:
        words = (f"questions.benchmarks={PATH}", "questions.require_media=true")
        assert evaluate(url, tmp_path / "run", data, *words, "allow-classes=street_benchmark") == 0
        BENCHMARKS.pop("streets")
        assert evaluate(url, tmp_path / "run2", data, *words) == 1
    assert "--allow-classes street_benchmark" in capsys.readouterr().err
