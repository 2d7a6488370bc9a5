"""One training step of the reference interpreter is PyTorch's own: models of all kinds, several steps each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.cnn import DigitsCnn
from scheduler.training.graph.operators import MaxPool
from scheduler.training.graph.reference import Reference
from tests.scheduler.training.support import check_steps


def images(seed, shape, classes=10, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        ((torch.randn(shape, generator=generator),), (torch.randint(classes, (shape[0],), generator=generator),))
        for _ in range(count)
    ]


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        return self.fc3(F.silu(self.fc2(x)) + x)


class Cnn(nn.Module):
    """Normalisation, in-place ReLU, residual, strided and grouped filters, pools of both kinds, a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.short = nn.Conv2d(8, 12, 1, stride=2)
        self.fc = nn.Linear(12 * 2 * 3, 10)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        x = F.relu(self.norm(self.point(self.deep(x))) + self.short(x))
        return self.fc(F.avg_pool2d(x, 2, ceil_mode=False).flatten(1))


class Rectangles(nn.Module):
    """Filters and windows with different height and width, no channel in the middle of a group, adaptive pools."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, (3, 1), stride=(2, 1), padding=(0, 2))
        self.b = nn.Conv2d(6, 4, (1, 5), padding=(0, 1), groups=2)

    def forward(self, x):
        x = F.max_pool2d(F.gelu(self.a(x), approximate="tanh"), (2, 1), stride=(1, 1))
        x = F.adaptive_avg_pool2d(F.avg_pool2d(self.b(x), 3, 1, 1), (3, 2))
        return F.adaptive_max_pool2d(x, 1).flatten(1)


class GlobalPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = (
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6, affine=False, momentum=0.3),
            nn.Linear(6, 10),
        )

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.norm(self.conv(x)), 1), 1))


class Vit(nn.Module):
    """Patches, class token, position embedding; attention with fused or separate projections, in four forms."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        if form in ("fused", "chunks"):
            self.qkv = nn.Linear(16, 48, bias=False)
        else:
            self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 10)

    def attention(self, x):
        b, t, d = x.shape
        if self.form == "fused":
            q, k, v = self.qkv(x).view(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.form == "chunks":
            q, k, v = (part.view(b, t, 2, d // 2).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        else:
            q, k, v = (part(x).view(b, t, 2, d // 2).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.form == "explicit":
            y = torch.softmax(q @ k.transpose(-1, -2) / 3.0, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, t, d))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0] + x.mean(1))


class Masked(nn.Module):
    """Two layers of attention that see what came before, and one with a mask of the model."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Linear(4, 12), nn.Linear(12, 10)
        self.register_buffer("mask", torch.where(torch.rand(1, 1, 6, 6) > 0.3, 0.0, -1e4))
        self.register_buffer("bias", torch.randn(6, 6))

    def forward(self, x):
        x = self.embed(x.flatten(2))
        for options in ({"is_causal": True}, {"is_causal": True}, {"attn_mask": self.mask}, {"attn_mask": self.bias}):
            q = x.unflatten(-1, (2, 6)).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(q, q, q, **options).transpose(1, 2).flatten(2)
        return self.fc(x.mean(1))


class Turned(nn.Module):
    """Weights `[in, out]`, of which PyTorch computes the gradient the other way round."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12, 7)), nn.Parameter(torch.randn(7, 10))

    def forward(self, x):
        return torch.relu(x @ self.a) @ self.b


class Mixer(nn.Module):
    """Patches cut out by views, and a linear layer over tokens: values that have to move."""

    def __init__(self):
        super().__init__()
        self.patch, self.tokens, self.norm, self.head = (
            nn.Linear(48, 8),
            nn.Linear(4, 6),
            nn.LayerNorm(6),
            nn.Linear(48, 10),
        )

    def forward(self, x):
        x = x.view(-1, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 48)
        x = self.norm(self.tokens(self.patch(x).transpose(1, 2)))
        return self.head(x.transpose(1, 2).reshape(-1, 48))


class PytorchEncoder(nn.Module):
    """The encoder layer that PyTorch has, over the channels of an image as tokens."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(36, 10)

    def forward(self, x):
        return self.fc(self.layer(x.flatten(2)).flatten(1))


class Average(nn.Module):
    """An average over tokens of attention, whose gradient is the same for all of them."""

    def __init__(self):
        super().__init__()
        self.query, self.fc = nn.Linear(4, 12), nn.Linear(12, 10)

    def forward(self, x):
        q = self.query(x.flatten(2)).unflatten(-1, (2, 6)).transpose(1, 2)
        return self.fc(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2).mean(1))


class Gate(nn.Module):
    """Channels that are scaled by a factor of the whole image, and halves that change places."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv(x)
        x = x * F.silu(self.gate(x.mean((2, 3)))).view(-1, 8, 1, 1) - x[:, :, :1]
        a, b = x.split([3, 5], dim=1)
        return self.fc(torch.cat([b, a], dim=1)[:, :, 1:, 2].sum(2) / 5)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.fc = (
            nn.Embedding(11, 8),
            nn.LayerNorm(8, elementwise_affine=False),
            nn.Linear(24, 10),
        )

    def forward(self, tokens):
        return self.fc(self.norm(self.table(tokens)).flatten(1))


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x)))) * 0.5


