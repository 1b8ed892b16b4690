"""Torchvision's detectors (BSD-3) for `evaluators.detection`: FCOS, RetinaNet and SSDLite, trained here by the engine.

Nothing is downloaded: networks start from random weights and all of their layers learn. Images are grey, repeated into three
channels; inside, they are brought to ``image_size`` (bilinear, antialiased), and boxes back to pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.assets import unreadable
from bench.checking import check_above, check_at_least, check_below_one, check_choice, check_within
from bench.config import TrainConfig
from bench.contracts import Draws, Job, OptimWrappers, Trainable
from bench.data.contract import FloatImage
from bench.data.sampling import draw_order
from bench.errors import DataError, PreflightError
from bench.files import digest, file_digest
from evaluators.detectors import LEAST, Annotated, Detections, Detector, check_sides, identity

LICENCE = "BSD-3-Clause (torchvision)"
TITLES = {"fcos": "FCOS", "retinanet": "RetinaNet", "ssdlite": "SSDLite"}
BACKBONES = ("resnet18", "resnet34", "resnet50")
#: Index of the one class. FCOS and RetinaNet have one sigmoid a class and no background; SSD has a softmax with background at 0.
LABEL = {"fcos": 0, "retinanet": 0, "ssdlite": 1}
#: Peak learning rates that suit them.
LR = {"fcos": 3e-4, "retinanet": 3e-4, "ssdlite": 1e-3}
#: Bumped whenever the same inputs could give another detector.
VERSION = 1
#: A box of which augmentation leaves less than this share in the image is no longer annotated.
_KEPT = 0.25
_MEAN, _STD = [0.5] * 3, [0.25] * 3


@dataclass(frozen=True)
class TorchvisionSettings:
    """What a detector of torchvision's is trained and used with.

    Attributes:
        architecture: ``fcos`` (Tian et al. 2019), ``retinanet`` (Lin et al. 2017) or ``ssdlite`` (SSD on MobileNetV3-Large).
        backbone: of FCOS and RetinaNet: ``resnet18``, ``resnet34`` or ``resnet50``, with a feature pyramid (strides 8 to 128).
        width: channels of pyramid and heads, a multiple of 32 from 64 on (torchvision's own is 256); SSDLite has its own. The heads
            of FCOS normalise 32 groups of channels, and the coarsest map may be one pixel: a group must have two.
        image_size: side that images are resized to; a multiple of 32 from 64 on.
        iterations, batch_size: budget.
        lr: peak learning rate of AdamW: linear warm-up over a tenth, then cosine to 0.
        weight_decay: of AdamW.
        fliplr: probability of a mirrored image.
        brightness, scale, translate: largest change of brightness and contrast (share of the range), of size (relative) and of
            place (share of the side).
        seed: of initial weights, order and augmentation.
        nms_iou: of two boxes that overlap more, the less confident one goes.
        max_detections: most boxes an image.
    """

    architecture: str = "fcos"
    backbone: str = "resnet50"
    width: int = 256
    image_size: int = 512
    iterations: int = 20_000
    batch_size: int = 16
    lr: float = 3e-4
    weight_decay: float = 1e-4
    fliplr: float = 0.5
    brightness: float = 0.1
    scale: float = 0.2
    translate: float = 0.1
    seed: int = 0
    nms_iou: float = 0.45
    max_detections: int = 50

    def __post_init__(self) -> None:
        check_choice(self, tuple(TITLES), "architecture")
        check_choice(self, BACKBONES, "backbone")
        check_sides(self, "image_size", "width")
        check_at_least(self, 2, "batch_size")
        check_at_least(self, 1, "iterations", "max_detections")
        check_at_least(self, 0, "weight_decay", "seed")
        check_above(self, 0, "lr")
        check_within(self, 0, 1, "fliplr", "nms_iou")
        check_below_one(self, "brightness", "scale", "translate")

    def training(self) -> dict[str, Any]:
        """What the weights depend on besides budget and seed."""
        network = {} if self.architecture == "ssdlite" else {"backbone": self.backbone, "width": self.width}
        names = ("architecture", "image_size", "lr", "weight_decay", "fliplr", "brightness", "scale", "translate")
        return {**network, **{name: getattr(self, name) for name in names}}


def library() -> str:
    """Name and version of torchvision, whose import takes a second: planning a run with another detector does without."""
    import torchvision

    return f"torchvision {torchvision.__version__}"


def build_network(settings: TorchvisionSettings) -> nn.Module:
    """An untrained detector of one class. Called with lists of 3 x S x S images in [0, 1], S = ``image_size``."""
    from torchvision.models import resnet
    from torchvision.models.detection import FCOS, RetinaNet, ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    limits = {"score_thresh": LEAST, "nms_thresh": settings.nms_iou, "detections_per_img": settings.max_detections}
    size = settings.image_size
    if settings.architecture == "ssdlite":
        # torchvision's momentum of 0.03 is for long trainings: after a short one, batch statistics would be those of other weights
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)
        net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2, norm_layer=norm, **limits)
        net.transform = GeneralizedRCNNTransform(size, size, _MEAN, _STD, size_divisible=1, fixed_size=(size, size))
        return net
    body = getattr(resnet, settings.backbone)(weights=None)  # its BatchNorm learns; torchvision's default for detectors is frozen
    deepest = body.inplanes
    pyramid = BackboneWithFPN(
        body, {"layer2": "0", "layer3": "1", "layer4": "2"}, [deepest // 4, deepest // 2, deepest], settings.width,
        LastLevelP6P7(settings.width, settings.width),
    )  # fmt: skip
    kind = FCOS if settings.architecture == "fcos" else RetinaNet
    return kind(pyramid, num_classes=1, min_size=size, max_size=size, image_mean=_MEAN, image_std=_STD, **limits)


@dataclass
class BoxBatch:
    """What a detector learns from in one step.

    Attributes:
        image: N x 1 x S x S in [0, 1].
        boxes: N tensors (k, 4): left, top, right, bottom in pixels of the S x S image; k may be 0.
    """

    image: Tensor
    boxes: list[Tensor]


class BoxBatches:
    """Annotated training images by step: a pure function of (seed, step).

    Args:
        learn: image sets of any size, and which of their images.
        settings: size, batch size, seed and augmentation.
    """

    def __init__(self, learn: Sequence[Annotated], settings: TorchvisionSettings) -> None:
        self.where = [(images, row) for images, rows in learn for row in rows]
        self.settings, self.batch_size = settings, settings.batch_size

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Pixels (lists of 1 x 1 x S x S in [0, 1]) and boxes (lists of k x 4 in shares of the side) of a step."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = [self.where[draw_order(self.settings.seed, "boxes", len(self.where), p)] for p in positions]
        return {
            "step": step,
            "image": [torch.from_numpy(images.pixels([row])[:, None]) for images, row in chosen],
            "boxes": [_corners(images.items[row].boxes or ()) / images.size for images, row in chosen],
        }

    def batch(self, raw: dict[str, Any], device: torch.device) -> BoxBatch:
        """What `DetectorTraining.step` gets: resized and augmented."""
        s, n = self.settings, len(raw["image"])
        draws = Draws(s.seed, raw["step"], 0, n, n)
        chance, flip = 2 * draws.uniform("augment", 5) - 1, draws.uniform("flip") < s.fliplr
        images, boxes = [], []
        for pixels, shares, u, mirrored in zip(raw["image"], raw["boxes"], chance.tolist(), flip.tolist(), strict=True):
            image, box = _resized(pixels.to(device), s.image_size), shares
            if mirrored:
                image, box = image.flip(-1), torch.stack([1 - box[:, 2], box[:, 1], 1 - box[:, 0], box[:, 3]], dim=1)
            image, box = _moved(image, box, 1 + s.scale * u[0], s.translate * u[1], s.translate * u[2])
            images.append(((image - 0.5) * (1 + s.brightness * u[3]) + 0.5 + s.brightness * u[4]).clamp(0, 1))
            boxes.append((box * s.image_size).to(device))
        return BoxBatch(torch.cat(images), boxes)


def _corners(boxes: Sequence[tuple[float, float, float, float]]) -> Tensor:
    """(x, y, width, height) -> (left, top, right, bottom), k x 4."""
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return torch.cat([found[:, :2], found[:, :2] + found[:, 2:]], dim=1)


def _resized(images: Tensor, size: int) -> Tensor:
    """N x 1 x S x S -> N x 1 x size x size; the same in training and use."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _moved(image: Tensor, boxes: Tensor, zoom: float, right: float, down: float) -> tuple[Tensor, Tensor]:
    """Enlarge 1 x 1 x S x S about its centre and shift it (in shares of the side); boxes (shares) move along."""
    size = image.shape[-1]
    at = (torch.arange(size, device=image.device, dtype=torch.float32) + 0.5) / size
    x, y = ((at - 0.5 - shift) / zoom + 0.5 for shift in (right, down))
    grid = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), dim=-1)[None]
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shift = torch.tensor([right, down, right, down])
    full = (boxes - 0.5) * zoom + 0.5 + shift
    cut = full.clamp(0, 1)
    share = _area(cut) / _area(full).clamp(min=1e-12)
    return image, cut[share >= _KEPT]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class DetectorTraining(Trainable):
    """Trains one of torchvision's detectors on its own losses, summed; AdamW with warm-up and cosine."""

    def __init__(self, net: nn.Module, label: int, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.net, self.label, self.lr, self.weight_decay = net, label, lr, weight_decay

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"D": torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay)}

    def lr_factor(self, step: int, total: int) -> float:
        """Linear warm-up over the first tenth, then cosine to 0."""
        warm = max(1, total // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def step(self, batch: BoxBatch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        targets = [
            {"boxes": boxes, "labels": torch.full((len(boxes),), self.label, dtype=torch.int64, device=boxes.device)}
            for boxes in batch.boxes
        ]
        terms = self.net(list(batch.image.expand(-1, 3, -1, -1)), targets)
        loss = sum(terms.values())
        assert isinstance(loss, Tensor)
        optim["D"].update_params(loss)
        return {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}


