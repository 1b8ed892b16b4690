"""Table 3's six rows: six shipped configurations, each with exactly the loss terms of its row, and one command that makes them."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TOY, Answer, Bench, records
from mmengine.optim import OptimWrapper

from bench import pipeline, suites
from bench.config import PRESETS, load
from bench.contracts import Batch, Draws
from bench.data.contract import FINDINGS
from bench.errors import BenchError
from bench.experiment import method_config
from bench.files import lock
from bench.prior import DensePrior
from bench.registry import SUITES

Toy = tuple[str, ...]

MASKS, FEATURES = {"upper", "repulsion"}, {"fa_struct", "fa_style"}
ROWS = {
    "none": set(),
    "aaspm": MASKS,
    "fa": FEATURES,
    "aaspm-fa": MASKS | FEATURES,
    "aaspm-fa-lca": MASKS | FEATURES | {"lca"},
    "full": MASKS | FEATURES | {"lca", "bam"},
}


#: Beside the table: ACL-GAN with a mask and its own penalties on it.
ROWS_BESIDE = ("acl-gan",)


def test_every_row_has_a_file() -> None:
    assert {p.stem for p in (PRESETS / "ablation").glob("*.yaml")} == {*ROWS, *ROWS_BESIDE}


def test_acl_gan_beside_the_table() -> None:
    config = method_config(load("quick", "ablation/acl-gan"), "ours")[1]
    assert config.aaspm and config.mask_penalty == "acl_gan" and not (config.baml or config.fa or config.lca)


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    sets = [f"methods.ours.{key}=4" for key in ("width", "disc_width")]
    cls, config = method_config(load("quick", f"ablation/{row}", sets), "ours")
    torch.manual_seed(0)
    method = cls(config, 1, DensePrior("densenet_small", FINDINGS, 64).eval() if cls.requires(config) else None)
    optim = {name: OptimWrapper(optimizer=o) for name, o in method.optimizers().items()}
    opacity, clear = torch.rand(2, 2, 1, 64, 64) * 2 - 1
    losses = method.step(Batch(opacity, clear, Draws(0, 0, 0, 2, 2)), optim, "train")
    assert set(losses) & set.union(*ROWS.values()) == ROWS[row]
    assert (method.translate(opacity).mask is not None) == bool(ROWS[row] & MASKS)
    assert all(torch.isfinite(value) for value in losses.values())


# -- one command ------------------------------------------------------------------------------------------------------------

SMALL = (
    "data.size=64", "train.iterations=2", "train.ema=0", "prior.iterations=2", "prior.batch_size=4", "methods.ours.width=4",
    "methods.ours.disc_width=4", "methods.ours.n_res=1", "evaluators.faithfulness.n_boot=10", "evaluators.fidelity.subsamples=2",
    "evaluators.fidelity.repeats=2",
)  # fmt: skip


def distinct(answer: Answer) -> list[str]:
    """The statuses of all trainings that a run's plan told of."""
    return [row["status"] for row in json.loads(answer.out) if row["stage"] == "train"]


def test_the_suite_names_the_rows_in_the_papers_order(bench: Bench) -> None:
    assert [suites.row(v) for v in suites.variants("ablation")] == list(ROWS) and suites.method("ablation") == "ours"
    assert all((PRESETS / f"{variant}.yaml").is_file() for variant in suites.variants("ablation"))
    (line,) = [row for row in bench("list", "suites", "--long").out.splitlines() if row.startswith("ablation")]
    assert re.split(" {2,}", line)[1] == "faithfulness, fidelity" and line.endswith(f"rows {', '.join(ROWS)} of method ours")
    assert suites.variants("all") == suites.variants("fidelity") == () and suites.method("fidelity") == suites.purpose("all") == ""


