"""mmagic's translation models as methods: found by name, trained as mmagic trains them, resumed exactly; a second opinion on ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Bench, forget_imports, records
from engine_tools import CPU, SETTINGS, InterruptedTrainingError, Source, losses, same, weights
from method_tools import one_thread  # noqa: F401  (a fixture)
from torch.nn import functional as F

from bench import doubts, engine
from bench.config import RunOptions, load
from bench.contracts import Batch, Draws, Method
from bench.errors import PreflightError, UsageError
from bench.experiment import RunSpec, folder_name
from bench.progress import Progress
from bench.registry import METHODS
from bench.runner import ParallelOptimWrapper

installed = pytest.mark.skipif(find_spec("mmagic") is None, reason="mmagic is not installed: pip install cxr-bench[mmagic]")
SMALL = {"width": 4, "n_blocks": 1, "disc_width": 4, "disc_layers": 2, "pool_size": 3}

FILE = """
model = dict(
    type='CycleGAN', data_preprocessor=dict(type='DataPreprocessor'), {extra}
    generator=dict(type='ResnetGenerator', in_channels=3, out_channels=3, base_channels=4, num_blocks=1),
    discriminator=dict(type='PatchDiscriminator', in_channels=3, base_channels=4, num_conv=2, norm_cfg=dict(type='IN')),
    default_domain='winter', reachable_domains=['summer', 'winter'], related_domains=['summer', 'winter'])
"""
PIX2PIX = """
model = dict(
    type='Pix2Pix', generator=dict(type='UnetGenerator', in_channels=3, out_channels=3, num_down=5, base_channels=4),
    discriminator=dict(type='PatchDiscriminator', in_channels=6, base_channels=4, num_conv=2, norm_cfg=dict(type='IN')),
    default_domain='photo', reachable_domains=['photo'], related_domains=['photo', 'mask'], loss_config=dict(pixel_loss_weight=1.0))