MODELS = {
    "mlp": (Mlp, (5, 12)),
    "digits": (lambda: DigitsCnn(width=4), (3, 1, 8, 8)),
    "cnn": (Cnn, (4, 3, 16, 24)),
    "rectangles": (Rectangles, (3, 2, 15, 10)),
    "global pool": (GlobalPool, (4, 3, 7, 6)),
    "pytorch encoder": (PytorchEncoder, (4, 3, 3, 4)),
    "average of tokens": (Average, (4, 3, 2, 2)),
    "masked attention": (Masked, (4, 6, 2, 2)),
    "turned weights": (Turned, (5, 12)),
    "mixer": (Mixer, (3, 3, 8, 8)),
    "gate": (Gate, (3, 3, 6, 7)),
    "flattened input": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 5, 10)), (4, 2, 3, 5)),
    **{
        f"vit, {form}": (lambda form=form: Vit(form), (3, 3, 8, 8))
        for form in ("separate", "fused", "chunks", "explicit")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_that_of_pytorch(name, seed):
    torch.manual_seed(seed)
    model, shape = MODELS[name]
    check_steps(model(), images(seed, shape, classes=4 if name == "rectangles" else 10))


def test_ties_of_a_pooling_go_to_the_first_pixel(seed):
    """Whole numbers, so that most windows have their maximum more than once."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(27, 10))
    with torch.no_grad():
        module[0].weight.copy_(torch.randint(-1, 2, module[0].weight.shape))
        module[0].bias.zero_()
    whole = [((torch.randint(-2, 3, (4, 2, 5, 5)).float(),), (torch.randint(10, (4,)),))]
    graph = check_steps(module, whole)
    pooled = next(item for item in graph.operators if isinstance(item, MaxPool))
    seen = Reference(graph).step({"input": whole[0][0][0].numpy(), "target": whole[0][1][0].numpy()})
    x = torch.from_numpy(seen[pooled.input]).permute(0, 3, 1, 2)
    _, first = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    _, last = F.max_pool2d(x.flip(2, 3), 3, 2, 1, return_indices=True)
    assert (first != 24 - last.flip(2, 3)).any(), "the batch has no ties"


def test_embedding(seed):
    torch.manual_seed(seed)
    batches = [((torch.randint(11, (4, 3)),), (torch.randint(10, (4,)),)) for _ in range(2)]
    check_steps(Embedded(), batches)


def test_squared_error_of_rows(seed):
    torch.manual_seed(seed)
    check_steps(Rows(), [((torch.randn(7, 6),), (torch.randn(7, 3),)) for _ in range(2)], "mse")
