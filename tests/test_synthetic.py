"""The embedded datasets: determinism, truth planes, anatomy and physics of what is rendered."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.data.contract import CLEAR, FINDINGS, OPACITY, Decoded, ImageRecord
from bench.data.readers.synthetic import Synthetic, SyntheticClear, SyntheticIcu
from bench.data.synthetic import spec
from bench.data.synthetic.anatomy import Chest
from bench.data.synthetic.projection import Camera, Ellipsoid, Floats, Splat, covered
from bench.data.synthetic.render import REGION, Rendered, camera, render
from bench.data.synthetic.spec import Case, Lesion, case
from bench.errors import DataError, UsageError

SIZE = 64
Rows = list[tuple[ImageRecord, Decoded]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    reader = Synthetic(images=34)
    start = time.perf_counter()
    found = [(record, reader.load(record, SIZE)) for record in reader.records()[0]]
    print(f"{1000 * (time.perf_counter() - start) / len(found):.0f} ms an image at {SIZE} px")
    return found


@pytest.fixture(scope="module")
def icu() -> Rows:
    reader = SyntheticIcu(images=10)
    return [(record, reader.load(record, SIZE)) for record in reader.records()[0]]


def healthy(view: str = "PA", **shot: Any) -> Case:
    """An average clear patient, straight, without devices."""
    drawn = case(0, "synthetic-clear", 3)
    straight: dict[str, Any] = {
        "turn": 0.0,
        "tilt": 0.0,
        "roll": 0.0,
        "centre": (0.0, 0.5),
        "width": 36.0,
        "collimation": (0.0,) * 4,
    }
    return replace(drawn, shot=replace(drawn.shot, view=view, **straight, **shot), devices=())


def with_lesion(base: Case, kind: str, **values: float) -> Case:
    defaults: dict[str, Any] = {"side": 1, "up": 0.5, "out": 0.5, "front": 0.0, "extent": 4.0, "density": 1.0}
    return replace(base, lesions=(Lesion(kind, **{**defaults, **values}),))


def test_another_process_renders_the_same_bytes(rows: Rows) -> None:
    record, here = next((r, d) for r, d in rows if r.domain == OPACITY)
    script = (
        "import hashlib, sys; from bench.data.readers.synthetic import Synthetic\n"
        "reader = Synthetic(images=200); record = {r.image_id: r for r in reader.records()[0]}[sys.argv[1]]\n"
        "d = reader.load(record, 64)\n"
        "print(hashlib.sha256(d.image.tobytes() + d.counterpart.tobytes() + d.opacity.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", script, record.image_id], capture_output=True, text=True, check=True)
    assert here.counterpart is not None and here.opacity is not None
    content = here.image.tobytes() + here.counterpart.tobytes() + here.opacity.tobytes()
    assert there.stdout.strip() == hashlib.sha256(content).hexdigest()


def test_seed_and_size_change_pixels_but_a_larger_set_does_not_change_patients() -> None:
    few, many = Synthetic(images=10).records()[0], Synthetic(images=60).records()[0]
    assert many[:9] == few[:9]
    one, other = Synthetic(images=1, seed=0), Synthetic(images=1, seed=1)
    first = one.load(one.records()[0][0], SIZE)
    assert np.abs(first.image - other.load(other.records()[0][0], SIZE).image).mean() > 0.02
    assert one.load(one.records()[0][0], 96).image.shape == (96, 96)
    assert one.load(one.records()[0][0]).image.shape == (128, 128)


def test_planes_have_the_contracts_types_and_ranges(rows: Rows, icu: Rows) -> None:
    for _, d in rows + icu:
        assert d.lung_mask is not None and d.opacity is not None and d.counterpart is not None
        for plane in (d.image, d.counterpart, d.opacity):
            assert plane.dtype == np.float32 and plane.shape == (SIZE, SIZE)
            assert np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= 1
        assert d.lung_mask.dtype == np.uint8 and set(np.unique(d.lung_mask)) == {0, 1}
        assert 0.12 < d.lung_mask.mean() < 0.42


def test_domains_views_and_patients() -> None:
    records, problems, leaky = Synthetic().records()
    assert len(records) == 400 and not problems and not leaky
    assert len({r.image_id for r in records}) == 400
    domains = Counter(r.domain for r in records)
    assert set(domains) == {OPACITY, CLEAR} and 180 <= domains[OPACITY] <= 220
    by_patient: dict[str, set[str]] = {}
    for r in records:
        by_patient.setdefault(r.patient_id, set()).add(r.domain)
    assert all(len(found) == 1 for found in by_patient.values())
    assert 0.08 < 1 - len(by_patient) / 400 < 0.22  # second images
    ap = {d: np.mean([r.view == "AP" for r in records if r.domain == d]) for d in (OPACITY, CLEAR)}
    assert 0.5 < ap[OPACITY] < 0.7 and 0.3 < ap[CLEAR] < 0.5
    assert {r.sex for r in records} == {"M", "F"} and all(r.age is not None and 18 < r.age < 95 for r in records)


def test_variants_play_their_roles() -> None:
    icu, clear = SyntheticIcu().records()[0], SyntheticClear().records()[0]
    assert (len(icu), len(clear)) == (120, 96)
    assert {r.domain for r in icu} == {OPACITY, CLEAR} and {r.view for r in icu} == {"AP"}
    assert {r.domain for r in clear} == {CLEAR} and {r.view for r in clear} == {"PA"}
    assert np.mean(["leads" in r.extra["devices"] for r in icu]) > 0.6
    assert not any(r.extra["devices"] for r in clear)
    assert not any(value for r in clear for value in (r.findings or {}).values())
    ids = [{r.patient_id for r in records} for records in (icu, clear, Synthetic().records()[0])]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    assert [c.trains_prior for c in (Synthetic, SyntheticIcu, SyntheticClear)] == [True, False, False]


def test_two_of_five_intensive_care_patients_have_ards_and_small_sets_hold_both_classes() -> None:
    records = SyntheticIcu(images=700).records()[0]
    ill = {r.patient_id: r.domain == OPACITY for r in records}
    assert [sum(list(ill.values())[i : i + 5]) for i in range(0, 600, 5)] == [2] * 120
    assert all(ill[r.patient_id] == (r.domain == OPACITY) for r in records)
    assert Counter(r.domain for r in SyntheticIcu(images=4).records()[0]) == {OPACITY: 2, CLEAR: 2}
    places = {i % 5: 0 for i in range(5)}
    for i, sick in enumerate(ill.values()):
        places[i % 5] += sick
    assert all(30 < places[p] < 90 for p in range(4))  # not always the same of a pair
    for r in records:
        assert r.findings is not None
        opacities = {name for name, value in r.findings.items() if value} - {"Cardiomegaly"}
        assert opacities == ({"Edema", "Consolidation", *opacities} if r.domain == OPACITY else set())
    large = {d: np.mean([(r.findings or {})["Cardiomegaly"] for r in records if r.domain == d]) for d in (OPACITY, CLEAR)}
    assert 0.2 < large[OPACITY] < 0.4 and 0.2 < large[CLEAR] < 0.4


def test_nothing_but_the_opacities_tells_an_ards_patient_from_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(ill: bool) -> list[Case]:
        monkeypatch.setattr(spec, "_ill", lambda *_: ill)
        return [case(0, "synthetic-icu", patient) for patient in range(40)]

    sick, well = drawn(True), drawn(False)
    for one, other in zip(sick, well, strict=True):
        assert one.lesions and not other.lesions
        assert (one.body, one.shot, one.devices) == (other.body, other.shot, other.devices)
    assert np.array_equal(render(sick[0], SIZE).counterpart, render(well[0], SIZE).image)


def test_controls_look_like_clear_films_with_tubes(icu: Rows) -> None:
    lungs: dict[str, list[float]] = {OPACITY: [], CLEAR: []}
    for record, d in icu:
        assert d.lung_mask is not None and d.opacity is not None and d.counterpart is not None
        lungs[record.domain].append(float(np.median(d.image[d.lung_mask == 1])))
        if record.domain == CLEAR:
            assert not d.opacity.any() and d.boxes == () and np.array_equal(d.image, d.counterpart)
    assert max(lungs[CLEAR]) < 0.5 and np.mean(lungs[OPACITY]) > np.mean(lungs[CLEAR]) + 0.1


def test_the_other_variants_are_what_they_were() -> None:
    def pattern(reader: Synthetic) -> str:
        text = repr([(r.image_id, r.domain, r.view, r.sex, r.age, dict(r.extra)) for r in reader.records()[0]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    assert (Synthetic.version, SyntheticClear.version, SyntheticIcu.version) == (1, 1, 2)
    assert pattern(Synthetic(images=200)) == "56b7e852a6ad19ce"
    assert pattern(SyntheticClear(images=96)) == "a4cb5332dfe1cae7"


def test_clear_images_are_their_own_counterpart_and_opacity_images_differ_only_in_the_opacity(rows: Rows) -> None:
    for record, d in rows:
        assert d.opacity is not None and d.counterpart is not None
        difference = np.abs(d.image - d.counterpart)
        if record.domain == CLEAR:
            assert not d.opacity.any() and d.boxes == () and not difference.any()
            continue
        assert (d.opacity > REGION).any()
        assert difference[d.opacity > REGION].mean() > 0.03
        outside = difference[d.opacity == 0]
        assert outside.mean() < 0.012 and np.quantile(outside, 0.95) < 0.05, record.image_id


def test_opacities_are_as_large_and_strong_as_the_roles_ask(rows: Rows, icu: Rows) -> None:
    def measure(found: Rows) -> tuple[float, float]:
        areas, errors = [], []
        for record, d in found:
            if record.domain == OPACITY:
                assert d.opacity is not None and d.counterpart is not None
                region = d.opacity > REGION
                areas.append(region.mean())
                errors.append(np.abs(d.image - d.counterpart)[region].mean())
        return float(np.mean(areas)), float(np.mean(errors))

    area, error = measure(rows)
    assert 0.05 < area < 0.16 and 0.08 < error < 0.2
    area, error = measure(icu)
    assert 0.25 < area < 0.42 and 0.1 < error < 0.25


def test_opacities_lie_in_the_lungs_and_inside_their_boxes(rows: Rows, icu: Rows) -> None:
    reader = Synthetic()
    for record, d in rows:
        if record.domain == CLEAR:
            continue
        drawn = reader.case_of(record)
        view = camera(drawn.shot, SIZE)
        crossed = Chest(drawn.body, drawn.shot).lungs(view.rays()).chord > 0
        assert d.opacity is not None and not (d.opacity > 0)[~crossed].any()
    for _, d in rows + icu:
        assert d.opacity is not None and d.boxes is not None
        region, boxed = d.opacity > REGION, np.zeros((SIZE, SIZE), bool)
        for x, y, w, h in d.boxes:
            assert x >= 0 and y >= 0 and x + w <= SIZE and y + h <= SIZE
            part = region[int(y) : int(y + h), int(x) : int(x + w)]
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # tight
            boxed[int(y) : int(y + h), int(x) : int(x + w)] = True
        if region.any():
            assert (boxed & region).sum() >= 0.93 * region.sum()


def test_findings_say_what_is_in_the_image() -> None:
    names = {
        "consolidation": {"Consolidation", "Pneumonia"}, "oedema": {"Edema"}, "effusion": {"Effusion"}, "nodule": {"Nodule"},
        "atelectasis": {"Atelectasis"}, "mass": {"Mass"}, "infiltrate": {"Infiltration"}, "ards": {"Edema", "Consolidation"},
    }  # fmt: skip
    seen: set[str] = set()
    for reader in (Synthetic(), SyntheticIcu()):
        for record in reader.records()[0]:
            assert record.findings is not None and tuple(record.findings) == FINDINGS
            drawn = reader.case_of(record)
            expected = set().union(*(names[lesion.kind] for lesion in drawn.lesions))
            expected |= {"Cardiomegaly"} if drawn.body.heart >= 1.2 else set()
            assert {name for name, value in record.findings.items() if value == 1.0} == expected
            seen |= expected
    assert seen >= set().union(*names.values()) | {"Cardiomegaly"}


def heart_width(base: Case) -> int:
    chest = Chest(base.body, base.shot)
    rays = camera(base.shot, 256).rays()
    hit = np.any([part.chord(rays) > 0 for part in chest.heart], axis=0)
    return int(hit.any(axis=0).sum())


def test_heart_is_magnified_more_from_the_front_and_more_when_enlarged() -> None:
    pa, ap = healthy("PA"), healthy("AP")
    assert heart_width(ap) > 1.04 * heart_width(pa)
    assert heart_width(replace(pa, body=replace(pa.body, heart=1.3))) > 1.12 * heart_width(pa)
    # a ball 4 cm in front of the centre: 165 cm from the source behind, 88 cm from the source in front
    ball = Ellipsoid((0.0, 0.0, 4.0), (3.0, 3.0, 3.0))
    area = [float((ball.chord(camera(c.shot, 512).rays()) > 0).sum()) for c in (pa, ap)]
    assert np.sqrt(area[1] / area[0]) == pytest.approx((169 / 165) / (84 / 88), rel=0.01)


def border_gradient(shown: Floats, base: Case) -> float:
    """Mean step across the heart's left border, from just inside to just outside, over the middle of its height."""
    chest = Chest(base.body, base.shot)
    rays = camera(base.shot, shown.shape[0]).rays()
    hit = np.any([part.chord(rays) > 0 for part in chest.heart], axis=0)
    steps = []
    for row in np.nonzero(hit.any(axis=1))[0]:
        edge = int(np.nonzero(hit[row])[0].max())
        if rays.y[row, edge] > 1.5 and rays.y[row, edge] < chest.dome_tops[1] - 1.5:
            steps.append(float(shown[row, edge - 4] - shown[row, edge + 3]))
    assert len(steps) > 3
    return float(np.mean(steps))


