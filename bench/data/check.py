"""Looking a dataset over before anything is trained on it: what is there, what is missing, what is broken."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations

from bench.data.contract import DOMAINS, MASK_LUNG, OTHER, Box, Decoded, ImageRecord, Problem, Reader
from bench.data.geometry import Frame, clip
from bench.data.pixels import doubts
from bench.data.tables import note, one_line
from bench.errors import DataError

#: Problems that `render` lists before it only counts the rest.
LISTED = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What `inspect` found. Counters map a value to the number of images that have it.

    Attributes:
        dataset, root, policy, lung_convention, leaky: of the reader.
        images: usable records; with `decoded` those whose files were all decoded.
        domains: opacity, clear, other (those that occur).
        classes: the dataset's own names for its classes, where they say more than the domains.
        patients, shared: patients, and those among them with images in both domains.
        views, sexes, splits, sizes, bits: ``""`` is unknown; sizes are ``(width, height)``.
        boxes, boxed: opacity boxes, and images that have some.
        planes: optional plane -> images that have it.
        problems: fatal ones first.
        decoded: whether pixels were read (else sizes, bits and broken files are unknown).
    """

    dataset: str
    root: str
    policy: str
    lung_convention: str
    leaky: bool
    images: int
    domains: Mapping[str, int]
    classes: Mapping[str, int]
    patients: int
    shared: int
    views: Mapping[str, int]
    sexes: Mapping[str, int]
    splits: Mapping[str, int]
    boxes: int
    boxed: int
    planes: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    bits: Mapping[int, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    decoded: bool = True

    @property
    def usable(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(problem.fatal for problem in self.problems)


def inspect(reader: Reader, decode: bool = True, workers: int = 2, progress: Progress | None = None) -> Report:
    """Read a dataset's tables and, with `decode`, every file; collect everything that is wrong.

    Args:
        reader: the dataset.
        decode: decode every image with its masks, which alone finds broken files, and images that are there twice.
        workers: threads that decode.
        progress: called with (images done, images) after each image.

    Raises:
        DataError: the folder lacks the tables without which nothing can be said; the message lists them.
    """
    records, problems, leaky = reader.records()
    records = sorted(records, key=lambda record: record.image_id)
    problems = list(problems) + _repeated(records)
    if not records:
        problems.append(Problem(str(reader.root), "no usable image is left."))
    sizes: Counter[tuple[int, int]] = Counter()
    bits: Counter[int] = Counter()
    sound = []
    masked, empty = 0, list[str]()
    alike: defaultdict[str, list[ImageRecord]] = defaultdict(list)
    if decode:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            answers = pool.map(lambda record: _decode(reader, record), records)
            for done, (record, answer) in enumerate(zip(records, answers, strict=True), start=1):
                problems += answer.problems
                if answer.size:
                    sound.append(record)
                    alike[answer.pixels].append(record)
                    sizes[answer.size] += 1
                    bits[answer.bits] += 1
                    masked += answer.lungs is not None
                    empty += [record.image_id] if answer.lungs is False else []
                if progress:
                    progress(done, len(records))
    else:
        sound = records
    broken = {problem.where for problem in problems if problem.fatal}
    problems = [problem for problem in problems if problem.fatal or problem.where not in broken]
    problems += _empty(reader.name, masked, empty)
    problems += _twice(reader.name, [group for pixels, group in alike.items() if pixels and len(group) > 1])
    domains = Counter(record.domain for record in sound)
    if sound:
        problems += [
            Problem(reader.name, f"holds no {domain} image; it can be tested on, not trained on alone.", fatal=False)
            for domain in DOMAINS
            if not domains[domain]
        ]
    classes = Counter(record.extra["class"] for record in sound if "class" in record.extra)
    homes = {d: {r.patient_id for r in sound if r.domain == d} for d in DOMAINS}
    planes = Counter(p for r in sound for p, there in (("lung_mask", r.lung_mask), ("counterpart", r.counterpart)) if there)
    return Report(
        dataset=reader.name, root=str(reader.root), policy=reader.policy, lung_convention=reader.lung_convention,
        leaky=leaky, images=len(sound), domains={d: domains[d] for d in (*DOMAINS, OTHER) if domains[d]}, classes=classes,
        patients=len({r.patient_id for r in sound}), shared=len(homes[DOMAINS[0]] & homes[DOMAINS[1]]),
        views=Counter(r.view for r in sound), sexes=Counter(r.sex for r in sound), splits=Counter(r.split for r in sound),
        boxes=sum(len(r.boxes or ()) for r in sound), boxed=sum(bool(r.boxes) for r in sound), planes=planes, sizes=sizes,
        bits=bits, problems=tuple(sorted(problems, key=lambda problem: not problem.fatal)), decoded=decode,
    )  # fmt: skip


@dataclass(frozen=True)
class _Answer:
    """What decoding one image showed; `lungs` is whether its lung mask holds any lung, None without a mask; `pixels` a hash of
    its size and pixels, empty where all are alike."""

    size: tuple[int, int] | None
    bits: int
    problems: list[Problem]
    lungs: bool | None = None
    pixels: str = ""


def _decode(reader: Reader, record: ImageRecord) -> _Answer:
    try:
        decoded = reader.load(record)
    except DataError as error:
        return _Answer(None, 0, [_located(reader, record, str(error))])
    except Exception as error:  # a plug-in's reader may raise anything; one image must not end the inspection
        return _Answer(None, 0, [Problem(record.path, f"cannot be decoded ({type(error).__name__}: {one_line(error)}).")])
    height, width = decoded.image.shape
    where = record.path or record.image_id
    boxes = decoded.boxes if decoded.boxes is not None else record.boxes or ()
    try:
        Frame(height, width, max(height, width)).boxes(boxes)
    except ValueError as error:
        return _Answer(None, 0, [Problem(where, f"{error}.")])
    lungs = None if decoded.lung_mask is None else bool((decoded.lung_mask == MASK_LUNG).any())
    pixels = ""
    if decoded.image.min() < decoded.image.max():  # blank images are doubted by themselves
        pixels = hashlib.blake2b(decoded.image.tobytes(), digest_size=16).hexdigest() + f"-{width}x{height}"
    return _Answer((width, height), decoded.bits, _look(where, decoded, boxes), lungs, pixels)


def _look(where: str, decoded: Decoded, boxes: Sequence[Box]) -> list[Problem]:
    """Doubts about one decoded image; none is fatal."""
    found = []
    if why := doubts(decoded.image):
        found.append(why)
    height, width = decoded.image.shape
    if cut := sum(clip(box, width + 1e-6, height + 1e-6) != box for box in boxes):  # scaling rounds
        found.append(f"{cut} of its boxes leave the image ({width}x{height}) and are cut at its border")
    return [Problem(where, what, fatal=False) for what in found]


def _empty(name: str, masked: int, empty: Sequence[str]) -> list[Problem]:
    """One note on masks without any lung: nothing can be segmented, or learnt, there."""
    if masked and len(empty) == masked:
        what = f"every lung mask is empty ({masked} of {masked}): there is no lung to learn or to score; look at the mask files."
        return [Problem(name, what, fatal=False)]
    return note(name, empty, "empty lung mask")


def _twice(name: str, groups: Iterable[Sequence[ImageRecord]]) -> list[Problem]:
    """What images with the same pixels mean: in both domains, or in two splits, they cannot be used; else a note counts them.

    Pixels tell more than bytes: a file saved anew, or a DICOM file under another patient's name, is the same image.
    """
    found, again = list[Problem](), list[str]()
    for group in groups:
        kinds: dict[tuple[str, str], ImageRecord] = {}
        for record in group:
            kinds.setdefault((record.domain, record.split), record)
        why = next((why for pair in combinations(kinds.values(), 2) if (why := _conflict(*pair))), None)
        if why:
            found.append(why)
        else:
            again += [record.image_id for record in group[1:]]
    return found + note(name, again, "same pixels as another image")


def _conflict(one: ImageRecord, two: ImageRecord) -> Problem | None:
    """Why two records cannot have the same pixels; None where they can."""
    first, second = (record.path or record.image_id for record in (one, two))
    if {one.domain, two.domain} == set(DOMAINS):
        return Problem(first, f"{one.domain}, has the pixels of {second}, {two.domain}; an image has one domain: remove one.")
    if one.split and two.split and one.split != two.split:
        what = f"in split '{one.split}', has the pixels of {second} in '{two.split}'; what is learnt may not be tested: remove one."
        return Problem(first, what)
    return None


def _located(reader: Reader, record: ImageRecord, text: str) -> Problem:
    """Split "file: what" of a message; files are named relative to the root."""
    where, colon, what = text.replace(f"{reader.root}/", "").partition(": ")
    return Problem(where, what) if colon else Problem(record.path or record.image_id, text)


def _repeated(records: list[ImageRecord]) -> list[Problem]:
    """Images need distinct names on every file system, also on those that ignore case."""
    counts = Counter(record.image_id.lower() for record in records)
    return [
        Problem(record.path or record.image_id, f"shares its id {record.image_id} with another image; rename one.")
        for record in records
        if counts[record.image_id.lower()] > 1
    ]


def render(report: Report) -> str:
    """The report as a few lines of text; what cannot be used is told in at most 13."""
    fatal = sum(problem.fatal for problem in report.problems)
    verdict = "can be used" if report.usable else f"cannot be used ({fatal} error{'s' * (fatal > 1)})"
    lines = [f"{report.dataset} at {report.root}: {verdict}"]
    if report.usable:
        lines += [f"  {name:<9} {text}" for name, text in _facts(report) if text]
    else:
        lines.append(f"  images    {_images(report)}")
    for problem in report.problems[:LISTED]:
        lines.append(f"  {'error' if problem.fatal else 'note':<9} {one_line(problem, 240)}")
    if len(report.problems) > LISTED:
        left = report.problems[LISTED:]
        errors = sum(problem.fatal for problem in left)
        lines.append(f"  and {len(left)} more ({errors} error{'s' * (errors != 1)})")
    return "\n".join(lines)


def _images(report: Report) -> str:
    shares = [f"{d} {n} ({100 * n / report.images:.0f}%)" for d, n in report.domains.items()]
    return ": ".join([str(report.images), *([", ".join(shares)] if shares else [])])


def _facts(report: Report) -> list[tuple[str, str]]:
    shared = f", {report.shared} of them in both domains" if report.shared else ""
    sizes = Counter(report.sizes).most_common()
    others = [f"{len(sizes) - 3} other sizes"] if len(sizes) > 3 else []
    shown = ", ".join([f"{w}x{h} ({n})" for (w, h), n in sizes[:3]] + others)
    planes = [f"{name} {n}" for name, n in report.planes.items()]
    boxes = [f"boxes {report.boxes} on {report.boxed} images"] if report.boxes else []
    convention = [report.lung_convention] if report.lung_convention else []
    leaky = " (patients unknown for some images: splits may leak)" if report.leaky else ""
    return [
        ("images", _images(report)),
        ("classes", _counts(dict(Counter(report.classes).most_common(5)))),
        ("patients", f"{report.patients}{shared}{leaky}"),
        ("views", "; ".join(text for text in (_counts(report.views), _counts(report.sexes)) if text)),
        ("splits", _counts(report.splits)),
        ("sizes", shown if report.decoded else "not decoded"),
        ("bits", ", ".join(f"{b} ({n})" for b, n in sorted(report.bits.items()))),
        ("planes", ", ".join(planes + boxes + convention)),
        ("policy", report.policy),
    ]


def _counts(values: Mapping[str, int]) -> str:
    """``AP 3, PA 2, unknown 1``; empty when nothing is known."""
    known = {key: n for key, n in values.items() if key}
    blank = {"unknown": values[""]} if known and values.get("") else {}
    return ", ".join(f"{key} {n}" for key, n in {**dict(sorted(known.items(), key=lambda kv: -kv[1])), **blank}.items())