optim_wrapper = dict(generators=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5)))
"""


def build(channels: int = 1, name: str = "mmagic:cyclegan", **config: Any) -> Method:
    torch.manual_seed(3)
    cls = METHODS.get(name)
    return cls(cls.Config(**{**(SMALL if name == "mmagic:cyclegan" else {}), **config}), channels)


def batch(channels: int = 1, step: int = 0, size: int = 32) -> Batch:
    draws = Draws(0, step, 0, 2, 2)
    shape = (channels, size, size)
    return Batch(draws.uniform("a", *shape) * 2 - 1, draws.uniform("b", *shape) * 2 - 1, draws)


def wrap(method: Method, accumulate: int = 1) -> dict[str, ParallelOptimWrapper]:
    optimizers = method.optimizers().items()
    return {n: ParallelOptimWrapper(1, optimizer=o, accumulative_counts=accumulate) for n, o in optimizers}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def name(text: str = FILE, extra: str = "", file: str = "my.config.py") -> str:
        (tmp_path / file).write_text(text.replace("{extra}", extra))
        return f"mmagic:{tmp_path / file}"

    return name


# -- names -----------------------------------------------------------------------------------------------------------------


def test_named_where_methods_are_listed_but_not_meant_by_all(bench: Bench) -> None:
    assert "mmagic:cyclegan" in bench("list", "methods").out.split()
    assert "mmagic 1.2.0" in bench("list", "methods", "--long").out
    assert not [n for n in METHODS.names() if n.startswith("mmagic")], "also after its class was made"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mmagic:cyclgan", "Did you mean 'mmagic:cyclegan'?"),
        ("mmagic", "Did you mean 'mmagic:cyclegan'?"),
        ("mmagic:", "Did you mean 'mmagic:cyclegan'?"),
        ("magic:cyclegan", "Did you mean 'mmagic:cyclegan'?"),
        ("mmagic:nowhere/my.py", "file nowhere/my.py does not exist."),
    ],
)
def test_unknown_names(bench: Bench, name: str, expected: str) -> None:
    answer = bench("check", "--method", name)
    assert answer.code == 2 and expected in answer.last and len(answer.err.splitlines()) == 1


def test_folder_names_are_one_safe_part() -> None:
    assert folder_name("mmagic:cyclegan") == "mmagic-cyclegan"
    assert folder_name("mmagic:../my configs/a.py") == "mmagic-..-my-configs-a.py"
    assert all(folder_name(name) == name for name in METHODS.names())


def test_keys_of_names_with_dots(write: Callable[..., str]) -> None:
    name = write()
    found = load("quick", sets=[f"methods.{name}.lr=0.5", "methods.mmagic:cyclegan.width=7", f"budgets.{name}.iterations=3"])
    assert found.methods[name] == {"lr": "0.5"} and found.methods["mmagic:cyclegan"]["width"] == "7"
    assert found.budgets[name]["iterations"] == "3"
    with pytest.raises(UsageError, match=r"unknown method 'mmagic:cyclgan'. Did you mean 'mmagic:cyclegan'"):
        load("quick", sets=["methods.mmagic:cyclgan.lr=1"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model = 3", "has no `model`"),
        ("raise OSError('oh no')", "cannot be read: OSError: oh no"),
        ("model = dict(type='StyleGAN2')", "no usable `generator`; is it a translation model?"),
        (FILE.replace("related_domains=['summer', ", "related_domains=['summer', 'autumn', "), "must be two"),
        (FILE + "optim_wrapper = dict(generators=dict(clip_grad=dict(max_norm=1)))", "is followed; leave out clip_grad"),
        (FILE + "optim_wrapper = dict(generators=dict(type='AmpOptimWrapper', optimizer=dict()))", "out AmpOptimWrapper"),
        (FILE + "optim_wrapper = dict(optimizer=dict(lr=7e-5))", "optim_wrapper: optimizer stands for neither group"),
        (FILE + "optim_wrapper = dict(discriminators=dict(optimizer=5))", "optim_wrapper.discriminators.optimizer: is no optimizer"),
        (FILE + "optim_wrapper = dict(generators=dict(optimizer=dict(lr=1)))", "optim_wrapper.generators.optimizer: is no optim"),
        (FILE + "optim_wrapper = dict(generators=5)", "optim_wrapper.generators: is no dict with an `optimizer`"),
        (FILE + "optim_wrapper = 5", "`optim_wrapper` is no dict of generators and discriminators"),
    ],
)
def test_files_that_cannot_be_used(write: Callable[..., str], text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.get(write(text))
    assert expected in str(caught.value) and "my.config.py" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FILE.replace("'CycleGAN'", "'CycelGAN'"), "Did you mean 'CycleGAN'"),
        (FILE.replace("num_blocks", "numblocks"), "mmagic cannot build this model: TypeError"),
        (FILE.replace("'ResnetGenerator'", "'PatchDiscriminator'"), "mmagic cannot build this model"),
    ],
)
@installed
def test_models_that_cannot_be_built(write: Callable[..., str], text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(name=write(text))
    assert expected in str(caught.value) and "my.config.py" in str(caught.value)


@installed
@pytest.mark.parametrize("optimizer", ["type='Adm', lr=1", "type='Adam', rate=1"])
def test_optimizers_that_cannot_be_built(write: Callable[..., str], optimizer: str) -> None:
    method = build(name=write(FILE + f"optim_wrapper = dict(discriminators=dict(optimizer=dict({optimizer})))"))
    with pytest.raises(UsageError, match=r"my\.config\.py': optimizer of the discriminators: "):
        method.optimizers()


@pytest.mark.parametrize(
    "key", ["init", "disc_init", "width", "n_blocks", "pool_size", "id_w", "lr", "disc_lr_factor", "beta1"]
)
def test_bad_values_are_named(key: str) -> None:
    cls = METHODS.get("mmagic:cyclegan")
    with pytest.raises(UsageError, match=key):
        cls.Config(**{key: "zero" if key.endswith("init") else -1})


def test_without_the_extra_it_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mmagic", None)
    missing = "mmagic" if find_spec("mmcv") else "mmagic and mmcv"
    told = f'need {missing}: pip install "cxr-bench[mmagic]".'
    checked = bench("check", "--method", "mmagic:cyclegan")
    assert checked.code == 3 and told in checked.last
    run = bench("run", "--method", "mmagic:cyclegan", "--suite", "toy-score", *TINY, "--runs", tmp_path)
    assert run.code == 3 and told in run.last and not (tmp_path / "mmagic-cyclegan").exists()
    assert bench("list", "--long").code == 0
    with pytest.raises(PreflightError):
        build()


# -- the loader ------------------------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    """The last line that a program prints, as words; it runs without network."""
    cut = "import socket\ndef no(*a, **k): raise OSError('no network')\nsocket.socket.connect = socket.getaddrinfo = no\n"
    done = subprocess.run(
        [sys.executable, "-c", cut + code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


MODULES = "print(*sorted(m for m in sys.modules if m.split('.')[0] in ('mmagic', 'mmcv')), 'end')"


def test_nothing_else_imports_it() -> None:
    code = "import sys, bench\nfrom bench import cli\ncli._main(['list'])\n"
    listed = "print([m for m in ('torch', 'methods.mmagic') if m in sys.modules])\n"
    resolved = (
        "from bench.config import load\nload('quick')\nfrom bench.registry import METHODS\nMETHODS.get('mmagic:cyclegan')\n"
    )
    assert python(code + listed + resolved + MODULES) == ["end"]


BUILD = """
import sys
from bench.registry import METHODS
cls = METHODS.get('mmagic:cyclegan')
def build(): return cls(cls.Config(width=4, n_blocks=1), 1)
"""


@installed
def test_it_loads_without_network_and_leaves_whole_modules_only() -> None:
    told = "print(sys.modules['mmagic.registry'].MODELS._imported, *sorted(sys.modules))"
    complete, *left = python(BUILD + "build(); build()\n" + told)
    assert complete == "False", "mmagic's registry is not told that it knows all models"
    assert "mmagic.models.editors.cyclegan.cyclegan" in left and "mmagic.registry" in left
    assert not {"mmagic", "mmagic.utils", "mmagic.models", "mmagic.models.archs", "mmagic.models.editors"} & set(left)


@installed
def test_mmagic_can_be_imported_before_and_after() -> None:
    patch = "import numpy; numpy.bool8 = numpy.bool_\n"  # what keeps mmagic.utils from being imported
    real = "print(mmagic.__version__, mmagic.utils.get_sampler.__name__, 'mmagic.models' in sys.modules, "
    before = "import sys, mmagic, mmagic.registry, mmagic.utils\nbefore = dict(sys.modules)\n"
    kept = real + "all(sys.modules[n] is m for n, m in before.items()))"
    assert python(patch + before + BUILD + "build()\n" + kept) == ["1.2.0", "get_sampler", "False", "True"]
    after = "model = build()\nimport mmagic, mmagic.utils\nfrom mmagic.registry import MODELS\nbuild()\n"
    found = real + "MODELS.module_dict['CycleGAN'] is type(model.model))"
    assert python(patch + BUILD + after + found) == ["1.2.0", "get_sampler", "False", "True"]


@installed
def test_a_failed_import_leaves_nothing_and_can_be_tried_again() -> None:
    code = BUILD + (
        "import importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mmagic.models.archs.patch_disc': raise ImportError('broken')\n"
        "block = Block(); sys.meta_path.insert(0, block)\n"
        "try: build()\n"
        "except ImportError as error: print(error)\n"
        "bare = [n for n, m in sys.modules.items() if n.startswith('mmagic') and m.__spec__ is None]\n"
        "sys.meta_path.remove(block); build()\n"
        "print('built', len(bare), 'mmagic' in sys.modules)\n"
    )
    assert python(code) == ["built", "0", "False"]


@installed
def test_the_block_ends_clean_when_its_body_fails() -> None:
    from methods.mmagic import translation_models

    before = {n: m for n, m in sys.modules.items() if n.startswith("mmagic")}
    with pytest.raises(ZeroDivisionError), translation_models() as models:
        assert isinstance(sys.modules["mmagic.models"], ModuleType) and "CycleGAN" in models.module_dict
        raise ZeroDivisionError
    after = {n: m for n, m in sys.modules.items() if n.startswith("mmagic")}
    assert "mmagic.models" not in after or after["mmagic.models"] is before.get("mmagic.models")


# -- the model -------------------------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(
    ("channels", "generator", "discriminator"), [(1, 11_365_633, 2_762_689), (3, 11_378_179, 2_764_737)]
)
def test_published_size(channels: int, generator: int, discriminator: int) -> None:
    cls = METHODS.get("mmagic:cyclegan")
    method = cls(cls.Config(), channels)
    counts = [sum(p.numel() for p in network.parameters()) for network in method.networks()]
    assert counts == [generator] * 2 + [discriminator] * 2
    assert method.model.image_buffers["a"].buffer_size == 50
    assert method.model.loss_config == {"cycle_loss_weight": 10.0, "id_loss_weight": 0.5}
    for network in method.networks():
        for name, p in network.named_parameters():
            if p.dim() == 4 and p.numel() > 10_000:
                assert p.std().item() == pytest.approx(0.02, rel=0.05) and abs(p.mean().item()) < 1e-3, name
            elif p.dim() == 1:
                assert not p.any(), name
    for optimizer in method.optimizers().values():
        (group,) = optimizer.param_groups
        assert (type(optimizer), group["lr"], group["betas"]) == (torch.optim.Adam, 2e-4, (0.5, 0.999))


@installed
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_first_step_by_hand(channels: int, precision: torch.dtype) -> None:
    """Images reach the networks as they are; the discriminators learn first, from images of generators not updated yet."""
    method, now = build(channels), batch(channels)
    generators, discriminators = method.model.generators, method.model.discriminators
    a, b = now.opacity, now.clear
    with torch.no_grad():
        fake = {"a": generators["a"](b), "b": generators["b"](a)}
        expected = {"cycle": 10 * F.l1_loss(generators["a"](fake["b"]), a) + 10 * F.l1_loss(generators["b"](fake["a"]), b)}
        expected["id"] = (F.l1_loss(generators["a"](a), a) + F.l1_loss(generators["b"](b), b)) / 2
        for domain, real in (("a", a), ("b", b)):
            judged = (
                discriminators[domain](fake[domain]).square().mean() + (discriminators[domain](real) - 1).square().mean()
            )
            expected[f"d_{domain}"] = judged / 4  # half of it is what is learnt from
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        log = method.step(now, wrap(method), "train")
    with torch.no_grad():
        for domain in "ab":
            expected[f"g_adv_{domain}"] = (discriminators[domain](fake[domain]) - 1).square().mean()
        expected["g_total"] = sum(expected[k] for k in ("cycle", "id", "g_adv_a", "g_adv_b"))
    assert log.keys() == expected.keys()
    for name, value in expected.items():
        assert log[name].item() == pytest.approx(value.item(), rel=1e-4 if precision == torch.float32 else 0.03), name


@installed
def test_translation_uses_the_generator_of_the_wanted_domain(write: Callable[..., str]) -> None:
    method, images = build(name=write()).eval(), batch().opacity
    with torch.inference_mode():
        for direction, domain in (("a2b", "winter"), ("b2a", "summer")):
            out = method.translate(images, direction).image
            assert torch.equal(out, method.model.generators[domain](images)) and out.shape == images.shape
    assert not method.model.training, "mmagic's own forward_test would switch training mode on"


@installed
def test_update_rhythm(write: Callable[..., str]) -> None:
    """A budget counts updates of the generators: every second iteration from the fourth on, whatever is accumulated."""
    name = write(extra="discriminator_steps=2, disc_init_steps=4,")
    cls = METHODS.get(name)
    iterations, size = cls.budget(cls.Config(), "train", 3, 2)
    assert size == 2 and cls.images_seen(cls.Config(), "train", iterations, 2) == 6
    for accumulate in (1, 2):
        method = build(name=name)
        optim, seen = wrap(method, accumulate), []
        for step in range(iterations):
            seen.append("g_total" in method.step(batch(step=step), optim, "train"))
        assert seen == [False] * 5 + [True, False, True, False, True]
    plain = METHODS.get("mmagic:cyclegan")
    assert plain.budget(plain.Config(), "train", 7, 4) == (7, 4) and plain.images_seen(plain.Config(), "train", 7, 4) == 28


@installed
def test_pix2pix_loads_too(write: Callable[..., str]) -> None:
    name = write(PIX2PIX)
    for channels in (1, 3):
        method = build(channels, name=name)
        assert method.directions == ("a2b",) and (method.clear, method.opacity) == ("photo", "mask")
        optim = wrap(method)
        assert (
            type(optim["generators"].optimizer) is torch.optim.SGD
            and type(optim["discriminators"].optimizer) is torch.optim.Adam
        )
        assert {"g_adv", "pixel", "g_total", "d_fake", "d_real"} == method.step(batch(channels), optim, "train").keys()
    assert build(name=name, lr=0.25).optimizers()["generators"].param_groups[0]["lr"] == 0.25


@installed
def test_what_identifies_a_file_is_what_it_says(write: Callable[..., str]) -> None:
    one, two = write(file="a.py"), write("# a remark\n" + FILE, file="b.py")
    other = write(FILE.replace("num_blocks=1", "num_blocks=2"), file="c.py")
    hashes = [METHODS.origin(name).split("@")[1] for name in (one, two, other)]
    assert hashes[0] == hashes[1] != hashes[2] and METHODS.origin(one).startswith("a.py@")
    assert METHODS.origin("mmagic:cyclegan") == "methods.mmagic"


# -- through the harness ---------------------------------------------------------------------------------------------------


@installed
def test_contract(bench: Bench, write: Callable[..., str]) -> None:
    for name in ("mmagic:cyclegan", write()):
        answer = bench("check", "--method", name)
        assert answer.code == 0 and "holds the contract" in answer.out, answer.err


@installed
def test_through_the_whole_pipeline(bench: Bench, write: Callable[..., str], tmp_path: Path, cache: Path) -> None:
    name, runs = write(), tmp_path / "runs"
    words = ["run", "--method", f"mmagic:cyclegan,{name}", "--suite", "toy-score", *TINY, "--runs", runs, "--cache", cache]
    words += [w for key, value in SMALL.items() for w in ("--set", f"methods.mmagic:cyclegan.{key}={value}")]
    done = bench(*words, "--set", f"methods.{name}.lr=0.001")
    assert done.code == 0, done.err
    found = records(runs)
    assert {key.rpartition("/")[0] for key in found} == {"original", "mmagic:cyclegan", name}
    assert all(r["status"] == "ok" for r in found.values())
    facts = json.loads(next((runs / folder_name(name)).glob("*/*/config.json")).read_text())
    assert facts["origin"].startswith("my.config.py@") and facts["config"]["methods"][name] == {"lr": 0.001}
    assert next((runs / "mmagic-cyclegan").glob("*/*/train.json")).is_file()
    board = bench("leaderboard", runs).out
    assert "mmagic:cyclegan" in board and name in board
    again = bench(*words, "--set", f"methods.{name}.lr=0.001", "--dry-run", "--json")
    assert {row["status"] for row in json.loads(again.out)} == {"cached"}

    (run,) = (runs / folder_name(name)).glob("*/*/")
    file = Path(name.partition(":")[2])
    films = next((runs / "original").glob("*/*/translated/*/images"))
    translate = ["translate", run, films, "--out", tmp_path / "clear", "--device", "cpu"]
    assert bench(*translate).code == 0
    text = file.read_text()
    file.write_text(text.replace("num_conv=2", "num_conv=3"))
    forget_imports()
    changed = bench(*translate)
    assert changed.code == 2 and f"{file} is not what {run} was trained with (my.config.py@" in changed.err
    file.unlink()
    forget_imports()
    gone = bench(*translate)
    assert gone.code == 2 and f"error: mmagic config {file} is not here; run from the folder it was trained in." in gone.err


def _fit(folder: Path, settings: Any = SETTINGS, stop: int | None = None, **config: Any) -> Any:
    method = build(**config)
    source = Source(stop, size=32)
    return engine.fit(method, source, settings, folder, "train", 0, "mmagic", CPU, Progress("", quiet=True), 1)


def _cut(folder: Path, settings: Any = SETTINGS) -> None:
    with pytest.raises(InterruptedTrainingError):
        _fit(folder, settings, stop=5)
    torch.manual_seed(99)
    np.random.seed(99)


@installed
@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 2, "ema": 0.9, "precision": "bf16", "channels_last": True}], ids=["plain", "all"]
)
def test_resuming_is_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **changes)
    straight = _fit(tmp_path / "straight", settings)
    _cut(tmp_path / "cut", settings)
    kept = torch.load(tmp_path / "cut" / "iter_4.pth", weights_only=True)["state_dict"]["pools._extra_state"]
    assert {domain: len(images) for domain, images in kept.items()} == {"a": 3, "b": 3}, "the pools are full by then"
    assert all(image.untyped_storage().nbytes() == image.nbytes for image in kept["a"]), "no batch is saved along"
    resumed = _fit(tmp_path / "cut", settings)
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight") and len(losses(tmp_path / "cut")) == 8
    assert same(weights(straight.weights), weights(resumed.weights)) and straight.weights_id == resumed.weights_id
    assert weights(straight.weights)["pools._extra_state"] == {"a": [], "b": []}, "no patient's image in the file to hand on"
    engine.load_weights(build(), straight.weights)


@installed
def test_pools_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without their state the resumed training ends elsewhere: the test above can fail."""
    from methods.mmagic import Pools

    straight = _fit(tmp_path / "straight")
    _cut(tmp_path / "cut")
    monkeypatch.setattr(Pools, "set_extra_state", lambda *_: None)
    assert _fit(tmp_path / "cut").weights_id != straight.weights_id