def test_silhouette_sign_needs_contact_in_depth() -> None:
    base = healthy(quanta=1e6)
    chest = Chest(base.body, base.shot)
    at = {"up": 0.8, "out": 0.3, "extent": 6.5}
    touching = render(with_lesion(base, "consolidation", front=0.45, **at), 128)
    behind = render(with_lesion(base, "consolidation", front=-0.9, **at), 128)
    assert chest.place(1, 0.8, 0.3, 0.45)[2] > 0 > chest.place(1, 0.8, 0.3, -0.9)[2]
    clear = border_gradient(touching.counterpart, base)
    assert clear > 0.05
    lost, kept = (border_gradient(found.image, base) / clear for found in (touching, behind))
    assert lost < 0.6
    assert lost < kept - 0.15


def rows_of(found: Rendered, columns: slice) -> float:
    """Topmost row at which fluid is dense, in some columns."""
    hit = (found.opacity > 0.5)[:, columns].any(axis=1)
    return float(np.nonzero(hit)[0].min())


def test_effusion_lies_at_the_base_and_climbs_at_the_wall() -> None:
    base = healthy()
    found = render(with_lesion(base, "effusion", side=-1, extent=5.0), 128)
    lung = found.lung_mask.astype(bool)
    lung[:, 64:] = False  # the patient's right lung
    top, bottom = (int(v) for v in np.nonzero(lung.any(axis=1))[0][[0, -1]])
    middle = float((np.arange(128)[:, None] * found.opacity).sum() / found.opacity.sum())
    assert middle > top + (bottom - top) * 2 / 3
    assert not (found.opacity[:, 66:] > REGION).any()
    columns = np.nonzero(lung[int(bottom) - 14])[0]
    wall, inner = int(columns.min()), int(columns.min() + 0.6 * (columns.max() - columns.min()))
    assert rows_of(found, slice(wall, wall + 3)) < rows_of(found, slice(inner, inner + 3)) - 2