class TorchvisionDetector:
    """A trained detector of torchvision's; see `Detector`.

    Args:
        net: as of `build_network`, in eval mode.
        weights_id: hash of its weights.
        settings: size and limits.
        facts: for records.
        device: where `net` lies.
    """

    def __init__(
        self, net: nn.Module, weights_id: str, settings: TorchvisionSettings, facts: Mapping[str, Any], device: torch.device
    ) -> None:
        self.net, self.settings, self.device = net, settings, device
        used = {"nms_iou": settings.nms_iou, "max_detections": settings.max_detections}
        own = [settings.architecture, settings.image_size, used]
        self.id = digest([VERSION, library().split()[1], weights_id, own], size=16)
        self.facts = {**facts, **used}

    @torch.inference_mode()
    def detect(self, images: FloatImage) -> list[Detections]:
        """Everything found in n x S x S images in [0, 1]; see `Detector.detect`. Full single precision on every device."""
        if images.ndim != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"images must be n x S x S, not {' x '.join(map(str, images.shape))}")
        found: list[Detections] = []
        scale = images.shape[-1] / self.settings.image_size
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in range(0, len(images), self.settings.batch_size):
                chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + self.settings.batch_size]))
                inputs = _resized(chunk.to(self.device)[:, None], self.settings.image_size).expand(-1, 3, -1, -1)
                found += [_detections(out, scale) for out in self.net(list(inputs))]
        return found