def test_six_rows_by_one_command(bench: Bench, tmp_path: Path, cache: Path) -> None:
    """They are six, none is computed twice, and the last is the method as it is."""
    words = [w for w in TINY if w not in ("--import", str(TOY))]
    words += [w for s in SMALL for w in ("--set", s)] + ["--runs", str(tmp_path / "runs"), "--cache", str(cache)]
    run = ["run", "--method", "ours", *words, "--suite", "ablation"]
    assert distinct(bench(*run, "--dry-run", "--json")) == ["to do"] * 6
    answer = bench(*run)
    assert answer.code == 0, answer.err
    assert [line.split()[1] for line in answer.out.splitlines() if line.startswith("row  ")] == list(ROWS)
    assert answer.out.count("FD-cxr ↓") == answer.out.count("leaderboard  ") == 1, "one leaderboard, at the end"
    named = {line.split("(")[1].rstrip(")"): Path(line.split()[1]) for line in answer.out.splitlines() if line.startswith("results")}
    assert list(named) == list(ROWS) and len({p.resolve() for p in named.values()}) == 6
    for row, folder in named.items():
        found = [json.loads(path.read_text()) for path in folder.glob("records/*.json")]
        assert {r["evaluator"] for r in found} == {"fidelity", "faithfulness"} and {r["status"] for r in found} == {"ok"}
        switches = {"aaspm": MASKS, "fa": FEATURES, "lca": {"lca"}, "baml": {"bam"}}
        for r in found:
            assert {s: r["method_config"][s] for s in switches} == {s: terms <= ROWS[row] for s, terms in switches.items()}
            assert r["method_config"]["width"] == 4 and r["method_config"]["kappa"] == 175.0, "set or not, all keys are there"
    contents = {r["translated_content"] for f in named.values() for p in f.glob("records/*.json") for r in [json.loads(p.read_text())]}
    assert len(contents) == 6, "and so are the translations"
    assert "| ours (+aaspm +baml +fa +lca)" in (tmp_path / "runs" / "leaderboard.md").read_text()
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.*") if p.suffix in (".json", ".pth", ".png", ".csv")}
    again = bench(*run)
    assert again.code == 0 and "done in" not in again.out and "to do" not in again.out
    assert {p: p.stat().st_mtime_ns for p in written} == written
    plain = bench("run", "--method", "ours", *words, "--suite", "fidelity", "--dry-run", "--json")
    assert {row["status"] for row in json.loads(plain.out)} == {"cached"}, "row full is the method as it is"


# -- suites with rows, with a method of the tests' own -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forget_suites() -> Iterator[None]:
    """Suites of a test are gone after it."""
    yield
    for name in set(SUITES.module_dict) - set(SUITES.builtin):
        SUITES._module_dict.pop(name)


VARIANTS = {"wide": "lr: 0.02", "broken": "error_at: 3", "calm": "own_noise: false"}


def suite(tmp_path: Path, toy: Toy, rows: dict[str, str] = VARIANTS, evaluators: str = "toy-score", section: str = "toy") -> list[str]:
    """The words of a run of a suite whose rows lie in files of one's own."""
    files = []
    for name, text in rows.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"methods:\n  {section}:\n    {text}\n" if text.count("\n") == 0 else text)
    plugin = tmp_path / "rows.py"
    plugin.write_text(
        "from bench import register_suite\n"
        f"@register_suite('rows', method='toy', variants={[str(f) for f in files]!r})\ndef rows():\n    return ({evaluators!r},)\n"
    )
    words = list(toy)
    words[words.index("--suite") + 1] = "rows"
    return ["run", *words, "--import", str(plugin)]


