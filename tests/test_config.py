"""Configuration: defaults, files and flags, and what is said about mistakes in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from conftest import Bench

from bench import config
from bench.config import fill, fingerprint, load, plain, section_config, train_config
from bench.errors import UsageError
from evaluators.segmentation_config import SegmentationConfig


def test_order_is_preset_file_flag(tmp_path: Path) -> None:
    quick = load("quick")
    assert quick.train.iterations < load("paper").train.iterations == 250_000
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  iterations: 50\n  batch_size: 3\nmethods:\n  ours: {lr: 1e-3}\n")
    mine = load("quick", str(path))
    assert (mine.train.iterations, mine.train.batch_size, mine.train.ema) == (50, 3, quick.train.ema) and quick.train.ema > 0
    assert mine.methods["ours"]["width"] == quick.methods["ours"]["width"]
    assert float(mine.methods["ours"]["lr"]) == 1e-3 != float(quick.methods["ours"]["lr"])
    both = load("quick", str(path), ["train.iterations=7", "methods.ours.lr=0.5"])
    assert both.train.iterations == 7 and both.methods["ours"]["lr"] == "0.5" and both.train.batch_size == 3


def _own(found: config.BenchConfig, method: str = "cyclegan") -> tuple[int, int]:
    settings = train_config(found, method)
    return settings.iterations, settings.batch_size


def test_train_keys_end_budgets_set_before(tmp_path: Path) -> None:
    paper = load("paper")
    assert _own(paper) == (500_000, 1) and _own(paper, "ours") == (250_000, 2)
    for method in ("cyclegan", "acl_gan", "uvcgan"):
        assert _own(load("paper", None, ["train.iterations=100", "train.batch_size=8"]), method) == (100, 8)
    assert _own(load("paper", None, ["train.iterations=100"])) == (100, 1), "each key by itself"
    assert _own(load("paper", None, [], {"train": {"iterations": 100}})) == (100, 1)
    path = tmp_path / "mine.yaml"
    path.write_text("train: {iterations: 50}\nbudgets: {cyclegan: {batch_size: 4}}\n")
    assert _own(load("paper", str(path))) == (50, 4) and _own(load("paper", str(path)), "cut") == (50, 1)
    both = load("paper", str(path), ["train.batch_size=8"])
    assert _own(both) == (50, 8)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_budgets_set_together_with_train_keys_hold(order: tuple[int, int], tmp_path: Path) -> None:
    sets = ["train.iterations=100", "budgets.cyclegan.iterations=40"]
    both = load("paper", None, [sets[i] for i in order])
    assert _own(both) == (40, 1) and _own(both, "cut") == (100, 1)
    path = tmp_path / "mine.yaml"
    path.write_text("train: {iterations: 50}\nbudgets: {cut: {iterations: 30}}\n")
    assert _own(load("paper", str(path)), "cut") == (30, 1)
    assert _own(load("paper", str(path), ["budgets.cyclegan.iterations=40"])) == (40, 1), "set later than train.iterations"
    assert _own(load("paper", str(path), [sets[0]]), "cut") == (100, 1)


def test_python_files_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("train = dict(iterations=2 * 5)\n")
    assert load("quick", str(path)).train.iterations == 10


@pytest.mark.parametrize("name", config.preset_names())
def test_presets_are_valid_down_to_methods_and_evaluators(name: str) -> None:
    from bench.registry import EVALUATORS, METHODS

    found = load(name)
    for registry, sections in ((METHODS, found.methods), (EVALUATORS, found.evaluators)):
        for key in sections:
            config.section_config(registry.get(key).Config, sections, "x", key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.iteration=5", r"unknown config key 'train.iteration'\. Did you mean 'train.iterations'\?"),
        ("trian.iterations=5", r"unknown config key 'trian'\. .*Known keys: data.size"),
        ("no.such.key=1", "unknown config key 'no'"),
        ("data.sizes=64", r"Did you mean 'data.size'\?"),
        ("prior.weight=x", r"Did you mean 'prior.weights'\?"),
        ("methods.cylegan.lr=1", "unknown method 'cylegan'"),
        ("methods.our.lr=1", r"unknown method 'our'\. Did you mean 'ours'\?"),
        ("evaluators.fidelty.seed=1", r"unknown evaluator 'fidelty'\. Did you mean 'fidelity'\?"),
        ("datasets.synthetc.images=1", r"unknown dataset 'synthetc'\. Did you mean 'synthetic'\?"),
        ("methods.ours=1", "'methods' needs a name and a key below it"),
        ("budgets=1", "'budgets' needs a name and a key below it"),
        ("budgets.ours=1", "'budgets' needs a name and a key below it"),
        ("train=5", r"'train' holds several keys \(iterations, .*\); set one of them"),
        ("train.iterations", "expected key=value, for example"),
        ("train.iterations=many", r"'train.iterations': cannot use 'many'"),
        ("train.iterations=1.5", "a whole number expected"),
        ("train.iterations=inf", "'train.iterations': cannot use 'inf'"),
        ("train.iterations=0", "train.iterations=0: at least 1"),
        ("train.batch_size=-1", "train.batch_size=-1: at least 1"),
        ("train.ema=1", "train.ema=1.0: at least 0, below 1"),
        ("train.ema=nan", "a finite number expected"),
        ("train.compile=perhaps", r"'train.compile': cannot use 'perhaps' \(true or false"),
        ("train.precision=fp16", "train.precision=fp16: fp32 or bf16"),
        ("train.checkpoint_interval=0", "at least 1"),
        ("data.fractions=0.5,0.5", "3 values expected"), ("data.fractions=[0.5, 0.5]", "3 values expected"),
        ("data.fractions=[0.5", r"a list expected: \[a, b\] or a,b"),
        ("data.fractions=0.5,0.5,0.5", "do not add up to 1"),
        ("data.size=8", "data.size=8: at least 16"),
        ("data.load_size=32", "data.load_size=32 is below data.size=64"),
        ("data.min_crop=0", "data.min_crop=0.0: above 0"),
    ],
)
def test_mistakes_name_the_key(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        load("quick", None, [text])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0.5,0.2,0.3", "[0.5, 0.2, 0.3]", "[0.5,0.2,0.3]"])
def test_a_list_is_written_as_in_yaml_or_between_commas(text: str) -> None:
    assert load("quick", None, [f"data.fractions={text}"]).data.fractions == (0.5, 0.2, 0.3)


@pytest.mark.parametrize("text", ["[unet.lr=2e-3, vgg.iterations=5]", "unet.lr=2e-3,vgg.iterations=5"])
def test_a_list_of_assignments(text: str) -> None:
    evaluators = load("quick", None, [f"evaluators.segmentation.recipes={text}"]).evaluators
    found = section_config(SegmentationConfig, evaluators, "evaluators", "segmentation")
    assert found.recipe("unet")["lr"] == 0.002 and found.recipe("vgg")["iterations"] == 5


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "train: {iterations: 5\n", r"a.yaml cannot be read: ParserError: .*line 1"),
        ("a.yaml", "trian: {iterations: 5}\n", "unknown config key 'trian'"),
        ("a.yaml", "train: {itertions: 5}\n", r"Did you mean 'train.iterations'\?"),
        ("a.yaml", "- train\n", "a.yaml cannot be read"),
        ("a.yaml", "train: [1, 2]\n", "'train' holds several keys"),
        ("a.yaml", "train: {iterations: true}\n", "a whole number expected"),
        ("a.yaml", "train: {precision: {a: 1}}\n", "'train.precision': cannot use"),
        ("a.txt", "train: 1\n", "a.txt cannot be read"),
        ("a.py", "train = dict(\n", "a.py cannot be read"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        load("quick", str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_unknown_preset() -> None:
    with pytest.raises(UsageError, match=r"--config: nowhere.yaml does not exist"):
        load("quick", "nowhere.yaml")
    with pytest.raises(UsageError, match=r"unknown preset 'quik'\. Did you mean 'quick'\? Available: paper, quick, small\."):
        load("quik")


@dataclass(frozen=True)
class Example:
    number: float = 1.0
    whole: int = 1
    flag: bool = False
    names: tuple[str, ...] = ()
    pair: tuple[float, float] = (0.5, 0.9)
    kind: Literal["a", "b"] = "a"
    maybe: float | None = None


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("number", "1e-4", 1e-4), ("whole", "1e3", 1000), ("flag", "True", True), ("flag", "no", False), ("names", "a,b", ("a", "b")),
        ("names", "", ()), ("pair", "0.1,0.2", (0.1, 0.2)), ("kind", "b", "b"), ("maybe", "none", None), ("maybe", "2", 2.0),
    ],
)  # fmt: skip
def test_values_are_parsed_by_the_fields_type(key: str, text: str, value: object) -> None:
    found = getattr(fill(Example, {key: text}, "x"), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("key", "text"), [("pair", "1"), ("kind", "c"), ("number", "x"), ("maybe", "x"), ("flag", "2")])
def test_values_of_another_type_are_refused(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"config key 'x.{key}': cannot use"):
        fill(Example, {key: text}, "x")


@pytest.mark.parametrize("key", ["evaluators.classification.folds", "methods.ours.width", "methods.uvcgan.vit_heads"])
def test_what_a_value_must_not_be_is_told_with_the_whole_key(key: str, bench: Bench) -> None:
    answer = bench("run", "--method", "all", "--set", f"{key}=-7", "--dry-run")
    assert answer.code == 2 and answer.last.startswith(f"error: {key}: -7 is not a number of at least ")


def test_fingerprint_is_of_values_not_of_spelling() -> None:
    one, two = load("quick", None, ["methods.ours.lr=0.0004"]), load("quick", None, ["methods.ours.lr=4e-4"])
    methods = [config.section_config(_ours(), c.methods, "methods", "ours") for c in (one, two)]
    assert fingerprint(methods[0]) == fingerprint(methods[1])
    other = config.section_config(_ours(), load("quick", None, ["methods.ours.lr=4e-3"]).methods, "methods", "ours")
    assert fingerprint(other) != fingerprint(methods[0])
    assert plain({"a": (1, Path("b"))}) == {"a": [1, "b"]}


def _ours() -> type:
    from bench.registry import METHODS

    return METHODS.get("ours").Config
