"""Code that reckons with the number of devices is found, wherever in a class it stands."""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch.utils.data import DataLoader, Subset

from lightning_app.strategies.checks.asking import asks_for_devices
from tests.user_modules import Samples


class Model:
    trainer: Any

    @property
    def size(self) -> int:
        return 8 * int(self.trainer.world_size)

    @cached_property
    def kept(self) -> int:
        return int(self.trainer.world_size)

    @classmethod
    def of_class(cls) -> int:
        return int(cls.trainer.world_size)

    def only_shows(self) -> int:
        return int(self.trainer.global_rank)


class Scales:
    def on_train_start(self, trainer: Any, pl_module: Any) -> float:
        return 0.1 * len(trainer.device_ids)


class Split(Samples):
    trainer: Any

    def own_part(self) -> Any:
        return self.x[self.trainer.global_rank :: 2]


def test_each_kind_of_method_is_looked_at() -> None:
    loaders = [DataLoader(Samples(4)), *[DataLoader(Subset(Split(4), [0, 1]))] * 2]
    loop = SimpleNamespace(_combined_loader=SimpleNamespace(flattened=loaders))
    trainer: Any = SimpleNamespace(
        lightning_module=Model(), datamodule=None, callbacks=[Scales()], _active_loop=loop
    )
    assert asks_for_devices(trainer) == [
        "Model.size asks for world_size",
        "Model.kept asks for world_size",
        "Model.of_class asks for world_size",
        "Scales.on_train_start asks for device_ids",
        "Split.own_part asks for global_rank",
    ]
