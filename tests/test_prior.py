"""The prior: every published layout of its weights loads, and nothing that could run code does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Bench, records
from torch import Tensor, nn
from torchvision.models import DenseNet

from bench import scores, stages
from bench.config import PriorConfig
from bench.contracts import FrozenHolder
from bench.data.contract import FINDINGS
from bench.data.imageset import ImageSet, Item
from bench.errors import PreflightError
from bench.experiment import Experiment
from bench.prior import OPACITY_FINDINGS, XRV_FINDINGS, DensePrior, from_file

CONFIG = PriorConfig(arch="densenet121", size=64)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def reference() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(32, (6, 12, 24, 16), 64, num_classes=14).eval()


@pytest.fixture(scope="module")
def torchvision_state(reference: DenseNet) -> State:
    return reference.state_dict()


def old_keys(state: State) -> State:
    """torchvision before 0.3 wrote ``norm.1`` where it now writes ``norm1``."""
    return {k.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2"): v
            for k, v in state.items()}  # fmt: skip


def chexnet(state: State) -> dict[str, Any]:
    """The layout of CheXNet's published checkpoints: data-parallel, nested, a sequential head."""
    named = {k.replace("classifier.", "classifier.0."): v for k, v in old_keys(state).items()}
    return {"epoch": 6, "state_dict": {f"module.densenet121.{k}": v for k, v in named.items()}}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "torchvision": lambda state: state,
    "old torchvision": old_keys,
    "chexnet": chexnet,
    "nested": lambda state: {"model": {f"model.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_network(tmp_path: Path, reference: DenseNet, torchvision_state: State, layout: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](torchvision_state), path)
    prior = from_file(CONFIG, path, "abc").eval()
    assert prior.findings == FINDINGS and prior.digest == "abc"
    assert set(torchvision_state) == set(prior.net.state_dict())
    assert all(torch.equal(v, prior.net.state_dict()[k]) for k, v in torchvision_state.items())
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        output = prior.classify(prior.features(x))
        rgb = ((x + 1) / 2).expand(-1, 3, -1, -1)
        rgb = (rgb - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        assert torch.allclose(output, torch.sigmoid(reference(rgb)), atol=1e-5)
    assert [FINDINGS[i] for i in prior.opacity_indices] == [f for f in FINDINGS if f in OPACITY_FINDINGS]
    assert len(prior.opacity_indices) == 6


def xrv_state(outputs: int = 18) -> State:
    net = DenseNet(32, (6, 12, 24, 16), 64, num_classes=outputs)
    net.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return net.state_dict()


def test_torchxrayvision_takes_one_channel_in_its_own_range(tmp_path: Path) -> None:
    path = tmp_path / "xrv.pth"
    torch.save({**xrv_state(), "op_threshs": torch.zeros(18)}, path)  # its files carry a table of thresholds, too
    prior = from_file(CONFIG, path, "").eval()
    assert prior.findings == XRV_FINDINGS and prior.scaling == "xrv"
    assert {XRV_FINDINGS[i] for i in prior.opacity_indices} == OPACITY_FINDINGS
    seen = []
    prior.net.features.conv0.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        prior.features(torch.full((1, 3, 64, 64), 1.0))
    assert seen[0].shape == (1, 1, 64, 64) and float(seen[0].max()) == 1024.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"fc.weight": torch.zeros(2, 2)}, "no DenseNet-121 keys found"),
        ([1, 2, 3], "no DenseNet-121 keys found"),
        (torch.zeros(3), "no DenseNet-121 keys found"),
        ({}, "no DenseNet-121 keys found"),
    ],
    ids=["other keys", "list", "tensor", "empty"],
)
def test_wrong_content(tmp_path: Path, content: Any, expected: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(PreflightError, match=rf"prior.weights=.*weights.pth.*{expected}") as caught:
        from_file(CONFIG, path, "")
    assert "\n" not in str(caught.value)


def test_other_densenet(tmp_path: Path, torchvision_state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in torchvision_state.items() if "denseblock4" not in k}, path)
    with pytest.raises(PreflightError, match="is not a DenseNet-121: Missing key") as caught:
        from_file(CONFIG, path, "")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_number_of_outputs_must_be_named_where_it_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "three.pth"
    torch.save(DenseNet(32, (6, 12, 24, 16), 64, num_classes=3).state_dict(), path)
    with pytest.raises(PreflightError, match=r"has 3 outputs; name them: --set prior\.findings=A,B"):
        from_file(CONFIG, path, "")
    with pytest.raises(PreflightError, match=r"has 3 outputs, prior\.findings names 2"):
        from_file(PriorConfig(size=64, findings=("A", "B")), path, "")
    prior = from_file(PriorConfig(size=64, findings=("Hernia", "Edema", "Mass")), path, "")
    assert prior.opacity_indices == (1,)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL_TARGET"],)


