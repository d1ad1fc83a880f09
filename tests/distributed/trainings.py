"""What ranks of the tests train: the same in any number of them."""

import json
import os
import signal
from pathlib import Path

import torch

from fastad import models
from fastad.distributed import meet
from fastad.training import Trainer, TrainingConfig
from fastad.training.checkpoint import load_checkpoint


def images():
    """Twelve images of 32x32 pixels of noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator)


def small_model(name, options):
    """Random weights, the same in every process."""
    torch.manual_seed(0)
    return models.build(name, **options, **models.without_weights(name))


def train(name, options, training, target, together=True, checkpoint=None, resume=False, dies=None):
    """Train a model, and leave its losses, scores and weights in files TARGET.RANK."""
    rank = os.environ.get("RANK", "0")
    if together:
        meet()
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    model = small_model(name, options)
    config = TrainingConfig.for_model(model, device="cpu", precision="float32", **training)

    def kill(event):
        if rank == str(dies[0]) and event.epoch == dies[1] and event.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = Trainer(model, config, kill if dies else None)
    record = trainer.fit(images(), checkpoint=checkpoint, resume=resume)
    state = {name: value.cpu().clone() for name, value in model.trained_state().items()}
    stages = [
        {"losses": s.losses, "validation": s.validation_scores, "best": s.best_epoch}
        for s in record.stages
    ]
    facts = {"stages": stages, "processes": record.processes, "notes": record.notes}
    Path(f"{target}.{rank}.json").write_text(json.dumps(facts))
    torch.save(state, f"{target}.{rank}.pt")


def norm(target):
    """Batch norm of shares of 5 and 2 values: outputs, gradients and statistics."""
    meet()
    values, weights = norm_input()
    rank = int(os.environ["RANK"])
    own = slice(0, 5) if rank == 0 else slice(5, 7)
    layer = norm_layer()
    share = values[own].clone().requires_grad_()
    from fastad.training.shares import Shares

    with Shares().synced_norms(layer):
        result = layer(share)
    (result * weights[own]).sum().backward()
    torch.save([result.detach(), share.grad, dict(layer.state_dict())], f"{target}.{rank}.pt")


def norm_input():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(7, 3, 4, 5, generator=generator) * 3 + 10
    return values, torch.randn(7, 3, 4, 5, generator=generator)


def norm_layer():
    torch.manual_seed(2)
    layer = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=0.3))
    torch.nn.init.normal_(layer[0].weight)
    torch.nn.init.normal_(layer[0].bias)
    return layer


def epochs_of(path):
    return load_checkpoint(path).record.epochs
