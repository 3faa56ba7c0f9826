"""The benchmark runner measures what it says, and hides no contender that could not be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks.process import environment, measure
from benchmarks.records import Bars, Benchmark, Contender, Row, Rows, difference, ratio
from benchmarks.report import as_report, as_text, failed
from benchmarks.runner import installed_version, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from fakes import ScriptedOllama

ROOT = Path(__file__).parent.parent
REPORT = "from benchmarks.footprint import report\n"


@pytest.fixture
def contender(tmp_path: Path) -> Callable[..., Contender]:
    """Makes a contender of a program's text."""

    def write(name: str, text: str, **options: Any) -> Contender:
        program = tmp_path / f"{name}.py"
        program.write_text(REPORT + text)
        return Contender(name, program, **options)

    return write


def benchmark(*contenders: Contender, **options: Any) -> Benchmark:
    """A small benchmark with one bar."""
    return Benchmark("small", "a test", contenders, x_of_first, **{"repeats": 3, "timeout_s": 20, **options})


def x_of_first(rows: Rows) -> Bars:
    """The figure `x` of the contender that is called `first`."""
    return {"x": rows["first"].median("x")}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` as a person types it."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_without_a_name_it_lists_them() -> None:
    """One line for each, with what it asks."""
    listed = command()
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == command_line.names()
    assert "import" in command_line.names()


def test_each_benchmark_is_called_as_its_file() -> None:
    """The declared name is the one to type."""
    for name in command_line.names():
        declared = command_line.load(name)
        assert declared.name == name
        assert all(contender.program.is_file() for contender in declared.contenders)


def test_an_unknown_name_is_an_error_with_the_list() -> None:
    """Exit status 2, and what there is."""
    wrong = command("nonesuch")
    assert wrong.returncode == 2
    assert "there is no benchmark 'nonesuch'; there are: " in wrong.stderr
    assert "import" in wrong.stderr
    assert wrong.stdout == ""


def test_import_as_json() -> None:
    """One object with machine, versions, every contender and the bars, null only where a contender is missing."""
    done = command("import", "--quick", "--json")
    report = json.loads(done.stdout)
    entries = {entry["name"]: entry for entry in report["contenders"]}
    assert (report["name"], report["quick"], list(entries)) == ("import", True, ["ours", "official", "floor"])
    assert {"python", "os", "cpu", "cores", "load_1m"} == set(report["machine"])
    assert {"ollama-async-mem", "httpx", "ollama"} <= set(report["versions"])
    for name in ("ours", "floor"):
        assert entries[name]["failure"] is None
        assert entries[name]["runs"] == 3
        assert 0 < entries[name]["min"]["cpu_ms"] <= entries[name]["median"]["cpu_ms"]
    bars = report["bars"]
    assert min(bars[name] for name in ("cpu_ms", "net_cpu_ms", "wall_ms", "rss_mb", "modules")) > 0
    if installed_version("ollama"):
        assert done.returncode == 0
        assert bars["cpu_ratio_vs_official"] > 0
        assert bars["net_cpu_ratio_vs_official"] > 0
    else:
        assert done.returncode == 1
        assert "ollama is not installed; get it with: pip install '.[bench]'" in entries["official"]["failure"]
        assert bars["cpu_ratio_vs_official"] is bars["net_cpu_ratio_vs_official"] is None


def test_a_missing_package_is_said_and_its_bars_are_null(contender: Callable[..., Contender]) -> None:
    """The others are still measured."""
    asked = benchmark(
        contender("first", "report(x=1)", packages=("no-such-package",)), contender("second", "report(x=2)")
    )
    report = as_report(asked, run(asked), quick=False)
    assert failed(report)
    assert report["bars"] == {"x": None}
    assert report["versions"]["no-such-package"] is None
    assert report["contenders"][0]["failure"].startswith("no-such-package is not installed; get it with: pip")
    assert report["contenders"][1]["median"]["x"] == 2
    assert "FAILED first: no-such-package is not installed" in as_text(report)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise SystemExit('gave up')", "exit status 1\ngave up"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print('no figures')", "not an object of figures: 'no figures"),
        ("", "not an object of figures: ''"),
        ("import time; time.sleep(60)", "no end after 0.5 s"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11"),
    ],
)
def test_a_failing_contender_is_shown(contender: Callable[..., Contender], text: str, reason: str) -> None:
    """Whatever went wrong, the row says it and the bar is null."""
    asked = benchmark(contender("first", text), timeout_s=0.5)
    report = as_report(asked, run(asked), quick=False)
    assert failed(report)
    assert reason in report["contenders"][0]["failure"]
    assert report["bars"] == {"x": None}
    assert "FAILED first" in as_text(report)


def test_rounds_are_interleaved_in_reversed_order(contender: Callable[..., Contender], tmp_path: Path) -> None:
    """Warm-ups are run and not counted; every run is a process of its own."""
    log = tmp_path / "log"
    text = "import os; open({!r}, 'a').write(f'{} {{os.getpid()}}\\n'); report(x=0)"
    names = ("first", "second")
    rows = run(benchmark(*(contender(n, text.format(str(log), n)) for n in names), repeats=2, warmups=1))
    entries = [line.split() for line in log.read_text().splitlines()]
    assert [name for name, _ in entries] == ["second", "first", "first", "second", "second", "first"]
    assert len({process for _, process in entries}) == 6
    assert [len(row.runs) for row in rows.values()] == [2, 2]


def test_a_quick_run_replaces_parts_of_the_case(contender: Callable[..., Contender]) -> None:
    """A contender is given the case, with seed and server URL in it."""
    echo = (
        "import json, sys; case = json.loads(sys.argv[1]); report(x=case['size'] + case['kept'] + bool(case['seed']))"
    )
    asked = benchmark(contender("first", echo), case={"size": 1000, "kept": 1}, quick_case={"size": 10})
    assert run(asked)["first"].median("x") == 1002
    assert run(asked, quick=True)["first"].median("x") == 12


def test_a_contender_may_have_a_case_of_its_own(contender: Callable[..., Contender]) -> None:
    """Variants are the same program under another name."""
    echo = "import json, sys; report(x=json.loads(sys.argv[1])['size'])"
    asked = benchmark(
        contender("first", echo), contender("second", echo, case={"size": 2}), case={"size": 1}, repeats=1
    )
    assert [row.median("x") for row in run(asked).values()] == [1, 2]


def script(server: ScriptedOllama, case: dict[str, Any]) -> None:
    """What the server of the next test is told."""
    server.settings.answer = lambda _body: "word " * case["words"] + str(os.getpid())


def test_a_scripted_server_runs_in_another_process(contender: Callable[..., Contender]) -> None:
    """It has the case, the contenders have its URL, and it is neither of them."""
    ask = (
        "import json, os, sys, urllib.request\n"
        "case = json.loads(sys.argv[1])\n"
        "body = json.dumps({'model': 'm', 'prompt': 'p', 'stream': False}).encode()\n"
        "text = json.load(urllib.request.urlopen(case['url'] + '/api/generate', body))['response'].split()\n"
        "report(x=len(text) - 1, own=os.getpid(), server=int(text[-1]))\n"
    )
    asked = benchmark(contender("first", ask), case={"words": 7}, server_script="test_benchmarks:script")
    run_of_it = run(asked)["first"].runs[0]
    assert run_of_it["x"] == 7
    assert len({run_of_it["own"], run_of_it["server"], os.getpid()}) == 3


def test_figures_of_the_whole_process(contender: Callable[..., Contender]) -> None:
    """Processor time, wall time, peak memory and modules, seen from outside or by the process itself."""
    busy = "import time; block = bytearray(64 << 20)\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.2); report()"
    figures = measure(contender("busy", busy).program, {}, 20)
    assert 300 <= figures["cpu_ms"] < figures["wall_ms"] - 150
    assert 64 < figures["peak_rss_mb"] < 120
    assert 10 < figures["modules"] < 80


def test_contenders_do_not_inherit_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would change how Python or a client behaves is taken out of the environment."""
    for name in ("PYTHONWARNINGS", "OLLAMA_HOST", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "x")
    inherited = environment()
    assert not {"PYTHONWARNINGS", "OLLAMA_HOST", "HTTPS_PROXY", "http_proxy"} & set(inherited)
    assert inherited["PATH"] == os.environ["PATH"]


def test_medians_ratios_and_what_is_missing() -> None:
    """A figure that is missing makes what is computed from it missing."""
    row = Row(Contender("first", Path("first.py")), [{"x": 3.0}, {"x": 1.0}, {"x": 8.0}])
    assert (row.median("x"), row.low("x")) == (3.0, 1.0)
    row.failure = "the fourth run failed"
    assert (row.median("x"), row.low("x")) == (None, None)
    assert (ratio(6, 3), ratio(None, 3), ratio(6, None), ratio(6, 0)) == (2, None, None, None)
    assert (difference(6, 2), difference(None, 2)) == (4, None)


def test_without_its_server_no_contender_has_figures(contender: Callable[..., Contender]) -> None:
    """A server that does not start is every contender's failure, and shown as that."""
    asked = benchmark(contender("first", "report(x=1)"), server_script="no.such.module:script")
    report = as_report(asked, run(asked), quick=False)
    assert failed(report)
    assert report["contenders"][0]["failure"] == "the scripted server did not start"


@pytest.mark.parametrize(
    ("name", "figures", "bars"),
    [
        (
            "stream",
            {"cpu_us_per_chunk", "stream_cpu_ms"},
            {"cpu_ratio_vs_official", "cpu_ratio_vs_floor", "whole_process_ratio_vs_official"},
        ),
        (
            "request",
            {"sequential_us", "gather_us"},
            {"sequential_ratio_vs_official", "gather_ratio_vs_official", "sequential_ratio_vs_floor"},
        ),
        (
            "embed",
            {"decode_ms"},
            {"decode_ratio_vs_official", "peak_memory_ratio_vs_official", "decode_ratio_vs_floor"},
        ),
        (
            "streams",
            {"p50_ms", "p99_ms", "chunks_per_s", "cpu_us_per_chunk"},
            {"p99_added_delay_ms", "rss_mb", "official_p99_added_delay_ms"},
        ),
    ],
)
def test_the_client_benchmarks_as_json(name: str, figures: set[str], bars: set[str]) -> None:
    """Every contender does its work and has figures; bars are null only where the official client is missing."""
    done = command(name, "--quick", "--json")
    report = json.loads(done.stdout)
    entries = {entry["name"]: entry for entry in report["contenders"]}
    assert list(entries)[:3] == ["ours", "official", "floor"]
    has_official = installed_version("ollama") is not None
    assert done.returncode == (0 if has_official else 1)
    for entry in entries.values():
        if has_official or not entry["name"].startswith("official"):
            assert entry["failure"] is None
            assert entry["runs"] == 1
            assert min(entry["median"].values()) > 0
    assert figures < set(entries["ours"]["median"])
    assert bars <= set(report["bars"])
    measured = {key: value for key, value in report["bars"].items() if has_official or "official" not in key}
    assert min(measured.values()) > 0
