# mypy: ignore-errors
"""A model, a data module and a callback that have every hook there is, and look on."""

import lightning as L
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from tests.wild.users.basic import Plain, Regression


class Model(Regression):
    def on_fit_start(self): ...
    def on_fit_end(self): ...
    def on_train_start(self): ...
    def on_train_end(self): ...
    def on_validation_start(self): ...
    def on_validation_end(self): ...
    def on_train_epoch_start(self): ...
    def on_train_epoch_end(self): ...
    def on_validation_epoch_start(self): ...
    def on_validation_epoch_end(self): ...
    def on_train_batch_start(self, batch, batch_idx): ...
    def on_train_batch_end(self, outputs, batch, batch_idx): ...
    def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0): ...
    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0): ...
    def on_test_start(self): ...
    def on_test_end(self): ...
    def on_test_epoch_start(self): ...
    def on_test_epoch_end(self): ...
    def on_test_batch_start(self, batch, batch_idx, dataloader_idx=0): ...
    def on_test_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0): ...
    def on_predict_start(self): ...
    def on_predict_end(self): ...
    def on_predict_epoch_start(self): ...
    def on_predict_epoch_end(self): ...
    def on_predict_batch_start(self, batch, batch_idx, dataloader_idx=0): ...
    def on_predict_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0): ...
    def on_before_zero_grad(self, optimizer): ...
    def on_before_backward(self, loss): ...
    def on_after_backward(self): ...
    def on_before_optimizer_step(self, optimizer): ...
    def setup(self, stage): ...
    def teardown(self, stage): ...
    def prepare_data(self): ...
    def configure_model(self): ...
    def print(self, *args, **kwargs): ...

    def configure_callbacks(self):
        return []

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, 0.5, gradient_clip_algorithm)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler, metric):
        super().lr_scheduler_step(scheduler, metric)

    def backward(self, loss, *args, **kwargs):
        loss.backward()

    def on_validation_model_eval(self):
        super().on_validation_model_eval()

    def on_validation_model_train(self):
        super().on_validation_model_train()

    def on_validation_model_zero_grad(self):
        super().on_validation_model_zero_grad()

    def on_test_model_eval(self):
        super().on_test_model_eval()

    def on_test_model_train(self):
        super().on_test_model_train()

    def on_predict_model_eval(self):
        super().on_predict_model_eval()

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0])

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class Data(Plain):
    def prepare_data(self): ...
    def teardown(self, stage): ...

    def setup(self, stage):
        super().setup(stage)


class ByHand(Model):
    """Optimizes by hand, at every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / 2)
        if batch_idx % 2:
            optimizer = self.optimizers()
            self.clip_gradients(optimizer, 0.5)
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss, "number": batch_idx}


class OfSeveral(Model):
    """Is trained on two loaders at once, and looked at on two in turn."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx) + self.loss(batch["b"])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


class SeveralLoaders(Data):
    """Of different lengths. The transfers are this class's, where it has them."""

    def train_dataloader(self):
        return {"a": super().train_dataloader(), "b": DataLoader(self.val, batch_size=3)}

    def val_dataloader(self):
        return [super().val_dataloader(), DataLoader(self.train, batch_size=20)]

    def predict_dataloader(self):
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class LooksOn(L.Callback):
    """Every hook of a callback."""

    def setup(self, trainer, pl_module, stage): ...
    def teardown(self, trainer, pl_module, stage): ...
    def on_fit_start(self, trainer, pl_module): ...
    def on_fit_end(self, trainer, pl_module): ...
    def on_sanity_check_start(self, trainer, pl_module): ...
    def on_sanity_check_end(self, trainer, pl_module): ...
    def on_train_start(self, trainer, pl_module): ...
    def on_train_end(self, trainer, pl_module): ...
    def on_train_epoch_start(self, trainer, pl_module): ...
    def on_train_epoch_end(self, trainer, pl_module): ...
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx): ...
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...
    def on_validation_start(self, trainer, pl_module): ...
    def on_validation_end(self, trainer, pl_module): ...
    def on_validation_epoch_start(self, trainer, pl_module): ...
    def on_validation_epoch_end(self, trainer, pl_module): ...
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, loader=0): ...
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0): ...
    def on_test_start(self, trainer, pl_module): ...
    def on_test_end(self, trainer, pl_module): ...
    def on_test_epoch_start(self, trainer, pl_module): ...
    def on_test_epoch_end(self, trainer, pl_module): ...
    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, loader=0): ...
    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0): ...
    def on_predict_start(self, trainer, pl_module): ...
    def on_predict_end(self, trainer, pl_module): ...
    def on_predict_epoch_start(self, trainer, pl_module): ...
    def on_predict_epoch_end(self, trainer, pl_module): ...
    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, loader=0): ...
    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0): ...
    def on_before_zero_grad(self, trainer, pl_module, optimizer): ...
    def on_before_backward(self, trainer, pl_module, loss): ...
    def on_after_backward(self, trainer, pl_module): ...
    def on_before_optimizer_step(self, trainer, pl_module, optimizer): ...


class History(L.Callback):
    """Remembers what the bar would show, epoch by epoch, and reads it all over again."""

    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        assert "loss" in self.values[-1]
        assert float(trainer.logged_metrics["loss"]) == self.values[-1]["loss"]


class JsonLogger(Logger):
    """A logger of one's own, that has no folder."""

    name = "json"
    version = "0"

    def __init__(self):
        super().__init__()
        self.lines = []

    def __getattr__(self, name):
        """What else is asked of it, it hands on, as one does that is there for a service."""
        if name.startswith("_"):
            raise AttributeError(name)

        def hand_on(*args, **kwargs):
            raise RuntimeError(f"the service has no {name}")

        return hand_on

    def log_hyperparams(self, params, *args, **kwargs):
        self.lines.append(dict(params))

    def log_metrics(self, metrics, step=None):
        self.lines.append({"step": step, **metrics})


class OwnBar(L.pytorch.callbacks.TQDMProgressBar):
    """The usual bar without the version's number."""

    def get_metrics(self, trainer, pl_module):
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items
