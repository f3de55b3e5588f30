"""The best checkpoint, by any metric: the one that is asked for, or else a good guess."""

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lightning_app import inside
from lightning_app.strategies.checks.telling import TellOnce

Mode = Literal["min", "max"]
USUAL = "val/loss"
_WHOLE = re.compile(r"(?i)(val(id(ation)?)?[/_.-])?loss")  # beside which others are parts of it
# Of a name's words, which tell what is better.
_LOWER = re.compile(
    r"(?i)loss|err(or)?|m[as]e|rmse|mape|nll|bce|ce|perplexity|ppl|[wc]er|fid|dist(ance)?|regret"
)
_HIGHER = re.compile(
    r"(?i)acc(uracy)?|f1|fbeta|auc|auroc|ap|map|r2|iou|miou|jaccard|dice|bleu|rouge|precision"
    r"|recall|specificity|psnr|ssim|score|reward|return|corr|pearson|spearman|kappa|mcc|ndcg|mrr"
)


def better(name: str) -> Mode | None:
    """Whether a lower or a higher value of a metric is better, by its name; `None`: not known."""
    for word in reversed(re.findall(r"[a-zA-Z]+\d*", name.replace("_", " "))):
        if _LOWER.fullmatch(word) or word.lower().endswith(("loss", "error")):
            return "min"
        if _HIGHER.fullmatch(word) or word.lower().endswith("accuracy"):
            return "max"
    return None


def guess(names: Iterable[str]) -> tuple[str, Mode] | None:
    """Which of the metrics of a validation tells best how good a model is, and how.

    `val/loss`, or `val_loss` and the like, or another loss, or the first whose name is that of a
    known metric.
    """
    known = [(name, better(name)) for name in names if not name.endswith("_step")]
    ranked = sorted(
        ((name, mode) for name, mode in known if mode is not None),
        key=lambda metric: (
            metric[0] != USUAL,
            not _WHOLE.fullmatch(metric[0]),
            "loss" not in metric[0].lower(),
        ),
    )
    return ranked[0] if ranked else None


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the epoch with the best value of a metric.

    Args:
        monitor: The metric; without it, the first validation's are looked at for a good one.
        mode: Whether a lower or a higher value is better; without it, the name tells.

    Raises:
        ValueError: The name does not tell.
    """

    def __init__(self, monitor: str | None = None, mode: Mode | None = None) -> None:
        self._asked = monitor
        self._stand_in = ""
        self._seen: object = None  # the value that has been compared, or is of an epoch before
        self._tell = TellOnce()
        mode = mode or better(monitor or USUAL)
        if mode is None:
            raise ValueError(f"--monitor {monitor}: tell which is better by --mode min | max")
        super().__init__(
            filename="best-{epoch}",
            monitor=monitor or USUAL,
            mode=mode,
            save_on_train_epoch_end=True,
        )
        self._is_settled = monitor is not None

    @property
    @override
    def state_key(self) -> str:
        return type(self).__name__  # not with the metric, which is known only later

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after those that the model brings: the first is `trainer.checkpoint_callback`."""
        super().setup(trainer, pl_module, stage)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        place = callbacks.index(self)
        brought = [c for c in callbacks[place + 1 :] if isinstance(c, ModelCheckpoint)]
        if brought:
            after = [c for c in callbacks[place:] if c not in brought]
            trainer.callbacks = [*callbacks[:place], *brought, *after]  # type: ignore[attr-defined]

    def stand_in(self, path: str) -> None:
        """Name the last checkpoint where code looks for the best one, while there is none.

        So does the `ModelCheckpoint` that a plain Trainer has.
        """
        if self.best_model_path == self._stand_in:
            self.best_model_path = self._stand_in = path

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"mode": self.mode if self._is_settled else None}
        is_best = self.best_model_path != self._stand_in
        return state | {"best_model_path": self.best_model_path if is_best else ""}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        mode, monitor = state_dict.get("mode"), state_dict["monitor"]
        if mode in ("min", "max") and isinstance(monitor, str):
            if self._asked is None:
                self._settle(monitor, mode)
            if (monitor, mode) == (self.monitor, self.mode):  # else the values do not compare
                super().load_state_dict(state_dict)

    def _settle(self, monitor: str, mode: Mode) -> None:
        self._is_settled = True
        self.monitor, self.mode = monitor, mode
        self.kth_value = torch.tensor(float("inf" if mode == "min" else "-inf"))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what is logged; nothing is saved before the epoch's end."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._is_settled:
            return
        known = names_of_validation(trainer)
        found: Any = trainer.strategy.broadcast(guess(known))
        if found is not None:
            self._settle(*found)
            if self.monitor != USUAL:
                self._tell(
                    f"Best checkpoint: that of the {'low' if self.mode == 'min' else 'high'}"
                    f"est {self.monitor}; --monitor NAME chooses another"
                )
        elif names := ", ".join(known):
            self._tell(
                f"No best checkpoint is kept, as no name tells what is better of {names}: choose "
                "one by --monitor NAME --mode min | max",
                "no best",
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._seen = None if inside.has_validated_in_epoch(trainer) else self._value(trainer)

    def _value(self, trainer: Trainer) -> object:
        return trainer.callback_metrics.get(self.monitor or "") if self._is_settled else None

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        """Within an epoch there is nothing to compare."""

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = self._value(trainer)
        is_old = value is not None and value is self._seen  # there was no validation since
        self._seen = value
        if trainer.strategy.reduce_boolean_decision(value is not None and not is_old):
            # Of a model that steps its optimizers by itself, Lightning counts no steps.
            self._last_global_step_saved = -1
            super().on_train_epoch_end(trainer, pl_module)
        elif self._asked is not None and not is_old:
            names = ", ".join(n for n in trainer.callback_metrics if not n.startswith("coverage/"))
            self._tell(
                f"--monitor {self.monitor}: no value of this name was logged yet, so no best "
                f"checkpoint is kept; there is: {names}",
                "no best",
            )


def _without_ends(name: str) -> str:
    """What a value was logged as."""
    name = re.sub(r"/dataloader_idx_\d+$", "", name)
    return re.sub("_(step|epoch)$", "", name)


def names_of_validation(trainer: Trainer) -> list[str]:
    """The metrics that are logged in training's validations, and not in its steps."""
    trained = {metric.meta.name for metric in inside.training_results(trainer).values()}
    trained |= {name + end for name in trained for end in ("_step", "_epoch")}
    logged = inside.logged_in_validation(trainer) - trained
    return [n for n in trainer.callback_metrics if _without_ends(n) in logged and n not in trained]
