"""Who is imaged, how, and with what in the lungs: numbers only, drawn before anything is rendered.

Every value is a pure function of (seed, variant, patient index, image index), so labels are known without rendering and any
image can be rendered alone, in any process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from bench.data.contract import CLEAR, FINDINGS, OPACITY

#: The three test sets' roles: pneumonia challenge, intensive care with and without opacities, healthy at high quality.
VARIANTS = ("synthetic", "synthetic-icu", "synthetic-clear")
#: Heart scale from which an enlarged heart is labelled.
CARDIOMEGALY = 1.2


@dataclass(frozen=True)
class Body:
    """Anatomy of one patient; lengths in cm, the rest relative to an average adult."""

    sex: str
    age: float
    size: float
    broad: float
    deep: float
    fat: float
    breast: float
    heart: float
    heart_turn: float
    aorta: float
    domes: tuple[float, float]
    scoliosis: float
    bone: float
    rib_slope: float
    vessels: float
    gas: float
    seed: int


@dataclass(frozen=True)
class Shot:
    """One exposure of a patient.

    Attributes:
        view: ``"AP"`` or ``"PA"``.
        inspiration: 0 shallow to 1 deep.
        turn, tilt, roll: pose in radians.
        width: side of the field in the plane of the chest, cm.
        centre: offset of the field, cm.
        arms: 0 hands on hips, away from the lungs, to 1 arms along the body.
        collimation: left, right, top, bottom margins that the diaphragm of the tube shuts, as fractions of the side.
        quanta: detected quanta per cm^2 in the open field, in thousands.
        scatter: amount of scattered radiation, 0 for none; about 0.3 with a grid, 0.55 without.
        lung_level, body_level: displayed brightness of clear lung and of the densest tissue.
        equalise: how much slow brightness changes are flattened, as digital systems do.
        seed: of the quantum noise.
    """

    view: str
    inspiration: float
    turn: float
    tilt: float
    roll: float
    width: float
    centre: tuple[float, float]
    arms: float
    collimation: tuple[float, float, float, float]
    quanta: float
    scatter: float
    lung_level: float
    body_level: float
    equalise: float
    seed: int


@dataclass(frozen=True)
class Lesion:
    """One opacity in a lung.

    Attributes:
        kind: ``consolidation``, ``oedema``, ``effusion``, ``atelectasis``, ``nodule``, ``mass``, ``infiltrate`` or ``ards``.
        side: +1 the patient's left (image right), -1 right, 0 both lungs.
        up: 0 at the apex to 1 at the base.
        out: 0 at the mediastinum to 1 at the chest wall.
        front: -1 at the back to +1 at the front.
        extent: radius (or depth of fluid) in cm.
        density: share of the air that is replaced.
        offset: where its texture looks into the fractal volume, voxels.
    """

    kind: str
    side: int
    up: float
    out: float
    front: float
    extent: float
    density: float
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """Everything about one image."""

    variant: str
    patient: int
    image: int
    body: Body
    shot: Shot
    lesions: tuple[Lesion, ...]
    devices: tuple[str, ...]

    @property
    def domain(self) -> str:
        return OPACITY if self.lesions else CLEAR

    @property
    def findings(self) -> dict[str, float]:
        """All 14 findings, 1.0 present or 0.0 absent."""
        present = {name for lesion in self.lesions for name in LABELS[lesion.kind]}
        if self.body.heart >= CARDIOMEGALY:
            present.add("Cardiomegaly")
        return {name: float(name in present) for name in FINDINGS}


#: Findings that each kind of opacity stands for.
LABELS = {
    "consolidation": ("Consolidation", "Pneumonia"),
    "oedema": ("Edema",),
    "effusion": ("Effusion",),
    "atelectasis": ("Atelectasis",),
    "nodule": ("Nodule",),
    "mass": ("Mass",),
    "infiltrate": ("Infiltration",),
    "ards": ("Edema", "Consolidation"),
}


def generator(*key: object) -> np.random.Generator:
    """A generator seeded by the hash of a key, the same in every process."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def images_of(seed: int, variant: str, patient: int) -> int:
    """How many images a patient has: two for about 15 % of them."""
    return 1 + int(generator(seed, variant, patient, "images").random() < 0.15)


