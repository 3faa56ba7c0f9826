"""The benchmark runner measures what it says, and hides no contender that could not be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.process import ContenderFailed, environment, measure
from benchmarks.records import CONTENDERS, Bars, Benchmark, Contender, Row, Rows, difference, ratio
from benchmarks.report import as_report, as_text, failed
from benchmarks.runner import installed_version, run
from benchmarks.texts import questions, sentences
from benchmarks.vectors import Exact, Mixture, recall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def test_what_is_prepared_is_prepared_once(contender: Callable[..., Contender], tmp_path: Path) -> None:
    """A program runs before all rounds, with the contender's case, and its figures are in each run."""
    log, first = tmp_path / "log", tmp_path / "prepare.py"
    first.write_text(
        f"import json, sys; open({str(log)!r}, 'a').write('x')\n{REPORT}report(x=json.loads(sys.argv[1])['size'], y=1)"
    )
    asked = benchmark(contender("first", "report(x=7)", prepare=first, case={"size": 4}), warmups=1)
    row = run(asked)["first"]
    assert log.read_text() == "x"
    assert [(figures["x"], figures["y"]) for figures in row.runs] == [(7, 1)] * 3
    first.write_text("raise SystemExit('no room')")
    assert run(asked)["first"].failure == "exit status 1\nno room"


def test_a_place_is_there_while_contenders_run(contender: Callable[..., Contender], tmp_path: Path) -> None:
    """It is made for those that can run, its entries are in the case, and it is taken away at the end."""
    there = tmp_path / "there"
    made_for: list[str] = []

    @contextmanager
    def place(contenders: Sequence[Contender]) -> Iterator[dict[str, str]]:
        made_for.extend(each.name for each in contenders)
        there.touch()
        yield {"there": str(there)}
        there.unlink()

    look = "import json, os, sys; report(x=int(os.path.exists(json.loads(sys.argv[1])['there'])))"
    away = contender("second", look, packages=("no-such-package",))
    assert run(benchmark(contender("first", look), away, place=place))["first"].median("x") == 1
    assert made_for == ["first"]
    assert not there.exists()


def test_only_those_that_are_asked_for(contender: Callable[..., Contender]) -> None:
    """Others do not run, are no failures, and have no figures."""
    asked = benchmark(contender("first", "1 / 0"), contender("second", "report(x=2)"))
    rows = run(asked, only=["sec", "third"])
    report = as_report(asked, rows, quick=False)
    assert not failed(report)
    assert [entry["name"] for entry in report["contenders"]] == ["second"]
    assert rows["second"].median("x") == 2
    assert report["bars"] == {"x": None}
    assert "first" not in as_text(report)
    wrong = command("import", "--case", "nobody")
    assert wrong.returncode == 2
    assert "no contender has 'nobody' in its name; there are: ours, official, floor" in wrong.stderr


def test_tables_are_of_contenders_with_the_same_figures(contender: Callable[..., Contender]) -> None:
    """So that none has a column that says nothing."""
    asked = benchmark(contender("first", "report(x=1)"), contender("second", "report(y=2)"), repeats=1)
    tables = as_text(as_report(asked, run(asked), quick=False)).split("\n\n")
    assert [table.split()[5] for table in tables if table.startswith("median (min)")] == ["x", "y"]


PEERS = {"peer qdrant-local": "qdrant-client", "peer chroma": "chromadb"}
STORE_BARS = {
    *(f"sqlite_{of}_{figure}" for of in ("10k", "100k", "1m", "real") for figure in ("p50_ms", "p99_ms", "recall")),
    *("sqlite_100k_rss_mb", "sqlite_1m_first_query_ms", "sqlite_1m_build_rows_per_s", "sqlite_1m_disk_mb"),
    *("sqlite_users_p50_ms", "sqlite_inserts_per_s", "sqlite_open_ms", "sqlite_mixed_read_p99_ms"),
    *("pg_users_p50_ms", "pg_100k_p50_ms", "pg_100k_recall"),
    *("search_ratio_vs_qdrant_local", "insert_ratio_vs_qdrant_local", "search_ratio_vs_chroma"),
}


def test_the_store_benchmark_as_json() -> None:
    """Every store does its work and finds what it should; what others can do is null where they are missing."""
    done = command("store", "--quick", "--json")
    report = json.loads(done.stdout)
    failures = {entry["name"]: entry["failure"] for entry in report["contenders"] if entry["failure"]}
    missing = {peer for peer, package in PEERS.items() if installed_version(package) is None}
    assert set(failures) == missing, failures
    assert all("pip install '.[bench-stores]'" in failure for failure in failures.values())
    assert done.returncode == bool(missing)
    theirs = ("qdrant_local", "chroma") if missing else ()
    bars = {name: value for name, value in report["bars"].items() if not any(peer in name for peer in theirs)}
    assert set(report["bars"]) >= STORE_BARS
    assert bars.pop("sqlite_mixed_errors") == bars.pop("sqlite_mixed_100k_errors") == 0
    assert min(bars.values()) > 0
    recalls = {name: value for name, value in bars.items() if name.endswith("_recall")}
    assert recalls.pop("sqlite_1m_recall") >= 0.9  # through codes, of very short vectors
    assert set(recalls.values()) == {1}


def test_too_much_data_for_the_disk_is_said_first(tmp_path: Path) -> None:
    """Nothing is built."""
    data = {"vast": {"rows": 10**12, "dimension": 768}}
    case = {"data": data, "of": "vast", "folder": str(tmp_path), "url": "", "seed": 1, "limit": 10}
    with pytest.raises(ContenderFailed, match=r"1,000,000,000,000 rows need .* of disk, .* or name another folder"):
        measure(CONTENDERS / "store_build.py", case, 20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("users", [1, 7])
def test_the_exact_search_is_exact(users: int) -> None:
    """It finds what one large product of matrices finds, of the rows of each query's user alone."""
    rng, mixture = np.random.default_rng(1), Mixture(3000, 16, 2)
    rows, queries = mixture.draw(3000, rng), mixture.draw(20, rng)
    owners, asking = np.arange(3000) % users, np.arange(20) % users
    exact = Exact(queries, asking)
    for first in range(0, 3000, 999):
        exact.feed(rows[first : first + 999], owners[first : first + 999])
    scores = np.where(owners == asking[:, None], queries @ rows.T, -2)
    best = np.argsort(-scores, axis=1)[:, :10]
    for query in range(20):
        assert recall(best[query], 10, exact.numbers[query], exact.scores[query]) == 1
        assert recall(best[query][::2], 10, exact.numbers[query], exact.scores[query]) == 0.5
        worst = np.argsort(scores[query])[:10]
        assert recall(worst, 10, exact.numbers[query], exact.scores[query]) == 0


def test_equal_rows_are_equally_right() -> None:
    """Whichever of them are found."""
    rows = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]].repeat(20, axis=0)  # 20 to 59 are equal
    exact = Exact(rows[20:21], np.zeros(1, np.int64))
    exact.feed(rows, np.zeros(80, np.int64))
    found = [recall(np.array(some), 2, exact.numbers[0], exact.scores[0]) for some in ([20, 59], [40, 60], [19, 60])]
    assert found == [1, 0.5, 0]


def test_data_are_the_same_each_time() -> None:
    """And vectors have length one, texts differ, and no question is a statement."""
    one, other = (Mixture(1000, 32, 1).draw(50, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)
    assert np.allclose(np.linalg.norm(one, axis=1), 1)
    texts = [sentences(1000, np.random.default_rng(3)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 990
    assert not set(texts[0]) & set(questions(1000, np.random.default_rng(3)))
