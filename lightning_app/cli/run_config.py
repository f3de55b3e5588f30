"""The `config.yaml` of a run: what it was begun with."""

import os

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_app.checkpoint.io import run_folder
from lightning_app.masking import masked


class SaveConfigOnce(SaveConfigCallback):
    """Writes it into the run's folder, and leaves that of a run that is continued as it is."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Not yet: the run may still be refused, and then leaves nothing."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._save(trainer)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)  # on all ranks: they agree on it
        path = os.path.join(folder, self.config_filename)
        files = get_filesystem(folder)
        if self.already_saved or not trainer.is_global_zero or files.exists(path):
            return
        files.makedirs(folder, exist_ok=True)
        self.parser.save(masked(self.config), path, skip_none=False, multifile=False)
        self.already_saved = True