def test_oedema_spares_the_rim_and_takes_both_lungs() -> None:
    base = healthy()
    found = render(with_lesion(base, "oedema", side=0, extent=7.5, density=0.7), 128)
    half = [found.opacity[:, :64].sum(), found.opacity[:, 64:].sum()]
    assert min(half) > 0.5 * max(half)
    row = found.opacity[50:70].mean(axis=0)
    lung = np.nonzero(found.lung_mask[50:70].any(axis=0))[0]
    assert row[lung.min() : lung.min() + 3].mean() < 0.35 * row[lung.min() : 60].max()


def test_noise_falls_with_exposure_and_is_shared() -> None:
    def grain(quanta: float) -> float:
        noisy = render(healthy(quanta=quanta), SIZE).image
        return float((noisy - render(healthy(quanta=1e9), SIZE).image).std())

    low, high = grain(50.0), grain(800.0)
    assert low == pytest.approx(4 * high, rel=0.2)  # noise goes with one over the root of the quanta
    case_ = with_lesion(healthy(quanta=50.0), "nodule", up=0.4, extent=1.2)
    found = render(case_, SIZE)
    away = found.opacity == 0
    assert np.abs(found.image - found.counterpart)[away].mean() < 0.2 * low


def test_lungs_are_dark_heart_lies_left_and_right_dome_is_higher() -> None:
    found = render(healthy(), 128)
    lung = found.lung_mask.astype(bool)
    assert found.image[lung].mean() < 0.45 and found.image[110:, 50:80].mean() > 0.6
    assert found.image[:6, :6].mean() < 0.2 and found.image[:6, -6:].mean() < 0.35
    left, right = lung[:, 64:], lung[:, :64]
    assert right.sum() > left.sum()  # the heart takes room on the patient's left
    gaps = [int(np.nonzero(lung[row, 40:90] == 0)[0].mean()) + 40 for row in range(70, 80)]
    assert np.mean(gaps) > 64.5
    straight = replace(healthy(), body=replace(healthy().body, domes=(0.0, 0.0)))
    lower = [np.nonzero(render(straight, 128).lung_mask[:, c])[0].max() for c in (40, 92)]
    assert lower[0] < lower[1]


