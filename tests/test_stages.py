"""What the stages of a run do around a training: rehearsal, budgets that leave stages out, precision, warnings, checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TOY, Answer, Bench, folder

from bench import checks, stages
from bench.contracts import Translation
from bench.registry import METHODS, import_file


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The toy's class, with what a test does to it undone afterwards; runs do not import it anew."""
    import_file(TOY)
    from bench import registry

    monkeypatch.setattr(registry, "import_file", lambda _: None)
    yield METHODS.get("toy")


def run(bench: Bench, toy: tuple[str, ...], *words: str) -> Answer:
    return bench("run", *toy, *words)


# -- rehearsal -------------------------------------------------------------------------------------------------------------


def test_rehearsal_begins_every_stage_that_runs(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stage's optimizers lack is found before the first stage has trained for hours."""
    begun: list[str] = []

    def optimizers(self: Any) -> Any:
        begun.append(self.stage)
        if self.stage == "third":
            raise ValueError("no weights to train")
        return {}

    monkeypatch.setattr(kind, "stages", ("first", "second", "third"))
    monkeypatch.setattr(kind, "begin", lambda self, stage: setattr(self, "stage", stage))
    monkeypatch.setattr(kind, "budget", staticmethod(lambda config, stage, n, size: (0 if stage == "second" else n, size)))
    monkeypatch.setattr(kind, "optimizers", optimizers)
    answer = run(bench, toy)
    assert answer.code == 1 and "train toy" in answer.err and "no weights to train" in answer.err
    assert begun == ["first", "third"]


@pytest.mark.parametrize("way", ["b2a", "two images"])
def test_rehearsal_translates_two_images_each_way(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def translate(self: Any, images: Any, direction: str = "a2b", seeds: Any = None) -> Translation:
        if direction == "b2a" if way == "b2a" else len(images) > 1:
            raise ValueError("of another size")
        return Translation(images)

    monkeypatch.setattr(kind, "directions", ("a2b", "b2a"))
    monkeypatch.setattr(kind, "translate", translate)
    answer = run(bench, toy)
    assert answer.code == 1
    assert "method 'toy' does not work at data.size=32 with its configuration: of another size" in answer.err


# -- training --------------------------------------------------------------------------------------------------------------


def test_the_last_stage_may_be_left_out(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are those of the last one that ran, whose outputs are looked at."""
    looked: list[str] = []
    monkeypatch.setattr(kind, "stages", ("first", "second"))
    monkeypatch.setattr(kind, "budget", staticmethod(lambda config, stage, n, size: (0 if stage == "second" else n, size)))
    monkeypatch.setattr("bench.watch.FIRST", 1)
    monkeypatch.setattr("bench.watch.OutputHook._look", lambda self, runner, done: looked.append(runner.stage))
    answer = run(bench, toy)
    assert answer.code == 0, answer.err
    facts = json.loads((folder(tmp_path / "runs") / "train.json").read_text())
    assert facts["weights"] == "train/first/weights.pth" and set(facts["stages"]) == {"first"}
    assert set(looked) == {"first"}


def test_a_budget_that_leaves_nothing_is_refused(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "budget", staticmethod(lambda config, stage, n, size: (0, size)))
    answer = run(bench, toy)
    assert answer.code == 2 and "6 iterations of batch size 2 leave nothing for any stage" in answer.last


@pytest.mark.parametrize(("first", "doubted"), [(60, False), (61, True)])
def test_a_first_stage_much_longer_than_the_last_is_doubted(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch, first: int, doubted: bool
) -> None:
    monkeypatch.setattr(kind, "stages", ("first", "second"))
    monkeypatch.setattr(kind, "budget", staticmethod(lambda config, stage, n, size: (first if stage == "first" else n, size)))
    answer = run(bench, toy)
    assert answer.code == 0
    assert ("toy: stage first will see 122 images, the last stage 12." in answer.err) == doubted


def test_the_plan_names_the_stage_that_is_resumed(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "stages", ("first", "second"))
    step = kind.step

    def broken(self: Any, batch: Any, optim: Any, stage: str) -> Any:
        if stage == "second" and batch.draws.step == 4:
            raise ValueError("interrupted")
        return step(self, batch, optim, stage)

    monkeypatch.setattr(kind, "step", broken)
    assert run(bench, toy).code == 1
    rows = json.loads(run(bench, toy, "--dry-run", "--json").out)
    assert [r["status"] for r in rows if r["stage"] == "train"] == ["resume at step 4 of second"]
    monkeypatch.setattr(kind, "step", step)
    answer = run(bench, toy)
    assert answer.code == 0 and "(resume at step 4 of second)" in answer.out


def test_every_stage_has_the_precision_that_is_its_own(
    bench: Bench, toy: tuple[str, ...], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method's own where it trains and translates, the run's where evaluators compute."""
    seen: dict[str, set[bool]] = {}
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def spy(target: Any, name: str) -> None:
        plain = getattr(target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).update(f.allow_tf32 for f in flags)
            return plain(*args, **kwargs)

        monkeypatch.setattr(target, name, call)

    from bench.registry import EVALUATORS

    spy(kind, "step")
    spy(stages, "translate_set")
    spy(EVALUATORS.get("toy-score"), "score")
    try:
        answer = run(bench, toy, "--set", "budgets.toy.tf32=true")
        assert answer.code == 0, answer.err
        assert seen == {"step": {True}, "translate_set": {True, False}, "score": {False}}  # False: the untranslated baseline
        seen.clear()
        answer = run(bench, toy, "--set", "budgets.toy.tf32=true", "--force", "translate")
        assert answer.code == 0 and seen["translate_set"] == {True} and seen["score"] == {False}
    finally:
        for flag in flags:
            flag.allow_tf32 = False


def test_warnings_of_the_priors_training_are_kept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.watch.CollapseWatch.see", lambda self, step, losses: self._tell("loss", "loss: it stands still")
    )
    sets = ("prior.iterations=2", "prior.batch_size=2", "evaluators.fidelity.kid_subset_size=2")
    words = ("--suite", "fidelity", *(w for text in sets for w in ("--set", text)))
    answer = bench("run", "--method", "toy", *TINY, *words, "--runs", tmp_path / "runs", "--cache", tmp_path / "cache")
    assert "warning: prior: loss: it stands still" in answer.err
    (path,) = (tmp_path / "cache" / "prior").glob("*/prior.json")
    assert json.loads(path.read_text())["warnings"] == ["loss: it stands still"]


# -- bench check -----------------------------------------------------------------------------------------------------------


def test_check_takes_few_steps_of_stages_that_run(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, int] = {}
    step = kind.step

    def counted(self: Any, batch: Any, optim: Any, stage: str) -> Any:
        taken[stage] = taken.get(stage, 0) + 1
        if stage == "long":  # the critic comes first; the generator's turn would be much later
            loss = self.critic(batch.clear).square().mean()
            optim["D"].update_params(loss)
            return {"d": loss.detach()}
        return step(self, batch, optim, stage)

    lengths = {"out": 0, "long": 100_000, "train": 2}
    monkeypatch.setattr(kind, "stages", tuple(lengths))
    monkeypatch.setattr(kind, "budget", staticmethod(lambda config, stage, n, size: (lengths[stage], size)))
    monkeypatch.setattr(kind, "step", counted)
    lines = list(checks.check_method("toy"))
    assert taken == {"long": 2 * checks.MOST, "train": 2 * 2}, "with one channel and with three"
    note = "toy: stage 'long': optimizer 'G' does not step within 16 of 100000 steps; unchecked"
    assert lines.count(note) == 2 and lines[-1] == "toy: holds the contract"


def test_check_still_finds_an_optimizer_that_never_steps(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "step", lambda self, batch, optim, stage: {"d": torch.zeros(())})
    with pytest.raises(checks.ContractError, match="2 steps changed nothing under optimizer 'G'"):
        list(checks.check_method("toy"))


def test_drit_averages_without_its_shared_block(bench: Bench, tmp_path: Path) -> None:
    """`decoder_shared` is an nn.Identity there."""
    sets = ("methods.drit.concat=false", "train.ema=0.9", "train.iterations=3", "train.batch_size=1", "data.size=64")
    words = [w for text in (*sets, "methods.drit.width=4", "methods.drit.disc_width=4") for w in ("--set", text)]
    answer = bench("run", "--method", "drit", *TINY, *words, "--suite", "faithfulness", "--runs", tmp_path / "runs")
    assert answer.code == 0, answer.err
    (weights,) = (tmp_path / "runs" / "drit").glob("*/*/train/train/weights.pth")
    assert all(v.isfinite().all() for v in torch.load(weights, weights_only=True).values())
