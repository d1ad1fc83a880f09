"""PatchCore on MVTec AD's bottle beside a plain implementation of the paper."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

import fastad
from fastad.data import read_image, resize, test_samples
from fastad.data.training_set import read_training_set


def plain_features(backbone, images):
    """Images (N, 3, H, W) in [0, 1] -> (N * h * w, D), by unfold, in float64."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    found = []
    for level in backbone((images - mean) / std):
        n, c, h, w = level.shape
        means = F.unfold(level.double(), 3, padding=1).view(n, c, 9, -1).mean(dim=2)
        found.append(means.view(n, c, h, w))
    size = found[0].shape[2:]
    found = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in found]
    return torch.cat(found, dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def fitted(shared_data, **options):
    detector = fastad.Detector(
        "patchcore",
        image_size=256,
        teacher_weights=str(shared_data / "weights"),
        device="cpu",
        false_positive_rate=0.05,
        **options,
    )
    return detector.fit(shared_data / "mvtec_ad" / "bottle", variants=0)  # a third of the time


@pytest.mark.slow
def test_a_memory_for_each_layer_finds_more(shared_data):
    found = fitted(shared_data).evaluate(shared_data / "mvtec_ad" / "bottle")
    assert found["image_auroc"] >= 0.999
    assert found["pixel_auroc"] >= 0.987
    assert found["aupro"] >= 0.955


@pytest.mark.slow
@torch.no_grad()
def test_as_good_as_a_plain_implementation(shared_data):
    folder = shared_data / "mvtec_ad" / "bottle"
    detector = fitted(shared_data, joint=True, unit=False, layers=("layer2", "layer3"))
    found = detector.evaluate(folder)
    assert found["image_auroc"] >= 0.995
    assert found["pixel_auroc"] >= 0.975

    backbone = detector.model_.teacher.backbone
    images = read_training_set(folder, 256, False, "auto").dataset
    held_out = detector.training_record_["held_out"]
    train = [i for i in range(len(images)) if i not in held_out]
    generator = torch.Generator().manual_seed(0)
    features = []
    for i in train:
        rows = plain_features(backbone, images[i][None] / 255)
        features.append(rows[torch.randperm(len(rows), generator=generator)[:200]])
    features = torch.cat(features)
    directions = torch.randn(features.shape[1], 128, generator=generator).double()
    points = features @ directions
    distances, chosen = torch.full((len(points),), torch.inf).double(), [0]
    for _ in range(1000):
        distances = torch.minimum(distances, (points - points[chosen[-1]]).norm(dim=1))
        chosen.append(int(distances.argmax()))
    memory = features[chosen]
    scores, labels = [], []
    for sample in test_samples(folder):
        rows = plain_features(backbone, resize(read_image(sample.path), (256, 256))[None] / 255)
        apart = torch.cdist(rows, memory)
        nearest, index = apart.min(dim=1)
        worst = int(nearest.argmax())
        around = torch.cdist(memory[index[worst]][None], memory)[0].argsort()[:9]
        factor = 1 - nearest[worst].exp() / apart[worst, around].exp().sum()
        scores.append(float(factor * nearest[worst]))
        labels.append(sample.label)
    assert abs(found["image_auroc"] - roc_auc_score(labels, scores)) <= 0.005