@pytest.mark.parametrize("content", [Evil(), nn.Linear(2, 2), {"state_dict": nn.Linear(2, 2)}], ids=["evil", "model", "nested"])
def test_pickled_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    monkeypatch.setenv("EVIL_TARGET", str(tmp_path / "pwned"))
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(PreflightError, match=r"cannot be loaded safely .*Save it as a plain state dict: torch.save") as caught:
        from_file(CONFIG, path, "")
    assert not (tmp_path / "pwned").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("bytes_", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_weights(tmp_path: Path, bytes_: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(bytes_)
    with pytest.raises(PreflightError, match=r"weights.pth cannot be loaded safely") as caught:
        from_file(CONFIG, path, "")
    assert "\n" not in str(caught.value)


def test_small_prior_shapes_and_range() -> None:
    prior = DensePrior("densenet_small", FINDINGS, 64).eval()
    with torch.no_grad():
        maps = prior.features(torch.rand(2, 3, 96, 96) * 2 - 1)
        raw = prior.features(torch.zeros(1, 1, 64, 64), relu=False)
        output = prior.classify(maps)
    assert maps.shape[2:] == (8, 8) and maps.min() >= 0 and raw.min() < 0
    assert output.shape == (2, 14) and output.min() >= 0 and output.max() <= 1


def test_frozen_prior_follows_its_method_and_stays_out_of_its_state() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(1, 1)
            self.holder = FrozenHolder(DensePrior("densenet_small", ("Edema",), 64))

    owner = Owner()
    prior = owner.holder.module
    owner.train()
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    assert set(owner.state_dict()) == {"own.weight", "own.bias"} and len(list(owner.parameters())) == 2
    owner.to(torch.float64)
    assert next(prior.parameters()).dtype == torch.float64
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    x = torch.rand(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    prior.classify(prior.features(x)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0, "gradients reach the image"
    assert all(p.grad is None for p in prior.parameters())
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items()), "batch statistics stay"


def test_auroc_counts_known_labels_only() -> None:
    truth = [1, 1, 0, 0, None, 1]
    score = [0.9, 0.2, 0.3, 0.1, 0.99, 0.8]  # of 6 pairs one is in the wrong order: 0.2 against 0.3
    items = [Item(str(i), str(i), "clear", findings={} if t is None else {"Edema": t, "Mass": 1}) for i, t in enumerate(truth)]
    pixels = np.stack([np.full((2, 2), round(s * 255), np.uint8) for s in score])
    images = ImageSet("x", items, {"image": pixels}, "abc")
    prior = SimpleNamespace(
        findings=("Edema", "Mass"), features=lambda x: x, classify=lambda f: ((f + 1) / 2).mean((1, 2, 3))[:, None].expand(-1, 2)
    )
    found = stages.prior_auroc(prior, [images], torch.device("cpu"))  # type: ignore[arg-type]
    assert found == {"Edema": pytest.approx(5 / 6), "Mass": None}


def test_records_say_what_the_classifier_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "prior_folder", lambda experiment, key: tmp_path)
    experiment: Any = SimpleNamespace(needs_prior=lambda: True, prior_key=lambda: "k")
    facts = {"key": "k", "weights_id": "w", "trained_by": "harness", "arch": "densenet_small", "findings": ["Edema", "Mass", "Hernia"]}
    learnt = {"datasets": ["rsna", "nih14"], "n_train": 252, "n_val": 74, "val_auroc": {"Edema": 0.9, "Mass": 0.7, "Hernia": None}}
    (tmp_path / "prior.json").write_text(json.dumps(facts | learnt))
    found = scores._prior(experiment, True)
    assert found is not None and found["val_auroc"] == pytest.approx(0.8)
    kept = {name: found[name] for name in ("datasets", "n_train", "n_val", "findings", "findings_scored")}
    assert kept == {
        "datasets": ["rsna", "nih14"], "n_train": 252, "n_val": 74, "findings": ["Edema", "Mass", "Hernia"], "findings_scored": 2,
    }  # fmt: skip
    (tmp_path / "prior.json").write_text(json.dumps(facts))  # a file of the user's own: nobody knows
    found = scores._prior(experiment, True)
    assert found is not None
    assert [found[name] for name in ("datasets", "n_train", "n_val", "val_auroc", "findings_scored")] == [None] * 5


def test_run_with_a_weights_file(bench: Bench, tmp_path: Path, cache: Path, torchvision_state: State) -> None:
    """Found in an --assets folder, named in records, and part of the keys: other weights are another question."""
    assets = tmp_path / "assets"
    assets.mkdir()
    torch.save(chexnet(torchvision_state), assets / "chexnet.pth")
    words = ["--method", "original", "--suite", "fidelity", *TINY, "--set", "prior.weights=chexnet.pth", "--set", "prior.size=64"]
    words += ["--set", "prior.arch=densenet121", "--runs", str(tmp_path / "runs"), "--cache", str(cache), "--assets", str(assets)]
    answer = bench("run", *words)
    assert answer.code == 0, answer.err
    (record,) = records(tmp_path / "runs").values()
    assert record["prior"]["trained_by"] == "file chexnet.pth" and record["prior"]["findings"] == list(FINDINGS)
    assert record["status"] == "ok" and record["prior"]["datasets"] is None
    torch.save(old_keys(torchvision_state), assets / "chexnet.pth")
    dry = bench("run", *words, "--dry-run")
    assert [line.split()[0] for line in dry.out.splitlines() if "to do" in line] == ["prior", "fit", "score"]


@pytest.mark.parametrize("content", [b"", b"i am text", b"hello world\n"], ids=["empty", "text", "unpickles to a byte"])
def test_a_file_that_is_no_weights_blocks_the_plan(bench: Bench, tmp_path: Path, cache: Path, content: bytes) -> None:
    path = tmp_path / "afile"
    path.write_bytes(content)
    words = ["run", "--method", "original", "--suite", "fidelity", *TINY, "--runs", str(tmp_path / "runs"), "--cache", str(cache)]
    for more in (["--dry-run"], []):
        answer = bench(*words, "--set", f"prior.weights={path}", *more)
        assert answer.code == 3 and answer.err == (
            f"error: prior.weights: {path} cannot be loaded safely (it is damaged, or no weights file of torch's). Save it as a plain "
            "state dict: torch.save(model.state_dict(), file).\n"
        )
    assert not (tmp_path / "runs" / "original").exists()
    gone = bench(*words, "--set", f"prior.weights={tmp_path / 'gone'}", "--dry-run")
    assert gone.code == 3 and gone.last == f"error: prior.weights={tmp_path / 'gone'} not found. Searched: {tmp_path / 'gone'}."


def test_weights_are_found_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "chexnet.pth").touch()
    config = SimpleNamespace(prior=SimpleNamespace(weights="~/chexnet.pth"))
    experiment: Any = SimpleNamespace(spec=SimpleNamespace(config=config, options=SimpleNamespace(assets=())))
    assert Experiment.prior_file(experiment) == tmp_path / "chexnet.pth"
