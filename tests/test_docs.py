"""The documentation says what the code does: commands parse, links lead somewhere, every metric is defined."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT
from fixtures_data import reader as make_reader

from bench import config
from bench.cli import _CALLS
from bench.contracts import Metric
from bench.data.readers import BUILTIN
from bench.errors import UsageError
from bench.experiment import evaluator_config, method_config
from bench.parser import build_parser
from bench.registry import EVALUATORS

DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
#: Configurations whose metrics differ: of presets, and of keys that change them.
SETTINGS: Mapping[str, tuple[str, list[str]]] = {
    "quick": ("quick", []), "small": ("small", []), "paper": ("paper", []),
    "all data types": ("quick", ["evaluators.classification.data_types=original,generated,rvt,mix,mask"]),
    "pooled": ("quick", ["evaluators.segmentation.definition=pooled"]),
    "both classes": ("quick", ["evaluators.segmentation.classes=both"]),
    "both classes, pooled": ("quick", ["evaluators.segmentation.classes=both", "evaluators.segmentation.definition=pooled"]),
}  # fmt: skip
#: What stands for "not ranked".
NONE = "\u2013"
SIGNS = {"lower": "↓", "higher": "↑", "none": NONE}
#: Tests of classification whose figures are not ranked, whatever their kind: the page says so in a sentence.
UNRANKED = ("original", "rvt")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# -- commands and links ------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of each ``bench`` line in fenced blocks, with the shell variables that the page sets."""
    for page in PAGES:
        variables: dict[str, str] = {}

        def filled(line: str, known: dict[str, str] = variables) -> str:
            return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), line)

        for _, block in re.findall(r"^```(\w*)\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE):
            for line in map(filled, block.splitlines()):
                if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                    variables[assigned[1]] = assigned[2]
                words = re.match(r"(?:torchrun .* -m )?(bench .*)", line)
                if words:
                    yield page.name, words[1]


def wrong(command: str) -> str:
    """Why a command does not parse; empty where it does."""
    words = shlex.split(command, comments=True)[1:]
    if variable := next((word for word in words if word.startswith("$")), ""):
        return f"the page does not set {variable}"
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            _, left = build_parser(_CALLS).parse_known_args(words)
    except SystemExit as stop:
        return "" if stop.code in (0, None) else told.getvalue() or str(stop.code)
    return f"unknown: {left}" if left else ""


def test_commands_parse() -> None:
    found = list(commands())
    assert len(found) > 40 and {page for page, _ in found} == {page.name for page in PAGES if page.name != "protocol.md"}
    assert not {f"{page}: {command}": why for page, command in found if (why := wrong(command))}


@pytest.mark.parametrize("command", ["bench rum", "bench run --methd ours", "bench run --method ours --suit", "bench run $x"])
def test_a_wrong_command_does_not_parse(command: str) -> None:
    assert wrong(command)


def test_documented_flags_that_pages_promise() -> None:
    """Flags that a reader is sent to; a page that no longer shows them has lost its point."""
    shown = " ".join(command for _, command in commands())
    flags = [
        "--table 1 --against paper", "--full", "--format html", "--format latex", "--figures", "--cases first", "--wandb offline",
        "wandb sync", "--suite ablation",
    ]  # fmt: skip
    assert not [flag for flag in flags if flag not in shown]


def test_keys_that_pages_set_exist() -> None:
    """``--set KEY=VALUE`` between the lines: what an error's remedy names has to be a key, spelt out."""
    found = {key: value for page in PAGES for key, value in re.findall(r"`[^`\n]*--set ([a-z][\w.:]*)=([^`\s]*)[^`\n]*`", text(page))}
    assert len(found) > 10 and found["evaluators.fidelity.extractor"] == "cxr"
    for key, value in found.items():
        if key not in ("key", "train.K") and not key.startswith("methods.mmagic"):  # placeholders; an optional part
            known(key, value)
    with pytest.raises(UsageError):
        known("evaluators.fidelity.extracter", "cxr")


def known(key: str, value: str) -> None:
    """Set one key, of the part that it belongs to.

    Raises:
        UsageError: there is no such key, or no such value.
    """
    resolved = config.load("paper", None, [f"{key}={value}"], {})
    part, _, rest = key.partition(".")
    for kind, check in (("evaluators", evaluator_config), ("methods", method_config)):
        if part == kind:
            check(resolved, rest.split(".")[0])


def test_suites_datasets_and_presets_of_commands_exist() -> None:
    from bench import suites

    for page, command in commands():
        words = shlex.split(command, comments=True)
        for flag, known in (("--suite", {*suites.names(), "judge", "looks"}), ("--preset", set(config.preset_names()))):
            for value in (after for word, after in pairwise(words) if word == flag):
                assert value in known, f"{page}: {command}"
        for value in (after for word, after in pairwise(words) if word == "--data"):
            assert value.split("=")[0].split(",")[0] in {*BUILTIN, "films"}, f"{page}: {command}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_resolve() -> None:
    count = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
            if re.match(r"https?:", target):
                continue
            count += 1
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}"
    assert count > 20


