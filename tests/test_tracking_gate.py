"""What may leave the machine: pictures by the policy of their data, words without names of images, patients and folders."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.files import write_json
from bench.tracking.gate import BarredError, Gate, Names, bare, stored_names

#: As MIMIC-CXR names images, patients and studies.
IMAGE, PATIENT, STUDY = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "10000032", "50414267"


def gate(policy: str, runs: Path = Path("nowhere"), ids: tuple[str, ...] = (IMAGE,)) -> Gate:
    items = [SimpleNamespace(image_id=i, patient_id=PATIENT, study_id=STUDY) for i in ids]
    known = {"x": SimpleNamespace(policy=policy, manifest=items), "y": SimpleNamespace(policy="open", manifest=[])}
    spec = SimpleNamespace(options=SimpleNamespace(runs=runs))
    return Gate(SimpleNamespace(datasets=known, spec=spec))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "passes"),
    [("open", True), ("attribution", True), ("no-redistribution", False), ("credentialed", False), ("new", False)],
)
def test_only_open_pictures_pass(policy: str, passes: bool) -> None:
    gate(policy).pictures(["y"], "pictures")
    if passes:
        gate(policy).pictures(["y", "x"], "pictures")
    else:
        with pytest.raises(BarredError, match=f"x \\({policy}\\)"):
            gate(policy).pictures(["y", "x"], "pictures")


@pytest.mark.parametrize(
    "text",
    [
        IMAGE, f"{IMAGE}.jpg", f"{IMAGE}_mask", f"{IMAGE}mask.png", IMAGE.upper(), f"x{IMAGE}", IMAGE.replace("-", "_"),
        PATIENT, f"p{PATIENT}", f"p/{PATIENT}.png", f"patient={PATIENT}", f"s{STUDY}", f"{STUDY}_1",
        f"files/p10/p{PATIENT}/s{STUDY}/other.jpg", f"files/p10/p1/s1/{IMAGE}.jpg: cannot be read", f"…/{IMAGE}.dcm",
    ],
)  # fmt: skip
def test_names_do_not_pass_whatever_is_around_them(text: str) -> None:
    for value in (text, {"a": [f"image {text} is bad"]}, {text: 1}):
        with pytest.raises(BarredError, match="names an image or a patient"):
            gate("credentialed").words(value, "table")
    gate("open").words(text, "open data")
    gate("no-redistribution").words(text, "data that may be named")


@pytest.mark.parametrize(
    "value",
    [
        10000032, "1000003 2", f"9{PATIENT}", f"{PATIENT}7", IMAGE[:-1], "0.10000031", "mimic", "p10", "files/p10", "",
        {"loss": [0.5, "n = 240, 95% CI 0.1 to 0.2"]},
    ],
)  # fmt: skip
def test_what_names_nobody_passes(value: object) -> None:
    gate("credentialed").words(value, "numbers, other words")


def test_short_names_and_plain_words_are_words_of_their_own() -> None:
    names = Names(["7", "a1", "left", ""])
    assert all(names.within(text) for text in ("image 7", "p/a1.png", "A1_mask", "left", "left.png"))
    assert not any(names.within(text) for text in ("seed17", "a12", "cleft", "0.75", ""))


def test_a_hundred_thousand_names_are_looked_for_in_no_time() -> None:
    ids = [f"{n:08x}-{n * 7919 % 2**32:08x}-{n:08x}-7bc16630-4e384014" for n in range(100_000)]
    names = Names(ids)
    text = "loss of the finding classifier, " * 2000
    began = time.process_time()
    assert not names.within(text) and names.within(f"{text}{ids[-1]}.jpg")
    assert time.process_time() - began < 2


def test_names_of_earlier_runs_do_not_pass_either(tmp_path: Path) -> None:
    for seed, policies in enumerate([{"m": "credentialed", "z": "open"}, {"m": "credentialed", "z": "open"}, {"u": None}, {}]):
        run = tmp_path / "ours" / "m" / f"seed{seed}-12345678"
        data = {name: {"policy": policy, "fingerprint": f"f{seed // 2}"} for name, policy in policies.items()}
        write_json(run / "config.json", {"data": data})
        images = {name: {f"{name}-{seed // 2}": {"patient": f"{name}00{seed // 2}"}} for name in policies or ("w",)}
        write_json(run / "split.json", images)
    assert stored_names(tmp_path) == {"m-0", "m000", "u-1", "u001", "w-1", "w001"}
    write_json(tmp_path / "cut" / "m" / "seed0-1" / "split.json", {"m": {IMAGE: {"patient": PATIENT}}})
    with pytest.raises(BarredError):
        gate("open", tmp_path).words(f"{IMAGE}.jpg is odd", "table")
    (tmp_path / "cut" / "m" / "seed0-1" / "split.json").write_text("{")  # broken off: it says nothing
    gate("open", tmp_path).words(f"{IMAGE}.jpg is odd", "table")


def test_paths_lose_their_folders() -> None:
    assert bare("mimic=/data/jane doe/mimic,masks=/m/x") == "mimic=…/mimic,masks=…/x"
    assert bare({"a": ["~/w/unet.pth", 3, "quick"]}) == {"a": ["…/unet.pth", 3, "quick"]}
    assert bare("C:\\Users\\jane\\x.png") == "C:…/x.png" and bare("/") == "…"


@pytest.mark.parametrize(
    "text", ["/home/jane", "/home/jane/", "folder=/home/jane", "/Users/Jane Doe", "C:\\Users\\jane", "~jane", "/mnt/~jane"]
)
def test_a_home_folder_has_no_name(text: str) -> None:
    assert "jane" not in bare(text).lower() and "doe" not in bare(text).lower()


def test_the_user_is_nowhere_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    assert bare("folder=/scratch/jane,policy=open") == "folder=…,policy=open"
    assert bare("--runs /scratch/jane/runs") == "…/runs" and bare("no file '/scratch/jane'") == "…"
    assert bare("see /home/joe for more") == "… for more" and bare("/scratch/janet") == "…/janet"