def case(seed: int, variant: str, patient: int, image: int = 0) -> Case:
    """Draw one image's specification."""
    body = _body(generator(seed, variant, patient, "body"), variant)
    ill = _ill(seed, variant, patient)
    lesions = _lesions(generator(seed, variant, patient, "lesions"), variant) if ill else ()
    rng = generator(seed, variant, patient, "shot", image)
    shot = _shot(rng, variant, ill)
    return Case(variant, patient, image, body, shot, lesions, _devices(rng, variant, shot.view))


def _ill(seed: int, variant: str, patient: int) -> bool:
    """Whether a patient has opacities: half of `synthetic`, two of every five in intensive care, nobody at high quality."""
    if variant == "synthetic-clear":
        return False
    # one of each two neighbours, so that small data sets hold both domains
    pair, place = divmod(patient, 2)
    if variant == "synthetic-icu":
        group, place = divmod(patient, 5)  # two such pairs and a control: 40 %
        if place == 4:
            return False
        pair = 2 * group + place // 2
    first = generator(seed, variant, pair, "domain").random() < 0.5
    return bool(first == (place % 2 == 0))


def _body(rng: np.random.Generator, variant: str) -> Body:
    female = bool(rng.random() < 0.45)
    healthy = variant == "synthetic-clear"
    enlarged = not healthy and rng.random() < (0.3 if variant == "synthetic-icu" else 0.12)
    return Body(
        sex="F" if female else "M",
        age=float(np.round(np.clip(rng.normal(45 if healthy else 55, 15), 19, 92))),
        size=float(rng.normal(0.945 if female else 1.03, 0.03)),
        broad=float(rng.normal(1.0, 0.04)),
        deep=float(rng.normal(1.0, 0.06)),
        fat=float(np.clip(rng.gamma(2.2, 0.75), 0.3, 4.5)),
        breast=float(rng.uniform(0.55, 1.15)) if female else 0.0,
        heart=float(rng.uniform(1.22, 1.36) if enlarged else np.clip(rng.normal(1.0, 0.06), 0.86, 1.14)),
        heart_turn=float(rng.normal(0.62, 0.10)),
        aorta=float(np.clip(rng.normal(1.0, 0.13), 0.7, 1.4)),
        domes=(float(rng.normal(0.0, 0.5)), float(rng.normal(0.0, 0.5))),
        scoliosis=float(rng.normal(0.0, 0.25)),
        bone=float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.3)),
        rib_slope=float(rng.normal(1.0, 0.12)),
        vessels=float(np.clip(rng.normal(1.0, 0.15), 0.6, 1.4)),
        gas=float(max(rng.uniform(-0.6, 1.1), 0.0)),
        seed=int(rng.integers(2**32)),
    )


def _shot(rng: np.random.Generator, variant: str, ill: bool) -> Shot:
    share = {"synthetic": 0.6 if ill else 0.4, "synthetic-icu": 1.0, "synthetic-clear": 0.0}[variant]
    supine = bool(rng.random() < share)
    good = variant == "synthetic-clear"
    loose = 0.5 if good else 1.0
    shut = rng.random(4) < (0.0 if good else 0.18)
    margins = np.where(shut, rng.uniform(0.01, 0.05, 4), 0)
    return Shot(
        view="AP" if supine else "PA",
        inspiration=float(np.clip(rng.normal(0.45, 0.2) if supine else rng.normal(0.9, 0.12), 0, 1.1)),
        turn=float(rng.normal(0, 0.045) * loose),
        tilt=float(rng.normal(0.09 if supine else 0.0, 0.05) * loose),
        roll=float(rng.normal(0, 0.035) * loose),
        width=float(rng.normal(36.5, 1.6) if supine else rng.normal(36.0, 1.5)),
        centre=(float(rng.normal(0, 0.7) * loose), float(rng.normal(0.6, 0.8))),
        arms=float(np.clip(rng.normal(0.85, 0.15) if supine else rng.normal(0.15, 0.12), 0, 1)),
        collimation=(float(margins[0]), float(margins[1]), float(margins[2]), float(margins[3])),
        quanta=float(np.exp(rng.normal(np.log(6000 if good else 2500 if supine else 4000), 0.35))),
        scatter=float(np.clip(rng.normal(0.55 if supine else 0.28, 0.08), 0.08, 1.0)),
        lung_level=float(np.clip(rng.normal(0.36 if supine else 0.29, 0.05), 0.18, 0.48)),
        body_level=float(np.clip(rng.normal(0.86, 0.04), 0.74, 0.95)),
        equalise=float(rng.uniform(0.0, 0.12)),
        seed=int(rng.integers(2**32)),
    )