def test_every_page_is_linked_from_the_readme() -> None:
    assert not [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text(PAGES[0])]


def test_pages_say_which_published_numbers_are_not_there() -> None:
    """The README and two pages name what cannot be compared; where such numbers are added, the pages have to change."""
    published = {path.stem for path in (ROOT / "leaderboards" / "published").glob("*.json")}
    assert published == {"table1", "table3"}
    for name in ("README.md", "docs/reproducing.md", "docs/protocol.md"):
        flat = " ".join(text(ROOT / name).replace("*", "").split())
        assert re.search(r"Table 2 and (of )?Figure 6 (is|are) not in the project", flat), name


def test_no_page_names_a_folder_of_a_developers_machine() -> None:
    for page in PAGES:
        assert not re.findall(r"/(?:home|root|work|tmp)/\S+", text(page)), page.name


# -- protocol ----------------------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Evaluator -> its part of the protocol."""
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text(DOCS / "protocol.md"), re.DOTALL | re.MULTILINE))


def rows(section: str) -> dict[str, list[str]]:
    """Key -> the cells after it, of every table of metrics: label, unit, direction, definition."""
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and re.fullmatch(r"`[\w/]+`", cells[0]):
            assert cells[0] not in found, f"{cells[0]} is defined twice"
            found[cells[0].strip("`")] = cells[1:]
    return found


