"""Models to train, with example batches: those of the published results on N:M training, and two small ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwgen.arch import UserError
from models.cnn import DigitsCnn
from models.zoo import Mlp


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (divided by the stride), and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """`conv_norm` and ReLU."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride), nn.ReLU())


class ResNet9(nn.Module):
    """Eight convolutions with two residual blocks and a classifier: `[batch, 3, 32, 32]` -> `[batch, classes]`."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.conv1 = conv_norm_relu(3, 64)
        self.conv2 = nn.Sequential(*conv_norm_relu(64, 128), pool)
        self.block1 = nn.Sequential(*conv_norm_relu(128, 128), *conv_norm_relu(128, 128))
        self.conv3 = nn.Sequential(*conv_norm_relu(128, 256), pool)
        self.conv4 = nn.Sequential(*conv_norm_relu(256, 512), pool)
        self.block2 = nn.Sequential(*conv_norm_relu(512, 512), *conv_norm_relu(512, 512))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self.conv2(self.conv1(x))
        x = self.conv4(self.conv3(self.block1(x) + x))
        x = self.block2(x) + x
        return self.classifier(torch.flatten(functional.max_pool2d(x, 4), 1))


class Vgg19(nn.Module):
    """Sixteen convolutions with batch normalisation and one classifier: `[batch, 3, 32, 32]` -> `[batch, classes]`."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers, inputs = [], 3
        for outputs, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            for _ in range(count):
                layers += [*conv_norm_relu(inputs, outputs)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.classifier(torch.flatten(self.features(x), 1))


class Residual(nn.Module):
    """Residual block: `body(x) + shortcut(x)`, then ReLU; the shortcut is a 1 x 1 convolution where shapes differ."""

    def __init__(self, body: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if (inputs, stride) != (outputs, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of a feature map."""
        return torch.relu(self.body(x) + self.shortcut(x))


def basic(inputs: int, width: int, stride: int) -> Residual:
    """Two 3 x 3 convolutions."""
    body = nn.Sequential(conv_norm_relu(inputs, width, 3, stride), conv_norm(width, width))
    return Residual(body, inputs, width, stride)


def bottleneck(inputs: int, width: int, stride: int) -> Residual:
    """Convolutions 1 x 1, 3 x 3, 1 x 1; the last one gives four times the width."""
    body = nn.Sequential(
        conv_norm_relu(inputs, width, 1), conv_norm_relu(width, width, 3, stride), conv_norm(width, 4 * width, 1)
    )
    return Residual(body, inputs, 4 * width, stride)


class ResNet(nn.Module):
    """Stem, four stages of residual blocks and a classifier: `[batch, 3, side, side]` -> `[batch, classes]`.

    The stem is 7 x 7 with stride 2 and a pooling of 3 x 3 for large images, else one 3 x 3 convolution.
    """

    def __init__(self, block: Callable[..., Residual], counts: tuple[int, ...], classes: int, large: bool) -> None:
        super().__init__()
        stem = [conv_norm_relu(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)] if large else [conv_norm_relu(3, 64)]
        self.stem = nn.Sequential(*stem)
        inputs, stages = 64, []
        for number, count in enumerate(counts):
            width = 64 * 2**number
            for place in range(count):
                stages.append(block(inputs, width, 2 if number and not place else 1))
                inputs = width if block is basic else 4 * width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self.stages(self.stem(x))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Encoder(nn.Module):
    """Transformer layer: attention and a perceptron with GELU, each after a layer normalisation and with a bypass."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of tokens, `[batch, tokens, width]`."""
        x = x + self.output(self._attention(self.norm1(x)))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))

    def _attention(self, x: Tensor) -> Tensor:
        parts = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class Vit(nn.Module):
    """Vision transformer with a class token: `[batch, 3, side, side]` -> `[batch, classes]`."""

    def __init__(
        self,
        side: int = 32,
        patch: int = 4,
        width: int = 512,
        layers: int = 6,
        hidden: int = 512,
        heads: int = 8,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(Encoder(width, hidden, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.position
        return self.classifier(self.norm(self.layers(x))[:, 0])


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: how to make it, the shape of one input, the number of classes."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 10


ZOO_TRAIN = {
    "mlp": Entry(Mlp, (64,)),
    "digits_cnn": Entry(DigitsCnn, (1, 8, 8)),
    "resnet9": Entry(ResNet9, (3, 32, 32)),
    "vgg19": Entry(Vgg19, (3, 32, 32)),
    "resnet18": Entry(lambda: ResNet(basic, (2, 2, 2, 2), 10, False), (3, 32, 32)),
    "resnet18_64": Entry(lambda: ResNet(basic, (2, 2, 2, 2), 200, False), (3, 64, 64), 200),
    "resnet18_224": Entry(lambda: ResNet(basic, (2, 2, 2, 2), 1000, True), (3, 224, 224), 1000),
    "resnet50_224": Entry(lambda: ResNet(bottleneck, (3, 4, 6, 3), 1000, True), (3, 224, 224), 1000),
    "vit": Entry(Vit, (3, 32, 32)),
}
"""Models by name; those with a number at the end take images of that side, the others of 32 (digits: 8)."""


def build_training(name: str, batch: int, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    """A model in training mode, example inputs and labels; equal seeds give equal weights and examples.

    Raises `UserError` for an unknown name or a batch below 1.
    """
    if name not in ZOO_TRAIN:
        raise UserError(f"unknown model {name!r}: models to train are {', '.join(ZOO_TRAIN)}")
    if batch < 1:
        raise UserError(f"a batch must be at least 1, not {batch}")
    entry = ZOO_TRAIN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = entry.make().train()
        inputs, labels = torch.randn(batch, *entry.shape), torch.randint(entry.classes, (batch,))
    return module, (inputs,), labels
