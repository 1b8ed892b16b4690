"""The embedded datasets: rendered chest radiographs with full ground truth, no files needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.data.contract import Decoded, ImageRecord, Problem, Reader
from bench.data.synthetic.render import render
from bench.data.synthetic.spec import Case, case, images_of
from bench.errors import DataError, UsageError, unknown
from bench.registry import register_dataset

#: Side in pixels when the caller asks for none, and the smallest that still shows ribs.
DEFAULT_SIZE, LEAST_SIZE = 128, 32


@register_dataset("synthetic")
class Synthetic(Reader):
    """Rendered counterpart of a pneumonia challenge: half opacity, half clear, mixed views.

    Args:
        root: ignored; nothing is read.
        images: how many images in all (some patients have two).
        seed: of the whole dataset. The same seed gives the same bytes; a larger `images` only adds patients.

    Raises:
        UsageError: unknown option, or a value that is not a whole number in range.
    """

    version: ClassVar[int] = 1
    policy: ClassVar[str] = "open"
    lung_convention: ClassVar[str] = "heart-excluded"
    generated: ClassVar[bool] = True
    trains_prior: ClassVar[bool] = True
    planes: ClassVar[tuple[str, ...]] = ("lung_mask", "opacity", "counterpart")
    help: ClassVar[str] = "rendered, nothing to provide; options images=400, seed=0"
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": (), "seed": ()}
    default_images: ClassVar[int] = 400
    prefix: ClassVar[str] = "syn"

    def __init__(self, root: Path | None = None, **options: object) -> None:
        super().__init__(None, **options)
        for name in options:
            if name not in self.OPTIONS:
                raise unknown(f"option of dataset '{self.name}'", name, self.OPTIONS)
        self.images = self._whole("images", self.default_images, least=1)
        self.seed = self._whole("seed", 0, least=0)

    def _whole(self, name: str, default: int, least: int) -> int:
        value = self.options.get(name, default)
        try:
            number = int(str(value))
        except ValueError:
            number = least - 1
        if number < least:
            raise UsageError(f"dataset '{self.name}': {name}={value} must be a whole number of at least {least}.")
        return number

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """One record an image; nothing is rendered."""
        found: list[ImageRecord] = []
        patient = 0
        while len(found) < self.images:
            count = min(images_of(self.seed, self.name, patient), self.images - len(found))
            found += [self._record(case(self.seed, self.name, patient, image)) for image in range(count)]
            patient += 1
        return found, [], False

    def _record(self, drawn: Case) -> ImageRecord:
        patient = f"{self.prefix}-{drawn.patient:05d}"
        return ImageRecord(
            image_id=f"{patient}-{drawn.image}",
            path="",
            domain=drawn.domain,
            patient_id=patient,
            view=drawn.shot.view,
            sex=drawn.body.sex,
            age=drawn.body.age,
            findings=drawn.findings,
            extra={
                "seed": str(self.seed),
                "opacities": ",".join(lesion.kind for lesion in drawn.lesions),
                "devices": ",".join(drawn.devices),
            },
        )

    def case_of(self, record: ImageRecord) -> Case:
        """The specification behind a record.

        Raises:
            DataError: the record does not belong to this dataset.
        """
        parts = record.image_id.rsplit("-", 2)
        if len(parts) != 3 or parts[0] != self.prefix or not (parts[1] + parts[2]).isdigit():
            raise DataError(f"dataset '{self.name}' has no image '{record.image_id}'; its ids read {self.prefix}-00000-0.")
        return case(self.seed, self.name, int(parts[1]), int(parts[2]))

    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        """Render an image and its planes at size x size (default 128).

        Raises:
            DataError: the record is not of this dataset, or the size is below 32.
        """
        side = DEFAULT_SIZE if size is None else size
        if side < LEAST_SIZE:
            raise DataError(f"dataset '{self.name}': {side} pixels are too few to show a chest; use at least {LEAST_SIZE}.")
        drawn = render(self.case_of(record), side)
        return Decoded(
            image=drawn.image,
            bits=12,
            lung_mask=drawn.lung_mask,
            opacity=drawn.opacity,
            counterpart=drawn.counterpart,
            boxes=drawn.boxes,
        )


@register_dataset("synthetic-icu")
class SyntheticIcu(Synthetic):
    """Rendered counterpart of an intensive care set: supine patients with lines and tubes, AP views throughout.

    Two of every five patients have ARDS (``opacity``), the others are controls (``clear``): the same bodies, shots and devices,
    drawn alike for both, and no opacity. Neither tells the class; an enlarged heart occurs in both.
    """

    version: ClassVar[int] = 2
    trains_prior: ClassVar[bool] = False
    help: ClassVar[str] = "rendered, nothing to provide; 40 % ARDS, 60 % controls; options images=120, seed=0"
    default_images: ClassVar[int] = 120
    prefix: ClassVar[str] = "icu"


@register_dataset("synthetic-clear")
class SyntheticClear(Synthetic):
    """Rendered counterpart of a film set of healthy chests: clear, PA, high quality."""

    trains_prior: ClassVar[bool] = False
    help: ClassVar[str] = "rendered, nothing to provide; options images=96, seed=0"
    default_images: ClassVar[int] = 96
    prefix: ClassVar[str] = "clr"
