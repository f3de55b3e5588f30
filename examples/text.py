"""A language model of letters, on lines of different lengths that are padded.

python train.py --model examples.text.LetterModel --data examples.text.Lines --devices 2

Its loss is a mean over letters, not over lines, and the lines of a batch have not all as many.
`loss_is_mean_over` tells so; without it, several processes would weigh their shards by lines.
"""

import codecs
import contextlib
import io

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

PADDING = 0
LETTERS = "\n abcdefghijklmnopqrstuvwxyz,.'!-*"  # the first begins and ends a line


def zen_of_python() -> list[str]:
    """The lines that `import this` prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    text = codecs.decode(this.s, "rot13").lower()
    return [line for line in text.splitlines() if line]


class Lines(LightningDataModule):
    """Lines as numbers `(N, length)`, 0 where a line has ended.

    Args:
        batch_size: Lines in a batch.
    """

    def __init__(self, batch_size: int = 6) -> None:
        super().__init__()
        self.batch_size = batch_size
        number = {letter: i + 1 for i, letter in enumerate(LETTERS)}
        self.lines = [
            torch.tensor([number[letter] for letter in f"\n{line}\n" if letter in number])
            for line in zen_of_python()
        ]

    def _loader(self, shuffle: bool) -> DataLoader[Tensor]:
        def pad(lines: list[Tensor]) -> Tensor:
            return pad_sequence(lines, batch_first=True, padding_value=PADDING)

        return DataLoader(self.lines, self.batch_size, shuffle=shuffle, collate_fn=pad)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Tensor]:
        return self._loader(shuffle=True)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return self._loader(shuffle=False)


class LetterModel(LightningModule):
    """A GRU that tells the next letter.

    Args:
        hidden_size: Of the GRU.
        lr: Adam's learning rate.
    """

    def __init__(self, hidden_size: int = 64, lr: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embed = nn.Embedding(len(LETTERS) + 1, 16, padding_idx=PADDING)
        self.gru = nn.GRU(16, hidden_size, batch_first=True)
        self.score = nn.Linear(hidden_size, len(LETTERS) + 1)

    def forward(self, letters: Tensor) -> Tensor:
        """Scores `(N, length, letters)` of what comes after each of the letters `(N, length)`."""
        hidden, _ = self.gru(self.embed(letters))
        scores: Tensor = self.score(hidden)
        return scores

    def _loss(self, lines: Tensor) -> Tensor:
        scores = self(lines[:, :-1])
        return cross_entropy(scores.flatten(0, 1), lines[:, 1:].flatten(), ignore_index=PADDING)

    def loss_is_mean_over(self, lines: Tensor) -> Tensor:
        return (lines[:, 1:] != PADDING).sum()

    def training_step(self, lines: Tensor, batch_idx: int) -> Tensor:
        return self._loss(lines)

    def validation_step(self, lines: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self._loss(lines))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
