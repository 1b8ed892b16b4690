"""A small results folder with inputs, translations, masks and values by image, for tests of cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fixtures_data import save_png
from leaderboard_tools import metric, record, score

from bench import records as files
from bench.files import file_digest, write_json

SIZE = 8
#: Image -> domain, of a test set whose order is not that of its names.
IMAGES = {"c1": "clear", "b2": "opacity", "a3": "opacity", "b1": "opacity", "a1": "clear", "d9": "opacity"}
METRICS = [metric("error", "Error", "lower", primary=True), metric("gain", "Gain"), metric("boxes", "Boxes", "none")]
#: Image -> error, gain, boxes, as the method ours has them.
VALUES = {"b2": (0.4, 1.0, 3), "a3": (0.1, 9.0, 3), "b1": (0.4, 5.0, 1), "d9": (0.2, 2.0, 2)}


class Folder:
    """A results folder as runs leave it, for one test set, of grey levels that tell which image is which."""

    def __init__(self, root: Path, images: Mapping[str, str] = IMAGES, planes: Iterable[str] = ("images",)) -> None:
        self.root, self.images = root, images
        self.place = root / "sources" / f"rsna-01234567-{SIZE}"
        for name in planes:
            for image_id in images:
                save_png(self.place / name / f"{image_id}.png", self.grey(image_id, name))
        facts = {
            "dataset": "rsna", "fingerprint": "0123456789abcdef", "identity": "i", "size": SIZE, "policy": "open", "split": "test",
            "ids": list(images), "domains": dict(images), "planes": list(planes), "content": "c", "contents": {},
        }  # fmt: skip
        write_json(self.place / "manifest.json", facts)

    def grey(self, image_id: str, of: str, seed: int = 0) -> Any:
        """The pixels of an image: nothing else looks like it."""
        if of == "lungs":
            return np.full((SIZE, SIZE), 127, np.uint8)
        return np.random.default_rng([*image_id.encode(), *of.encode(), seed]).integers(0, 255, (SIZE, SIZE)).astype(np.uint8)

    def run(self, method: str, seed: int = 0, masks: bool = False) -> Path:
        """The folder of a training, with its translations."""
        run = self.root / method / "rsna" / f"seed{seed}-12345678"
        place = run / "translated" / "rsna-87654321"
        for kind in ("images", "masks")[: 2 if masks else 1]:
            for image_id in self.images:
                save_png(place / kind / f"{image_id}.png", self.grey(image_id, f"{method}/{kind}", seed))
        hashes = {i: file_digest(place / "images" / f"{i}.png") for i in self.images}
        write_json(place / "manifest.json", {"key": "k", "content": f"{method}{seed}", "files": hashes, "masks": masks})
        write_json(run / "translated" / "rsna-b2a-1" / "manifest.json", {"key": "k", "content": "other", "files": {}, "masks": False})
        return run

    def score(self, method: str, evaluator: str = "toy", seed: int = 0, values: Any = None, **changes: Any) -> dict[str, Any]:
        """Write a record and its values by image; returns the record."""
        values = VALUES if values is None else values
        stem = f"rsna--{evaluator}-abcdef01"
        one = record(
            method, evaluator, metrics=METRICS, scores={m["key"]: score(0.3, n=len(values)) for m in METRICS}, seed=seed,
            image_size=SIZE, translated_content=f"{method}{seed}", per_image=f"{stem}.csv", policy="open", key="abcdef0123",
            written="2026-01-01",
        )  # fmt: skip
        place = self.root / method / "rsna" / f"seed{seed}-12345678" / "records"
        files.write(place / f"{stem}.json", {**one, **changes})
        rows = [",".join([i, f"p{i}", *map(str, some)]) for i, some in values.items()]
        (place / f"{stem}.csv").write_text("\n".join(["image_id,patient_id,error,gain,boxes", *rows]) + "\n")
        return one

    def load(self) -> list[dict[str, Any]]:
        """Its records."""
        found, warnings = files.load([self.root])
        assert not warnings, warnings
        return found


def two_methods(root: Path) -> Folder:
    """Two methods, one with masks, and the untranslated images."""
    folder = Folder(root)
    for method in ("original", "cyclegan", "ours"):
        folder.run(method, masks=method == "ours")
        folder.score(method)
    return folder


def bits(values: Mapping[str, Any]) -> Any:
    return np.packbits(np.stack(list(values.values())), axis=-1)