def test_several_processes_are_refused() -> None:
    """Each would have a pool of its own: other numbers under the same key, and no exact resuming."""
    spec = RunSpec(("cut", "mmagic:cyclegan"), "all", "quick", load("quick"), ("synthetic",), (0,), RunOptions())
    doubts.check_batch(spec, 1)
    words = "'mmagic:cyclegan' cannot be trained by 2 processes: .*replay pool.*without torchrun: --device cuda:N"
    with pytest.raises(UsageError, match=words):
        doubts.check_batch(spec, 2)


@installed
def test_no_pool(tmp_path: Path) -> None:
    assert _fit(tmp_path, replace(SETTINGS, iterations=2), pool_size=0).losses["g_total"] > 0


@installed
def test_what_is_compiled_and_averaged() -> None:
    method = build()
    assert [type(n).__name__ for n in method.networks()] == ["ResnetGenerator"] * 2 + ["PatchDiscriminator"] * 2
    assert method.inference_modules() == {f"to_{d}": method.model.generators[d] for d in "ab"}


# -- a second opinion on our networks --------------------------------------------------------------------------------------


def _copy(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Weights in their order (both define the layers from the input to the output), biases too."""
    ours, theirs = list(target.parameters()), list(source.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            other.add_(torch.randn_like(other), alpha=0.1)
            mine.copy_(other)


@installed
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n_blocks", "width"), [(9, 8), (6, 8)])
def test_our_generator_is_theirs(channels: int, n_blocks: int, width: int) -> None:
    from methods.networks.resnet import ResnetGenerator

    theirs = build(channels, n_blocks=n_blocks, width=width, init="kaiming").model.generators["b"]
    ours = ResnetGenerator(channels, width, n_blocks)
    _copy(theirs, ours)
    images = batch(channels, size=64).opacity
    with torch.inference_mode():
        expected = theirs(images)
        assert torch.allclose(ours(images), expected, atol=1e-5) and expected.std() > 0.05


@installed
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("layers", "width"), [(3, 8), (4, 4)])
def test_our_discriminator_is_theirs(channels: int, layers: int, width: int) -> None:
    from methods.networks.patchgan import PatchGAN

    theirs = build(channels, disc_layers=layers, disc_width=width, disc_init="kaiming").model.discriminators["b"]
    ours = PatchGAN(channels, width, layers)
    _copy(theirs, ours)
    images = batch(channels, size=96).opacity
    with torch.inference_mode():
        expected = theirs(images)
        assert torch.allclose(ours(images), expected, atol=1e-5) and expected.std() > 0.01