def _detections(out: Mapping[str, Tensor], scale: float) -> Detections:
    """torchvision's answer for one image in the contract's units, most confident first."""
    boxes, scores = (out[name].float().cpu().numpy() for name in ("boxes", "scores"))
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1) * np.float32(scale)
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2] > 0) & (boxes[order, 3] > 0)]  # clipping to the image may leave nothing of a box
    return Detections(boxes[order].astype(np.float32), scores[order].astype(np.float32))


def train_torchvision(job: Job, settings: TorchvisionSettings, learn: Sequence[Annotated]) -> Detector:
    """A detector trained on annotated images, or the one that was trained from the same inputs before.

    Args:
        job: where fits are kept, and where to compute.
        settings: architecture and budget.
        learn: what it learns from; some of the images must have boxes.

    Raises:
        DataError: nothing to learn from.
        TrainingError: a loss is not finite.
    """
    numbers = [len(images.items[row].boxes or ()) for images, rows in learn for row in rows]
    if not sum(numbers):
        names = ", ".join(images.name for images, _ in learn) or "no image set"
        raise DataError(f"no opacity box to learn from in {names}: a detector needs images with boxes.")

    def build() -> tuple[DetectorTraining, BoxBatches]:
        net = build_network(settings)
        return DetectorTraining(net, LABEL[settings.architecture], settings.lr, settings.weight_decay), BoxBatches(learn, settings)

    inputs = {
        "version": VERSION, "torchvision": library().split()[1], **settings.training(),
        "learn": identity(learn),
    }  # fmt: skip
    budget = TrainConfig(settings.iterations, settings.batch_size, checkpoint_interval=max(100, settings.iterations // 10))
    facts = {
        **_facts(settings), "pretrained": False, "images": len(numbers), "boxes": sum(numbers),
        "images_without_boxes": numbers.count(0),
    }  # fmt: skip
    fitted = job.fits.model(f"detector-{settings.architecture}", inputs, build, budget, settings.seed, facts)
    told = {**fitted.facts, "parameters": sum(p.numel() for p in fitted.model.net.parameters())}
    return TorchvisionDetector(fitted.model.net, fitted.id, settings, told, job.device)


def load_torchvision(job: Job, path: Path, settings: TorchvisionSettings) -> Detector:
    """A detector from the user's own weights: a state dict of the configured architecture with one class.

    Weights that `train_torchvision` left in the cache (``weights.pth``) are such a file.

    Raises:
        PreflightError: the file is not there, unreadable, or of another architecture, backbone or width.
    """
    if not path.is_file():
        raise PreflightError(f"{path}: no such weights file.")
    net = build_network(settings)
    if problem := _fill(net, path, settings, "cpu"):
        raise PreflightError(problem)
    facts = {**_facts(settings), "file": path.name, "parameters": sum(p.numel() for p in net.parameters())}
    facts["weights_id"] = file_digest(path)
    job.fits.used[f"detector-{settings.architecture}"] = facts
    net.to(job.device).eval().requires_grad_(False)
    return TorchvisionDetector(net, str(facts["weights_id"]), settings, facts, job.device)


def file_problem(path: Path, settings: TorchvisionSettings) -> str:
    """Why an existing file cannot be used as weights of the configured architecture, in one line; empty where it can.

    Cheap: names and shapes are compared, no value is read.
    """
    with torch.device("meta"):
        net = build_network(settings)
    return _fill(net, path, settings, "meta")


def _fill(net: nn.Module, path: Path, settings: TorchvisionSettings, device: str) -> str:
    """Load a file's weights; returns why that cannot be done."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        return unreadable(path, error)
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    state = content if isinstance(content, Mapping) else {}
    state = {str(k).removeprefix("module.").removeprefix("net."): v for k, v in state.items() if isinstance(v, Tensor)}
    try:
        with torch.device(device):  # or counters that the file lacks are made elsewhere
            net.load_state_dict(state)
    except RuntimeError as error:
        own = f"{TITLES[settings.architecture]}" + ("" if settings.architecture == "ssdlite" else f" on {settings.backbone}")
        first = (str(error).splitlines()[1:] or [str(error)])[0].strip()[:160]
        return (
            f"{path} does not hold the weights of torchvision's {own} with one class (width {settings.width}): {first} "
            "Name a file of that architecture, or set detector, backbone and width to the file's."
        )
    return ""


def _facts(settings: TorchvisionSettings) -> dict[str, Any]:
    network = {} if settings.architecture == "ssdlite" else {"backbone": settings.backbone, "width": settings.width}
    return {
        "library": library(), "licence": LICENCE, "architecture": TITLES[settings.architecture],
        **network, "image_size": settings.image_size,
    }  # fmt: skip
