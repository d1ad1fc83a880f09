"""What UTAD's networks learn, written out a second time: every loss, its weight, who is real."""

import pytest
import torch
from small import UTAD as SMALL
from torch import nn

from fastad import models
from fastad.models.utad.impression_losses import coding_losses

IMPRESSION, EXPERT = models.UTAD.stages


@pytest.fixture
def model():
    """In float64 and eval mode, where nothing is drawn at random."""
    torch.manual_seed(0)
    model = models.build("utad", **SMALL).double().eval()
    nn.init.normal_(model.impression.output.weight)  # impressions that are not all the same
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean)
    nn.init.normal_(model.expert.impression_norms)
    return model


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 32, dtype=torch.float64)


def losses(model, images, stage, step):
    model.enter_stage(stage)
    return model.step_loss({"image": images}, stage.steps[step])


def as_real(judged):
    """Mean over the scales of the squared distance from 1."""
    return sum((scale - 1).square().mean() for scale in judged) / len(judged)


def as_made(judged):
    return sum(scale.square().mean() for scale in judged) / len(judged)


def apart(found, wanted):
    return (found - wanted).abs().mean()


def edges(images):
    """Differences of neighbours, of three sizes along both axes."""
    for size in (1, 2, 4):
        n, c, h, w = images.shape
        small = images.reshape(n, c, h // size, size, w // size, size).mean(dim=(3, 5))
        yield small[:, :, 1:] - small[:, :, :-1]
        yield small[..., 1:] - small[..., :-1]


def test_the_impression_network(model, images):
    """The paper's section 3.1: 10 squared + edge + 0.01 adversarial + 0.1 information + 0.01 KL."""
    found = losses(model, images, IMPRESSION, 0)
    made = model.impression(images)
    features = model.impression.encode(images)
    mean, log_variance = model.impression.latents(features)
    codes = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    pooled = model.information.norm(features.mean(dim=(2, 3)))
    own, other = (
        model.information.layers(torch.cat([mean, pooled[order]], dim=1))
        for order in ([0, 1, 2], [2, 0, 1])
    )
    information = -(own.sigmoid().log().mean() + (1 - other.sigmoid()).log().mean())
    expected = {
        "squared": 10 * ((made - images) ** 2).mean(),
        "edge": sum(apart(a, b) for a, b in zip(edges(made), edges(images), strict=True)) / 6,
        "adversarial": 0.01 * as_real(model.discriminators(made)),
        "information": 0.1 * information,
        "divergence": 0.01 * torch.distributions.kl_divergence(codes, standard).mean(),
    }
    assert min(loss.item() for loss in expected.values()) > 1e-6
    torch.testing.assert_close(found, expected)


def test_codes_are_drawn_in_training(model, images):
    seen = []

    def information(codes, features):
        seen.append(codes)
        return codes.sum()

    for training in (False, True):
        model.impression.train(training)
        torch.manual_seed(1)
        coding_losses(model.impression, information, images)
        torch.manual_seed(1)
        mean, log_variance = model.impression.latents(model.impression.encode(images))
        expected = mean + training * torch.randn_like(mean) * (log_variance / 2).exp()
        torch.testing.assert_close(seen.pop(), expected)


def test_the_expert(model, images):
    """MUNIT's losses, its eq. 1 to 4: adversarial + 10 image + detail code + content."""
    found = losses(model, images, EXPERT, 0)
    expert, impressions = model.expert, model.impression(images)
    detail = expert.detail(2 * images - 1)
    content = expert.image_content(2 * images - 1)
    coarse = expert.impression_content(2 * impressions - 1)
    made = expert.image_decoder(coarse, expert.norms(detail)) / 2 + 0.5
    norms = expert.impression_norms.expand(3, -1)
    naive = expert.impression_decoder(content, norms) / 2 + 0.5
    expected = {
        "adversarial": as_real(model.expert_discriminators(made)),
        "image": 10 * (apart(made, images) + apart(naive, impressions)),
        "detail": apart(expert.detail(2 * made - 1), detail),
        "content": apart(expert.image_content(2 * made - 1), coarse)
        + apart(expert.impression_content(2 * naive - 1), content),
    }
    assert min(loss.item() for loss in expected.values()) > 1e-6
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stage", [IMPRESSION, EXPERT], ids=lambda stage: stage.name)
def test_the_discriminators(model, images, stage):
    """Images are real, what the stage's network makes of them is not."""
    found = losses(model, images, stage, 1)
    made, judges = model.impression(images), model.discriminators
    if stage is EXPERT:
        made, judges = model.expert(images, made)[0], model.expert_discriminators
    expected = as_real(judges(images)) + as_made(judges(made))
    assert abs((expected - as_real(judges(made)) - as_made(judges(images))).item()) > 1e-6
    torch.testing.assert_close(found, {"discriminators": expected})


def test_discriminators_judge_what_the_step_before_made(model, images):
    model.enter_stage(IMPRESSION)
    batch = {"image": images}
    model.step_loss(batch, IMPRESSION.steps[0])
    assert not batch["made"].requires_grad
    torch.testing.assert_close(batch["made"], model.impression(images))
    batch["made"] = torch.rand_like(images)
    judges = model.discriminators
    torch.testing.assert_close(
        model.step_loss(batch, IMPRESSION.steps[1])["discriminators"],
        as_real(judges(images)) + as_made(judges(batch["made"])),
    )


@torch.no_grad()
def test_epochs_are_chosen_by_what_pictures_shall_be(model, images):
    model.enter_stage(IMPRESSION)
    made = model.impression(images)
    expected = ((made - images) ** 2).mean(dim=(1, 2, 3)) + sum(
        (a - b).abs().mean(dim=(1, 2, 3)) / 6
        for a, b in zip(edges(made), edges(images), strict=True)
    )
    torch.testing.assert_close(model.validation_score({"image": images}), expected)
    model.enter_stage(EXPERT)
    detailed, naive = model.expert(images, made)
    expected = (detailed - images).abs().mean(dim=(1, 2, 3))
    expected += (naive - made).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(model.validation_score({"image": images}), expected)