def small(section: str) -> dict[str, list[str]]:
    """First cell in backticks -> the other cells, of tables with fewer columns (suffixes, tests)."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    return {cells[0].strip("`"): cells[1:] for cells in lines if len(cells) in (3, 4) and re.fullmatch(r"`\w+`", cells[0])}


def place(evaluator: str, metric: Metric) -> str:
    """The key under which the protocol defines a metric."""
    key = metric.key
    if evaluator == "segmentation":
        return key.split("/")[0]
    if evaluator == "classification" and (found := re.match(r"(\w+?)_(original|generated|rvt_real|rvt|mix|mask)_(\w+)$", key)):
        arch, _, what = found.groups()
        if arch in ("resnet50", "mobilenet", "efficientnet", "densenet"):
            return f"ARCH_original_{what}" if what.startswith("auroc_view") else f"ARCH_TEST_{what}"
    if evaluator == "classification" and key.startswith("auroc_"):
        return "auroc_TEST"
    if evaluator == "detection" and (found := re.match(r"(?:opacity|clear|blur|psnr_blur|psnr_noise)_(\w+)$", key)):
        return f"PART_{found[1]}"
    return re.sub(r"_(avg|views|back|floor)$", "", key) if evaluator == "fidelity" else key


def metrics(setting: str) -> Iterator[tuple[str, Metric]]:
    preset, sets = SETTINGS[setting]
    resolved = config.load(preset, None, sets, {})
    for name in EVALUATORS.builtin:
        cls, params = evaluator_config(resolved, name)
        yield from ((name, metric) for metric in cls.metrics(params))


def test_every_built_in_evaluator_has_a_section() -> None:
    assert set(EVALUATORS.builtin) <= set(sections())


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_metric_is_defined_as_it_is(setting: str) -> None:
    parts = {name: (rows(section), small(section)) for name, section in sections().items()}
    for evaluator, metric in metrics(setting):
        defined, others = parts[evaluator]
        where = place(evaluator, metric)
        assert where in defined, f"docs/protocol.md lacks {evaluator}/{metric.key} ({where})"
        label, unit, better, meaning = defined[where]
        assert len(meaning) > 4, where
        assert unit == metric.unit, f"{evaluator}/{metric.key}: unit {metric.unit}"
        if where == "auroc_TEST":
            test = metric.key.removeprefix("auroc_")
            assert metric.label == f"AUROC {others[test][0].lower()}"
        else:
            assert label == metric.label, f"{evaluator}/{metric.key}: {metric.label}"
        unranked = re.search(rf"(^|_)({'|'.join(UNRANKED)})(_(?!real)|$)", metric.key) and evaluator == "classification"
        expected = NONE if unranked else better
        assert SIGNS[metric.better] == expected, f"{evaluator}/{metric.key}: {metric.better}"
        assert not metric.shared or "shared" in meaning or evaluator in ("classification", "detection", "fidelity"), metric.key
        if evaluator == "fidelity" and where != metric.key:
            assert metric.part == others[metric.key.removeprefix(where)][0]


def test_nothing_is_defined_that_does_not_exist() -> None:
    real: dict[str, set[str]] = {}
    for setting in SETTINGS:
        for evaluator, metric in metrics(setting):
            real.setdefault(evaluator, set()).add(place(evaluator, metric))
    for evaluator in EVALUATORS.builtin:
        assert not set(rows(sections()[evaluator])) - real[evaluator], evaluator


def test_thresholds_of_the_protocol_are_those_of_the_code() -> None:
    from bench.config import DataConfig
    from evaluators import counting, detection_real, discrimination, faithfulness, fidelity, segmentation_scores, statistics

    found = sections()
    for evaluator, words in {
        "faithfulness": (f"s > {faithfulness.INSIDE}", f"s > {faithfulness.TOUCHED}", f"1/{1 / faithfulness.MARGIN:.0f} of the side"),
        "fidelity": (f"fewer than {fidelity.FEW:,} images", f"`kid_subsets` ({fidelity.FidelityConfig.kid_subsets})"),
        "segmentation": (f"below {100 * segmentation_scores.FLOOR:.0f} %",),
        "classification": (f"probability of {discrimination.THRESHOLD}", f"{discrimination.BINS} bins"),
        "detection": (
            f"({detection_real.DEFAULT_CONFIDENCE}, YOLOv5's default",
            f"`map_floor` ({detection_real.DetectionConfig.map_floor:.2f})",
            f"IoU {detection_real.DetectionConfig.nms_iou}", f"at most {detection_real.DetectionConfig.max_detections} boxes",
            f"overlap of {counting.IOU}",
        ),
    }.items():  # fmt: skip
        flat = " ".join(found[evaluator].split())
        assert not [part for part in words if part not in flat], evaluator
    rules = " ".join(text(DOCS / "protocol.md").split())
    assert f"`n_boot`: {statistics.N_BOOT:,}" in rules and f"at most {statistics.EXACT} patients" in rules
    shares = " / ".join(f"{100 * share:.0f}" for share in DataConfig.fractions)
    assert f"divided {shares}" in rules and statistics.MIN_PATIENTS == 4 and "none below four patients" in rules


# -- reproducing -------------------------------------------------------------------------------------------------------------


def test_budgets_and_hours_of_reproducing() -> None:
    """Iterations and batches are those of the preset, and hours follow from the work."""
    page, resolved = text(DOCS / "reproducing.md"), config.load("paper", None, [], {})
    row = r"^\| `(\w+)`(, pretraining)?.* \| ([\d,]+)(?: full updates)? x (\d+) \| ([\d.]+) \| (\d+) \|"
    found = re.findall(row, page, re.MULTILINE)
    assert len(found) == 9
    from bench.registry import METHODS

    for name, pretraining, iterations, batch, work, hours in found:
        assert float(hours) == pytest.approx(float(work) * 1e18 / 16e12 / 3600, rel=0.02), name
        if name == "drit":
            assert config.train_config(resolved, name).iterations == int(iterations.replace(",", ""))
            continue
        cls, own = method_config(resolved, name)
        budget = config.train_config(resolved, name)
        schedule = METHODS.get(name).schedule(own, budget.iterations, budget.batch_size)
        assert schedule["pretrain" if pretraining else "train"] == (int(iterations.replace(",", "")), int(batch)), cls


# -- datasets ----------------------------------------------------------------------------------------------------------------


def test_every_dataset_has_its_page() -> None:
    page = text(DOCS / "data.md")
    for name in BUILTIN:
        assert f"`{name}`" in page or f"[`{name}`]" in page, name
        policy = make_reader(name, ROOT).policy  # an instance's: that of `folder` is an option
        line = next(line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert line.split("|")[-2].strip().startswith(policy), f"{name} is {policy}"
        row = next(line for line in policies().splitlines() if line.startswith(f"| `{policy}` |"))
        assert f"`{name}`" in row.split("|")[-2], f"Policies: {name} is {policy}"


def policies() -> str:
    """The section of the data page that says what may be done under which policy."""
    return text(DOCS / "data.md").split("\n## Policies\n")[1].split("\n## ")[0]


def test_policies_of_the_page_are_those_of_the_code() -> None:
    """Every policy has a row, in the order of strictness, and W&B gets the pictures of those that the gate lets pass."""
    from bench.data.contract import POLICIES
    from bench.tracking import gate

    rows = {cells[1].strip(" `"): cells for cells in (line.split("|") for line in policies().splitlines() if "| `" in line[:4])}
    assert tuple(rows) == POLICIES
    for policy, cells in rows.items():
        assert (cells[2].strip() == "yes") == (policy in gate.OPEN), policy
        assert cells[3].strip().startswith("yes") == (policy in gate.TOLD), policy
    assert [rows["credentialed"][k].strip() for k in (4, 5)] == ["no", "no"]


def test_messages_of_the_data_page_are_the_readers_own() -> None:
    """What the tables quote occurs in the code: the words between what stands for names and numbers."""
    page = text(DOCS / "data.md")
    code = "".join(text(path) for path in sorted((ROOT / "bench" / "data").rglob("*.py")))
    flat = re.sub(r"\s+", " ", re.sub(r"[\"']\s*\n\s*f?[\"']", "", code))
    quoted = [q for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for q in re.findall(r"`([^`]+)`", cell) if " " in q]
    assert len(quoted) > 12
    names = r"\.\.\.|`|lung_masks |\bX\b|\bN\b|\bcontrol\b|'[^']*'|[\w/]+/[\w./]*|\w+\.csv row|\(.*?\)|\d{5,}|="
    for message in quoted:
        parts = [part.strip(" ,.:'()/") for part in re.split(names, message.removeprefix("note ").removeprefix("error "))]
        for part in (part for part in parts if len(part.split()) > 2):
            assert part in flat, f"no reader says '{part}' ({message})"
