"""The small convolutional network that is trained on digits, in PyTorch and on the accelerator."""

import torch
from torch import Tensor, nn


class DigitsCnn(nn.Module):
    """Convolution, pooling, convolution, residual convolution, classifier: `[batch, 1, side, side]` -> `[batch, 10]`.

    Batch norm after each convolution. `width` channels after the first convolution, twice as many after the others;
    a multiple of 16 lets groups of up to 16 fit everywhere but in the first convolution and the classifier.
    """

    def __init__(self, width: int = 16, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * width)
        self.classifier = nn.Linear(2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, outputs]` of images `[batch, 1, side, side]`; any even side."""
        h = torch.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        h = torch.relu(self.norm2(self.conv2(h)))
        h = torch.relu(self.norm3(self.conv3(h)) + h)
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(h, 1), 1))
