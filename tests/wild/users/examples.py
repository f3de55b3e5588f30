# mypy: ignore-errors
"""What Lightning's documentation shows first, on small tensors that are made here."""

import lightning as L
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def images(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(length, 1, 4, 4, generator=generator)


class AutoEncoder(L.LightningModule):
    """The introduction's, whose loader has a batch size of 1."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        x_hat = self.decoder(self.encoder(x))
        loss = functional.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        self.log("val_loss", functional.mse_loss(self.decoder(self.encoder(x)), x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Digits(L.LightningDataModule):
    def __init__(self, length: int = 6, batch_size: int = 1):
        super().__init__()
        self.length, self.batch_size = length, batch_size

    def setup(self, stage):
        labels = torch.arange(self.length) % 3
        self.train = TensorDataset(images(self.length), labels)
        self.val = TensorDataset(images(5, seed=1), labels[:1].repeat(5))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=2)


class Noisy(Digits):
    """Images with the noise that the generator makes others from."""

    def setup(self, stage):
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(self.length, 5, generator=generator)
        self.train = self.val = TensorDataset(images(self.length), noise)


class GAN(L.LightningModule):
    """Two optimizers that take turns, in manual optimization."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(0.2), nn.Linear(8, 16))
        self.discriminator = nn.Sequential(nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def adversarial_loss(self, image, is_real):
        y_hat = self.discriminator(image)
        y = torch.ones_like(y_hat) if is_real else torch.zeros_like(y_hat)
        return functional.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch):
        real, noise = batch
        real = real.flatten(1)
        optimizer_g, optimizer_d = self.optimizers()

        self.toggle_optimizer(optimizer_g)
        g_loss = self.adversarial_loss(self.generator(noise), is_real=True)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        self.toggle_optimizer(optimizer_d)
        real_loss = self.adversarial_loss(real, is_real=True)
        fake_loss = self.adversarial_loss(self.generator(noise).detach(), is_real=False)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def validation_step(self, batch):
        pass

    def on_validation_epoch_end(self):
        sample = self.generator(torch.ones(2, 5).type_as(self.generator[0].weight))
        self.log("sample", sample.mean())

    def configure_optimizers(self):
        return [
            torch.optim.Adam(part.parameters(), lr=0.01, betas=(0.5, 0.999))
            for part in (self.generator, self.discriminator)
        ], []


class Text(L.LightningDataModule):
    """Lines of text as numbers; the target is each line one step on."""

    def __init__(self, length: int = 22, batch_size: int = 5):
        super().__init__()
        self.length, self.batch_size = length, batch_size

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        text = torch.randint(0, 11, (self.length, 7), generator=generator)
        self.train = TensorDataset(text[:, :-1], text[:, 1:])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size)


class LanguageModel(L.LightningModule):
    """A transformer that sees only what came before."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(8, 11)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        h = self.encoder(self.embedding(tokens) * 8**0.5, mask=mask.type_as(self.decoder.weight))
        return self.decoder(h)

    def step(self, batch):
        tokens, target = batch
        output = self(tokens)
        log_probs = functional.log_softmax(output, dim=-1).view(-1, 11)
        return functional.nll_loss(log_probs, target.reshape(-1))

    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ImageClassifier(L.LightningModule):
    """A backbone that learns from an epoch on, by the callback `BackboneFinetuning`."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = functional.cross_entropy(logits, y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", functional.cross_entropy(logits, y))
        self.log("val_accuracy", (logits.argmax(1) == y).to(x.dtype).mean())

    def configure_optimizers(self):
        learning = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(learning, lr=0.1, momentum=0.9)
