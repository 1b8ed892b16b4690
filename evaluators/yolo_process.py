"""The only file that imports ultralytics: a process that trains YOLOv5u and finds boxes with it, for `evaluators.yolo`.

ultralytics is licensed under AGPL-3.0. It is imported here, in a process of its own, and nowhere else; the core never requires
it, and without it `evaluators.detection` has another detector. What goes in and out are files and lines of JSON.

The other reason for the process: importing ultralytics sets thread counts and replaces ``torch.save`` for whoever imports it.

Protocol. The parent sets the environment (no network, no settings of the user's), starts this script with a working folder and
a number of threads, and writes one JSON object a line to its standard input: ``{"task": "train" | "describe" | "detect", ...}``.
The answers are lines of JSON on standard output: ``{"epoch": 3, "of": 10, "loss": 4.2}`` now and then, and at last ``{"done":
{...}}`` or ``{"error": "..."}``. Everything that libraries print goes to standard error, which the parent keeps as the log. When
the input ends (the parent closed it, or is no more), the process removes its working folder and ends at once, whatever it does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

#: Whatever could send or fetch anything, in ultralytics' own settings; names it does not know are left out.
_OFF = {
    "sync": False, "api_key": "", "openai_api_key": "", "clearml": False, "comet": False, "dvc": False, "hub": False,
    "mlflow": False, "neptune": False, "raytune": False, "tensorboard": False, "wandb": False, "vscode_msg": False,
}  # fmt: skip
#: What ultralytics logs when it stops suppressing and drops the boxes of a batch's remaining images.
_DROPPED = "NMS time limit"


class Worker:
    """Does the parent's tasks, one after another.

    Args:
        work: an existing folder for everything temporary.
        threads: CPU threads of torch; ultralytics would choose its own number.
    """

    def __init__(self, work: Path, threads: int) -> None:
        self.work, self.threads = work, threads
        self.answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # from here on, whatever libraries print is log
        self.library: Any = None
        self.dropped = False
        self._loaded: tuple[str, Any] | None = None

    def answer(self, **message: Any) -> None:
        """One line to the parent."""
        self.answers.write(json.dumps(message) + "\n")
        self.answers.flush()

    def serve(self) -> None:
        """Do tasks until the input ends."""
        tasks: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(tasks,), daemon=True).start()
        while True:
            task = json.loads(tasks.get())
            try:
                self._start()
                self.answer(done=getattr(self, task.pop("task"))(**task))
            except Exception as error:
                traceback.print_exc()
                text = " ".join(str(error).split())
                self.answer(error=f"{type(error).__name__}: {text}" if text else type(error).__name__)

    def _read(self, tasks: queue.Queue[str]) -> None:
        for line in sys.stdin:
            tasks.put(line)
        shutil.rmtree(self.work, ignore_errors=True)
        os._exit(0)

    def _start(self) -> None:
        """Import ultralytics, once, with everything off that could use the network."""
        if self.library is not None:
            return
        if os.environ.get("YOLO_OFFLINE") != "1":
            raise RuntimeError("YOLO_OFFLINE=1 is not set; ultralytics is not imported where it might use the network.")
        self._place_font()
        import_module("torchvision")  # or ultralytics suppresses overlaps by its own, slower code
        self.library = import_module("ultralytics")
        if not getattr(import_module("ultralytics.utils"), "SAFE_LOAD", False):
            raise RuntimeError(f"ultralytics {self.library.__version__} cannot load weights safely. Upgrade it (8.4.190 can).")
        settings = self.library.settings
        settings.update({name: value for name, value in _OFF.items() if name in settings})
        logging.getLogger("ultralytics").addFilter(self._watch)
        self._keep_threads()

    def _place_font(self) -> None:
        """ultralytics fetches ``Arial.ttf`` before any training unless a file of that name is there; any font will do."""
        folder = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics"
        folder.mkdir(parents=True, exist_ok=True)
        font = Path(import_module("matplotlib").get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        shutil.copyfile(font, folder / "Arial.ttf")

    def _watch(self, record: logging.LogRecord) -> bool:
        self.dropped |= _DROPPED in record.getMessage()
        return True

    def _keep_threads(self, *_: Any) -> None:
        import_module("torch").set_num_threads(self.threads)

    def train(self, architecture: str, output: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Train from an architecture's yaml.

        Args:
            architecture: ``yolov5n.yaml``.
            output: where the weights of the last epoch (their moving average) go.
            arguments: of ultralytics' ``train``.
        """
        model = self.library.YOLO(architecture, task="detect")
        told: dict[str, Any] = {}

        def epoch(trainer: Any) -> None:
            self.answer(epoch=trainer.epoch + 1, of=trainer.epochs, loss=float(trainer.loss.detach()))

        def saved(trainer: Any) -> None:  # no choice of an epoch: the last one's weights are the result
            trainer.best.unlink(missing_ok=True)
            told.update(
                images=len(trainer.train_loader.dataset), batch_size=int(trainer.batch_size),
                map50=float(trainer.metrics.get("metrics/mAP50(B)", 0.0)),
            )  # fmt: skip

        model.add_callback("on_train_start", self._keep_threads)  # choosing a CPU device has set them
        model.add_callback("on_train_epoch_end", epoch)
        model.add_callback("on_model_save", saved)
        model.train(**arguments)
        os.replace(model.trainer.last, output)
        return {**self.describe(output), **told}

    def describe(self, weights: str) -> dict[str, Any]:
        """What a weights file is: ``weights_id`` (hash of names and values), task, classes, parameters, channels, image size."""
        network = self._model(weights).model
        content = hashlib.blake2b(digest_size=16)
        for name, value in sorted(network.state_dict().items()):
            content.update(name.encode())
            content.update(value.detach().cpu().contiguous().numpy().tobytes())
        size = network.args.get("imgsz") if isinstance(network.args, dict) else None
        return {
            "weights_id": content.hexdigest(),
            "task": str(network.task),
            "architecture": Path(str(network.yaml.get("yaml_file", ""))).stem,
            "classes": [str(name) for _, name in sorted(network.names.items())],
            "parameters": sum(p.numel() for p in network.parameters()),
            "image_size": size if isinstance(size, int) else 0,
            "version": str(self.library.__version__),
        }

    def _model(self, weights: str) -> Any:
        """A model from a file, without running code that it may contain (``ULTRALYTICS_SAFE_LOAD``)."""
        if self._loaded is None or self._loaded[0] != weights:
            model = self.library.YOLO(weights)
            model.add_callback("on_predict_start", self._keep_threads)
            self._loaded = weights, model
        return self._loaded[1]

    def detect(self, weights: str, images: str, output: str, batch_size: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """Find boxes.

        Args:
            weights: the file.
            images: ``.npy``, n x S x S uint8; removed as soon as it is read.
            output: ``.npz`` to write: ``boxes`` (k x 4: x, y, width, height in pixels), ``scores`` (k,) and ``image`` (k,).
            batch_size: images at once.
            arguments: of ultralytics' ``predict``.
        """
        import numpy as np

        pixels = np.load(images, allow_pickle=False)
        Path(images).unlink()
        model, rows, index = self._model(weights), [], []
        for start in range(0, len(pixels), batch_size):
            for offset, found in enumerate(self._predict(model, pixels[start : start + batch_size], arguments)):
                rows.append(found)
                index.extend([start + offset] * len(found))
        table = np.concatenate([*rows, np.zeros((0, 5), np.float32)])
        table[:, 2:4] -= table[:, :2]
        np.savez(output, boxes=table[:, :4], scores=table[:, 4], image=np.asarray(index, np.int64))
        return {"n": len(pixels)}

    def _predict(self, model: Any, pixels: Any, arguments: dict[str, Any]) -> list[Any]:
        """k x 5 (left, top, right, bottom, confidence) of each image."""
        import numpy as np

        channels = int(model.model.yaml.get("channels", 3))
        images = [np.repeat(image[..., None], channels, axis=2) for image in pixels]
        self.dropped = False
        results = model.predict(images, **arguments)
        if self.dropped and len(images) > 1:  # one at a time nothing can be dropped
            return [self._predict(model, pixels[i : i + 1], arguments)[0] for i in range(len(pixels))]
        return [np.concatenate([r.boxes.xyxy.cpu().numpy(), r.boxes.conf.cpu().numpy()[:, None]], axis=1) for r in results]


if __name__ == "__main__":
    Worker(Path(sys.argv[1]), int(sys.argv[2])).serve()
