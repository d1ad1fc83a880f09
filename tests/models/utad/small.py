"""Sizes at which models are built and run in no time."""

UTAD = {
    "impression_width": 2,
    "latents": 4,
    "expert_width": 2,
    "discriminator_width": 2,
    "bank": 8,
    "teacher_weights": None,
}
