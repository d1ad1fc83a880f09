"""Makes the embedded teacher: a ResNet-18 trunk pretrained on generated images alone."""
