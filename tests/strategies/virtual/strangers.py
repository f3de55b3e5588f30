"""Models as people write them: a diffusion U-Net with averaged weights, a VAE, a recommender."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

NUM_TIMES = 50  # of noise, from none to nothing else


class Stranger(LightningModule):
    """Logs the loss of each step, and that of validation."""

    log_shapes = "off"

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of a batch: x `(N, 64)`, y `(N,)`."""
        raise NotImplementedError

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        self.log("own_loss", loss, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(*batch))

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Block(nn.Module):
    """A convolution that knows the time."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(num_in, num_out, 3, padding=1), nn.GroupNorm(2, num_out)
        self.time, self.drop = nn.Linear(8, num_out), nn.Dropout(0.1)

    @override
    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        x = self.norm(self.conv(x)) + self.time(times)[:, :, None, None]
        return self.drop(F.silu(x))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Down once, up once, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.low, self.last = Block(1, 4), Block(4, 8), Block(12, 4)
        self.head = nn.Conv2d(4, 1, 1)

    @override
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] / 10.0 ** torch.arange(4, device=t.device)
        times = torch.cat([waves.sin(), waves.cos()], 1)
        high = self.first(x, times)  # (N, 4, 8, 8)
        low = self.low(F.max_pool2d(high, 2), times)  # (N, 8, 4, 4)
        joined = torch.cat([high, F.interpolate(low, scale_factor=2)], 1)
        return self.head(self.last(joined, times))  # type: ignore[no-any-return]


class Averages(Callback):
    """Keeps a mean of the weights, by the step."""

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Diffusion)
        pl_module.ema.update_parameters(pl_module.net)


class Diffusion(Stranger):
    """Learns what noise was added; is validated with averaged weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()
        mean: Any = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.net, multi_avg_fn=mean)

    @override
    def configure_callbacks(self) -> Any:
        return [Averages()]

    @override
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.view(-1, 1, 8, 8)
        t = torch.randint(NUM_TIMES, (len(x),), device=x.device)
        kept = torch.cos(t / NUM_TIMES * math.pi / 2)[:, None, None, None]
        noise = torch.randn_like(x)
        net = self.net if self.training else self.ema
        return F.mse_loss(net(kept * x + (1 - kept**2).sqrt() * noise, t), noise)


class VAE(Stranger):
    """Draws in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU())
        self.moments, self.decoder = nn.Linear(16, 8), nn.Linear(4, 64)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Normal]:
        mean, log_scale = self.moments(self.encoder(x)).chunk(2, 1)
        code = Normal(mean, log_scale.exp())
        return self.decoder(code.rsample()), code

    @override
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        again, code = self(x)
        divergence = kl_divergence(code, Normal(0.0, 1.0)).sum(1).mean()
        return F.mse_loss(again, x) + 0.1 * divergence


class Recommender(Stranger):
    """Tells a user's item from one drawn at random; most rows of its tables have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(40, 8), nn.Embedding(60, 8)
        self.bias = nn.EmbeddingBag(60, 1, mode="sum")

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Of each pair."""
        scores = (self.users(user) * self.items(item)).sum(1) + self.bias(item[:, None])[:, 0]
        return scores  # type: ignore[no-any-return]

    @override
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        user, item = (x[:, 0].abs() * 13).long() % 40, (x[:, 1].abs() * 19).long() % 60
        others = torch.randint(60, item.shape, device=item.device)
        return F.softplus(self.score(user, others) - self.score(user, item)).mean()