def test_mask_leaves_out_heart_and_abdomen(rows: Rows) -> None:
    reader = Synthetic()
    for record, d in rows[:10]:
        drawn = reader.case_of(record)
        chest, rays = Chest(drawn.body, drawn.shot), camera(drawn.shot, SIZE).rays()
        assert d.lung_mask is not None
        for part in (*chest.heart, *chest.domes):
            assert not (d.lung_mask.astype(bool) & (part.chord(rays) > 0)).any()


def test_chord_of_a_ball_and_covered_lengths_are_exact() -> None:
    view = Camera(101, 20.0, 1e7, (0.0, 0.0), 0.0, 0.0, 0.0)
    rays = view.rays()
    ball = Ellipsoid((0.0, 0.0, 1.0), (4.0, 4.0, 4.0))
    expected = 2 * np.sqrt(np.maximum(16 - rays.x**2 - rays.y**2, 0))
    assert np.allclose(ball.chord(rays), expected, atol=1e-3)
    one = np.ones(1, np.float32)
    parts = [(0 * one, 2 * one), (1 * one, 3 * one), (5 * one, 9 * one), (0 * one, 0 * one)]
    assert covered((0.5 * one, 6 * one), parts)[0] == pytest.approx(2.5 + 1.0)


@pytest.mark.parametrize(("size", "source"), [(64, 165.0), (200, -88.0)])
def test_splat_conserves_the_volume_of_a_tube(size: int, source: float) -> None:
    view = Camera(size, 30.0, source, (0.0, 0.0), 0.0, 0.0, 0.1)
    splat = Splat(view)
    splat.tube([[-5, -5, 0], [0, 1, 0], [5, 4, 0]], 0.8, 2.0)
    chord = float(np.linalg.norm([10, 9]))
    volume = float(splat.image().sum()) * view.pixel**2 / 2.0
    assert np.pi * 0.64 * chord < volume < np.pi * 0.64 * chord * 1.06  # the curve is a little longer than its chord


def test_wrong_options_and_records_are_refused_with_a_remedy() -> None:
    with pytest.raises(UsageError, match="images"):
        Synthetic(image=3)
    with pytest.raises(UsageError, match="at least 1"):
        Synthetic(images="none")
    with pytest.raises(UsageError, match="seed=-1"):
        Synthetic(seed=-1)
    record = SyntheticIcu(images=1).records()[0][0]
    with pytest.raises(DataError, match="icu-00000-0"):
        Synthetic().load(record, SIZE)
    with pytest.raises(DataError, match="at least 32"):
        SyntheticIcu().load(record, 16)
