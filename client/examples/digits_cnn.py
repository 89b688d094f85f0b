"""A small convolutional network on 8 x 8 handwritten digits, with batch normalisation and dropout.

`tolsey job build client/examples/digits_cnn.py` (needs scikit-learn for the images: `pip install 'tolsey[examples]'`).
Running statistics are part of the checkpoint; dropout masks are a function of the job's seed.
"""

from __future__ import annotations

import torch
from torch import nn

from tolsey.runtime.author import Job, constant, digits, sgd


class DigitsCNN(nn.Module):
    """Pixels 0 … 16 in, logits of ten classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classes = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [batch, 1, 8, 8] -> float32 [batch, 10]."""
        return self.classes(self.features(images.float() / 16))


job = Job(
    name="digits-cnn",
    model=DigitsCNN,
    data=digits(),
    batch_size=32,
    steps=100,
    steps_per_segment=20,
    segments_per_window=5,
    optimiser=sgd(momentum="0.9", weight_decay="1e-4"),
    lr="0.05",
    schedule=constant(warmup_steps=5),
    seed=2,
)