def plan_of(bench: Bench, words: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Row -> its trainings."""
    answer = bench(*words, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(answer.out):
        if row["stage"] == "train":
            found.setdefault(Path(row["variant"]).stem, []).append(row)
    return found


def test_a_row_that_fails_leaves_the_others_going(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    words = suite(tmp_path, toy)
    answer = bench(*words)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("error: 3 stages not done: broken: train toy on synthetic, 6 iterations; broken: ")
    plans = plan_of(bench, words)
    assert {row: [t["status"] for t in some] for row, some in plans.items()} == {
        "wide": ["cached"], "broken": ["resume at step 2"], "calm": ["cached"]
    }  # fmt: skip
    board = (tmp_path / "runs" / "leaderboard.md").read_text()
    assert "error_at=3, lr=0.01, own_noise=true) [1]" in board and "(error_at=0, lr=0.02, own_noise=true)" in board
    again = bench(*words)
    assert again.code == 1 and again.out.count("train     ") == 1, "the others are kept"


def test_plans_of_all_rows(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    words = suite(tmp_path, toy)
    answer = bench(*words, "--dry-run", "--seeds", "3,4")
    assert answer.code == 0 and not (tmp_path / "runs" / "toy").exists()
    assert [line for line in answer.out.splitlines() if line.startswith("row ")] == [
        f"row {name} (configuration {tmp_path / name}.yaml)" for name in VARIANTS
    ]
    first = [line.split()[0] for line in answer.out.splitlines() if line.strip()]
    assert first.count("train") == 6 and first.count("stage") == 3
    plans = plan_of(bench, [*words, "--seeds", "3,4"])
    assert {row: len(some) for row, some in plans.items()} == {"wide": 2, "broken": 2, "calm": 2}
    assert len({t["key"] for some in plans.values() for t in some}) == 6
    rows = json.loads(bench("run", *toy, "--dry-run", "--json").out)
    assert all("variant" not in row for row in rows), "a run of its own has no rows"


def test_which_layer_wins(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    """A row lies over --config, --set over both."""
    (tmp_path / "own.yaml").write_text("methods:\n  toy:\n    lr: 0.5\n    own_noise: false\n")
    more = ["--config", tmp_path / "own.yaml", "--set", "methods.toy.sloppy=false"]
    plans = plan_of(bench, [*suite(tmp_path, toy, {"wide": "lr: 0.02", "late": "error_at: 99"}), *map(str, more)])
    for row, settings in (("wide", ("lr=0.02",)), ("late", ("lr=0.5", "error_at=99"))):
        sets = [w for s in (*settings, "own_noise=false", "sloppy=false") for w in ("--set", f"methods.toy.{s}")]
        alone = json.loads(bench("run", *toy, *sets, "--dry-run", "--json").out)
        assert [t["key"] for t in plans[row]] == [t["key"] for t in alone if t["stage"] == "train"]


def test_a_run_that_was_stopped_carries_on(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, real, done = suite(tmp_path, toy, {"wide": "lr: 0.02", "calm": "own_noise: false"}), pipeline.run, list[Any]()

    def stop(spec: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(spec)
        return real(spec)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", stop)
        assert bench(*words).code == 130
    assert {row: some[0]["status"] for row, some in plan_of(bench, words).items()} == {"wide": "cached", "calm": "to do"}
    answer = bench(*words)
    assert answer.code == 0 and answer.out.count("train     ") == 1
    assert [r["method_config"]["lr"] for r in records(tmp_path / "runs").values() if r["method"] == "toy"], "rows have records"


def test_a_row_in_use_elsewhere(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    words = suite(tmp_path, toy, {"wide": "lr: 0.02", "calm": "own_noise: false"})
    taken = Path(plan_of(bench, words)["wide"][0]["result"]).parent
    with lock(taken / ".lock", wait=False):
        answer = bench(*words)
    assert answer.code == 1 and f"error: wide: {taken} is in use by " in answer.err
    assert answer.err.splitlines()[-1].startswith("error: 1 stages not done: row wide. ")
    assert {row: some[0]["status"] for row, some in plan_of(bench, words).items()} == {"wide": "to do", "calm": "cached"}


def test_a_full_disk_ends_all_rows(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def full(spec: Any) -> Any:
        calls.append(spec)
        raise BenchError("no space left") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline, "run", full)
    answer = bench(*suite(tmp_path, toy))
    assert answer.code == 1 and len(calls) == 1 and answer.last == "error: no space left"


def test_what_any_row_lacks_is_found_before_work(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    rows = {name: f"evaluators:\n  fidelity:\n    extractor: {name}\n" for name in ("cxr", "inception")}
    words = suite(tmp_path, toy, rows, "fidelity")
    for dry in (["--dry-run"], []):
        answer = bench(*words, *dry)
        told = [line for line in answer.err.splitlines() if "inception" in line]
        assert answer.code == 3 and len(told) == 1 and not list((tmp_path / "runs").glob("toy/*/*/train*")), answer.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --method cyclegan --suite ablation", "of method ours (given: cyclegan): bench run --method ours --suite ablation"),
        ("run --method ours,cut --suite ablation", "of method ours (given: ours, cut)"),
        ("run --method original --suite ablation", "of method ours (given: original)"),
        ("run --method all --suite ablation", "rows none, aaspm, fa, aaspm-fa, aaspm-fa-lca, full of method ours (given: acl_gan,"),
        ("run --method ours --suite ablatoin", "unknown suite 'ablatoin'. Did you mean 'ablation'?"),
        ("score --images . --as mine --suite ablation", "Images made elsewhere have no such rows"),
        ("run --method ours --suite ablation --set methods.ours.lca=true", "aaspm-fa and aaspm-fa-lca would be the same training"),
        ("run --method ours --suite ablation --set methods.ours.lcaa=1", "unknown config key 'methods.ours.lcaa'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(bench: Bench, tmp_path: Path, words: str, expected: str) -> None:
    answer = bench(*words.split(), "--runs", tmp_path / "runs")
    assert answer.code == 2 and expected in answer.err and len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


def test_mistakes_in_the_files_of_rows(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    words = suite(tmp_path, toy, {"wide": "lr: 0.02", "odd": "lrr: 0.02"})
    answer, where = bench(*words), f"--suite rows, {tmp_path / 'odd.yaml'}: "
    assert answer.code == 2 and answer.err.startswith(f"error: {where}unknown config key 'methods.toy.lrr'")
    (tmp_path / "odd.yaml").unlink()
    answer = bench(*words)
    assert answer.code == 2 and where in answer.err and "does not exist" in answer.err


def test_rows_that_are_the_same_training(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    answer = bench(*suite(tmp_path, toy, {"one": "lr: 0.02", "two": "lr: 2e-2"}))
    assert answer.code == 2 and "one and two would be the same training" in answer.err


def test_a_suite_for_one_method_without_rows(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    plugin = tmp_path / "only.py"
    plugin.write_text(
        "from bench import register_suite\n@register_suite('only', method='cut')\ndef only():\n    return ('toy-score',)\n"
    )
    words = list(toy)
    words[words.index("--suite") + 1] = "only"
    answer = bench("run", *words, "--import", plugin)
    assert answer.code == 2 and "--suite only: it makes scores of method cut (given: toy)" in answer.err
