"""`scripts/benchmark --training`: clock, memory, the check that both sides agree, and what is said where there is no peer."""

import math
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import benchmark_training as training  # noqa: E402
import peers  # noqa: E402
import peers_resnet  # noqa: E402
import peers_style  # noqa: E402
import timing  # noqa: E402

from bench.contracts import Batch  # noqa: E402
from bench.errors import BenchError, UsageError  # noqa: E402

CPU = torch.device("cpu")


# ---- clock and memory ----------------------------------------------------------------------------------------------------


def test_sides_take_turns_and_ratios_come_from_all_timings() -> None:
    order, seconds = [], iter([4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 8.0, 1.5])

    def clock(run) -> float:
        run()
        return next(seconds)

    taken = timing.take_turns(
        lambda k: order.append(f"peer{k}"), {v: lambda k, v=v: order.append(f"{v}{k}") for v in ("exact", "shared")}, 2, clock
    )
    assert order == ["peer0", "exact0", "peer1", "shared0", "peer2", "exact1", "peer3", "shared1"]
    assert taken.peer == [4, 6, 5, 8] and taken.variants == {"exact": [2, 3], "shared": [1, 1.5]}
    assert taken.ratio("exact", min) == 2 and taken.ratio("shared", statistics.median) == 5.5 / 1.25
    assert taken.noise(min) == 6 / 4
    assert math.isnan(timing.Timings([1.0], {}).noise(min))


def test_spread_of_many_timings_ignores_outliers() -> None:
    assert timing.spread([1.0, 1.5]) == 0.5
    assert timing.spread([1.0] * 30 + [9.0]) == 0


def test_memory_is_what_is_held_and_the_most_on_top() -> None:
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(1000)
    optimizer.step()
    state = 4 * 1000 * 3 + 4  # weight, two moments, and the step count
    assert timing.held([optimizer]) == state + 4000  # with the gradient

    def run() -> None:
        first = torch.empty(50_000)
        del first
        second, third = torch.empty(20_000), torch.empty(10_000)  # together less than the first alone
        del second, third

    assert timing.peak_memory(run, [optimizer], CPU) == state + 200_000


# ---- helpers of the adapters ---------------------------------------------------------------------------------------------


def test_patches_end_with_their_block(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("import utils\nprint('talks')\nvalue = utils.value\n")
    stub = SimpleNamespace(value=7)
    kept, randn, path = sys.modules.get("trainer"), torch.randn, list(sys.path)
    with peers.importing(tmp_path, utils=stub):
        import trainer  # type: ignore[import-not-found]
    assert trainer.value == 7 and sys.modules.get("trainer") is kept and "utils" not in sys.modules and sys.path == path
    values = torch.arange(6.0)
    with peers.handing_out([values]):
        assert torch.equal(torch.randn(2, 3).cpu(), values.view(2, 3))
    with pytest.raises(ValueError, match="1 random"), peers.handing_out([values]):
        pass
    with peers.cuda_means(CPU):
        assert values.cuda() is values
    assert torch.randn is randn


def test_checkouts_are_told_apart_by_what_is_in_their_files(tmp_path: Path) -> None:
    for name, text in {"munit": "class MUNIT_Trainer(nn.Module)", "deep/acl/code": "class aclgan_Trainer(nn.Module)"}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trainer.py").write_text(text)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cycle_gan_model.py").write_text("class CycleGANModel(BaseModel)")
    assert peers_style.MunitPeer.find(tmp_path) == tmp_path / "munit"
    assert peers_style.AclGanPeer.find(tmp_path) == tmp_path / "deep" / "acl" / "code"
    assert peers_resnet.CycleGANPeer.find(tmp_path) == tmp_path
    assert peers_style.UnitPeer.find(tmp_path) is None and peers_style.DritPeer.find(tmp_path) is None


# ---- a pair --------------------------------------------------------------------------------------------------------------


