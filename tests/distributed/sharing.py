"""What ranks of the tests run that keep teachers' features together."""

import json
import os
import signal
import tempfile
from pathlib import Path

import torch
from trainings import images

from fastad import models
from fastad.distributed import meet
from fastad.training import Trainer, TrainingConfig, machine, on_disk

BRIGHT = 7  # the number of a white image


class Counting(torch.nn.Module):
    """A teacher that counts the images that it saw.

    Args:
        scale: of the features of a white image. float16 cannot hold those that are large.
        last: number of images after which the process is killed.
    """

    def __init__(self, scale, last):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.seen, self.last, self.scale = 0, last, scale

    def forward(self, batch):
        self.seen += len(batch)
        if self.last is not None and self.seen > self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        is_white = batch.amin(dim=(1, 2, 3), keepdim=True) > 2
        features = self.conv(batch) * torch.where(is_white, self.scale, 1.0)
        return [features, torch.nn.functional.avg_pool2d(features, 2)]


def kept(target, folder, training, scale=1.0, dies=None, checkpoint=None, resume=False):
    """Train, and leave in files TARGET.RANK how many images the teacher saw, and the losses."""
    tempfile.tempdir, on_disk.MOUNTS = folder, "nowhere"
    rank = int(os.environ.get("RANK", 0))
    if "RANK" in os.environ:
        meet()
    teacher = Counting(scale, None)
    torch.manual_seed(1)
    # Each process finds the hard distances of its own share: all are alike where none is.
    model = models.build("stpm", backbone=teacher, hard=0.0)
    base = {"epochs": 3, "batch_size": 2, "device": "cpu", "precision": "float32", "workers": 0}
    config = TrainingConfig.for_model(model, **base | training)
    teacher.seen = 0  # after one image that shows its channels
    teacher.last = dies[1] if dies is not None and dies[0] == rank else None
    data = images()[:, :, ::2, ::2]  # too small for synthesised defects, which take time
    data[BRIGHT] = 255
    record = Trainer(model, config).fit(data, checkpoint=checkpoint, resume=resume)
    facts = {"seen": teacher.seen, "losses": record.losses, "scores": record.validation_scores}
    Path(f"{target}.{rank}.json").write_text(json.dumps(facts))


def rows(target, folder, on_a_disk):
    """Each process fills its rows of one tensor. Then the second cannot see another one."""
    tempfile.tempdir, on_disk.MOUNTS = folder, "nowhere"
    meet()
    own = machine.Machine.found()
    found = own.tensor((3, 2), torch.float32, on_disk=on_a_disk)
    for row in own.share(range(3)):
        found[row] = own.number + 1
    own.of_all(None)
    if own.number == 1:
        machine.mapped = _not_here
    said = ""
    try:
        own.tensor((3,), torch.float32, on_disk=on_a_disk)
    except machine.SharingError as error:
        said = str(error)
    facts = {
        "rows": found.tolist(),
        "said": said,
        "left": [n for n in os.listdir(folder) if n.startswith("fastad")],
    }
    Path(f"{target}.{os.environ['RANK']}.json").write_text(json.dumps(facts))


def _not_here(*arguments):
    raise OSError("it is not here")