Span = tuple[float, float]


def _lesion(rng: np.random.Generator, kind: str, extent: Span, density: Span, **fixed: float) -> Lesion:
    """Draw a lesion somewhere in one lung; `fixed` overrides where (side, up, out, front)."""
    at = {
        "side": float(rng.choice([-1, 1])),
        "up": float(rng.uniform(0.2, 0.85)),
        "out": float(rng.uniform(0.2, 0.75)),
        "front": float(rng.uniform(-0.6, 0.6)),
        **fixed,
    }
    x, y, z = rng.uniform(0, 64, 3)
    return Lesion(
        kind=kind,
        side=int(at["side"]),
        up=at["up"],
        out=at["out"],
        front=at["front"],
        extent=float(rng.uniform(*extent)),
        density=float(rng.uniform(*density)),
        offset=(float(x), float(y), float(z)),
    )


def _lesions(rng: np.random.Generator, variant: str) -> tuple[Lesion, ...]:
    if variant == "synthetic-icu":
        found = [_lesion(rng, "ards", (0.75, 1.0), (0.5, 0.8), side=0)]
        found += [_lesion(rng, "effusion", (4.0, 7.0), (1.0, 1.0), side=side) for side in (-1, 1) if rng.random() < 0.4]
        if rng.random() < 0.5:
            found.append(_lesion(rng, "consolidation", (4.5, 6.5), (0.7, 1.0), up=float(rng.uniform(0.5, 0.85))))
        return tuple(found)
    kinds = ["consolidation", "effusion", "oedema", "infiltrate", "atelectasis", "nodule", "mass"]
    main = str(rng.choice(kinds, p=[0.42, 0.14, 0.14, 0.12, 0.07, 0.06, 0.05]))
    found = [_single(rng, main)]
    if main in ("nodule", "mass", "atelectasis") or rng.random() < 0.4:
        others = ["consolidation", "effusion", "infiltrate", "nodule", "atelectasis"]
        found.append(_single(rng, str(rng.choice(others, p=[0.45, 0.25, 0.15, 0.07, 0.08]))))
    return tuple(found)


#: Extent (cm) and density of what `synthetic` shows, and where it must lie.
_KINDS: dict[str, tuple[Span, Span, dict[str, float]]] = {
    "consolidation": ((4.2, 7.4), (0.75, 1.0), {}),
    "oedema": ((7.0, 9.5), (0.6, 0.85), {"side": 0}),
    "effusion": ((4.0, 10.0), (1.0, 1.0), {}),
    "infiltrate": ((5.5, 8.0), (0.6, 0.85), {}),
    "atelectasis": ((0.9, 1.5), (0.95, 1.0), {}),
    "nodule": ((0.9, 1.5), (1.0, 1.0), {}),
    "mass": ((1.9, 3.2), (1.0, 1.0), {}),
}


def _single(rng: np.random.Generator, kind: str) -> Lesion:
    extent, density, fixed = _KINDS[kind]
    if kind == "consolidation" and rng.random() < 0.5:
        # half of them touch the heart or the diaphragm, where a border then disappears
        up, out, front = rng.uniform([0.65, 0.25, 0.1], [0.88, 0.45, 0.6])
        fixed = {"up": float(up), "out": float(out), "front": float(front)}
    if kind == "atelectasis":
        fixed = {"up": float(rng.uniform(0.6, 0.85))}
    return _lesion(rng, kind, extent, density, **fixed)


def _devices(rng: np.random.Generator, variant: str, view: str) -> tuple[str, ...]:
    if variant == "synthetic-clear":
        return ()
    chance = {"tube": 0.7, "gastric": 0.6, "central": 0.75, "leads": 0.85, "pacemaker": 0.08}
    if variant == "synthetic":
        rare = 0.3 if view == "AP" else 0.02
        chance = {"tube": 0.1 * rare, "gastric": 0.1 * rare, "central": 0.5 * rare, "leads": rare, "pacemaker": 0.02}
    return tuple(name for name, p in chance.items() if rng.random() < p)