class Echo(peers.Peer):
    """Our own method again, as if published."""

    file, text = "echo.py", "Echo"
    scale = 1.0

    @classmethod
    def ours(cls, setting):
        return {"width": 4, "disc_width": 4, "n_res": 1, "mlp_dim": 8, "disc_layers": 2, "disc_scales": 1, "disc_init": "kaiming"}

    def build(self, method):
        net = type(method)(method.config, self.setting.channels)
        return SimpleNamespace(net=net, optim={n: OptimWrapper(optimizer=o) for n, o in net.optimizers().items()}, draws=None)

    def pairs(self, method):
        yield [p * self.scale for p in method.parameters()], list(self.model.net.parameters())

    @contextmanager
    def fed(self, draws):
        self.model.draws = draws
        yield

    def update(self, opacity, clear, full):
        self.model.log = self.model.net.step(Batch(opacity, clear, self.model.draws), self.model.optim, "train")

    def losses(self):
        return {name: float(value) for name, value in self.model.log.items()}

    def optimizers(self):
        return [w.optimizer for w in self.model.optim.values()]


def options(path: Path, **changes):
    given = {"peer": str(path), "methods": "munit", "size": 32, "batch": 2, "channels": 1, "width": 4, "repeats": 2, "threads": 0}
    return SimpleNamespace(**{**given, "variants": "exact,shared", **changes})


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "echo.py").write_text("class Echo")
    monkeypatch.setattr(training, "PEERS", {"munit": Echo})
    return tmp_path


def test_a_pair_that_agrees_is_timed(echo: Path, capsys: pytest.CaptureFixture) -> None:
    training.run(options(echo), CPU)
    lines = capsys.readouterr().out.splitlines()
    gap = float(next(x for x in lines if "largest relative difference" in x).split(": ")[2].split()[0])
    rows = [x.split() for x in lines if x.strip().startswith("munit ")]
    assert gap < 1e-5 and [r[1] for r in rows] == ["peer", "exact", "shared"]
    assert all(float(r[2]) > 0 and 0.1 < float(r[6]) < 10 for r in rows[1:])
    assert any("torch " + torch.__version__ in x for x in lines)


def test_a_pair_that_differs_is_refused(echo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(Echo, "scale", 1.001)
    with pytest.raises(BenchError, match=r"munit: '\w+' differs by .* not timed"):
        training.run(options(echo), CPU)
    assert "times as fast" not in capsys.readouterr().out


def test_published_code_that_fails_is_an_error_of_one_line(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "build", lambda self, method: 1 / 0)
    with pytest.raises(BenchError, match=r"munit: .* cannot be run: ZeroDivisionError"):
        training.run(options(echo), CPU)


def test_losses_that_are_missing_or_not_finite_do_not_agree() -> None:
    assert training.difference({"a": 1.0, "b": 2.2}, {"a": 1.0, "b": 2.0}) == (pytest.approx(0.1), "b")
    assert training.difference({"a": 1.0}, {"a": 1.0, "b": 2.0}) == (math.inf, "b")
    assert training.difference({"a": 1.0, "b": math.nan}, {"a": 1.5, "b": 2.0}) == (math.inf, "b")


def test_options_are_checked(echo: Path) -> None:
    for changes, message in (
        ({"variants": "exactly"}, "unknown variant 'exactly'. Did you mean 'exact'"),
        ({"methods": "munitt"}, "unknown method with a peer 'munitt'"),
        ({"size": 0}, "--size 0"),
        ({"peer": str(echo / "none")}, "no such folder"),
    ):
        with pytest.raises(UsageError) as raised:
            training.run(options(echo, **changes), CPU)
        assert message in str(raised.value)


def test_a_folder_without_checkouts_is_wrong_usage(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--training", "--peer", str(tmp_path), "--methods", "cut,munit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: --peer {tmp_path}: no checkout to measure cut, munit against")
    assert "cut: skipped; no models/cut_model.py" in done.stdout
