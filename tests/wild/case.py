"""What a case is: a user's model, data and configuration, and what is right on each layout."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN = "plain"  # one device under lightning.Trainer: what all others are compared with
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {"devices": 1},
    "stopped": {"devices": 1},  # in mid-epoch, by SIGTERM, and continued
    "dp2": {"devices": 2, "strategy": "dp"},
    "ddp2": {"devices": 2, "strategy": "ddp"},
    "ddp3": {"devices": 3, "strategy": "ddp"},
}
PLAIN_ON_GPU = "plain on a GPU"
OF_TESTS = "tests.wild.on_one_gpu"
# With one GPU: replicas share it, and ranks are as on two hosts with a GPU each, over gloo.
GPU_LAYOUTS: dict[str, dict[str, Any]] = {
    "gpu": {"devices": 1},
    "gpu stopped": {"devices": 1},
    "gpu dp2": {"devices": 1, "strategy": {"class_path": f"{OF_TESTS}.TwoReplicas"}},
    "gpu ddp2": {"devices": 1, "num_nodes": 2, "strategy": {"class_path": f"{OF_TESTS}.Ranks"}},
}
ON_CPUS = {"gpu": "one", "gpu stopped": "stopped", "gpu dp2": "dp2", "gpu ddp2": "ddp2"}
RANKS = {
    **{PLAIN: 1, "one": 1, "stopped": 1, "dp2": 1, "ddp2": 2, "ddp3": 3},
    **{PLAIN_ON_GPU: 1, "gpu": 1, "gpu stopped": 1, "gpu dp2": 1, "gpu ddp2": 2},
}
# Of what is named by its whole path; `examples.` alone is also a module of `users/`.
OWN_PATHS = ("examples.digits.", "examples.gan.", "examples.text.", "lightning.", "tests.")
SEVERAL = ("ddp2", "ddp3")


@dataclass(frozen=True)
class Refused:
    """The run is refused in one line with this in it."""

    line: str


@dataclass(frozen=True)
class Ends:
    """The run ends, with the same weights on all ranks; or it is refused in a line with this.

    For what depends on the layout by its nature, as batch statistics do.
    """

    or_line: str | None = None


@dataclass(frozen=True)
class SameOr:
    """As under a plain Trainer; or refused, or told on stderr, in a line with this in it."""

    line: str


Right = Refused | Ends | SameOr


def on(layouts: Iterable[str], right: Right) -> dict[str, Right]:
    """What is right on some layouts."""
    return dict.fromkeys(layouts, right)


@dataclass(frozen=True)
class Case:
    """One run of one user's files.

    Attributes:
        model: The model's class, below `tests.wild.users`.
        data: The data module's; none where the model has its loaders itself.
        flags: Of the Trainer, as in a config file.
        model_args: Arguments of the model.
        data_args: Arguments of the data module.
        subcommand: `fit`, or what else is run.
        right: What is right on a layout, where it is not "the same as under a plain Trainer".
        leave_out: Layouts that say nothing of this case.
        values_differ: Tags of which only the steps are compared under `ddp`, as what is logged
            there is each rank's by its nature.
        in_float32: Tags whose values are sums in float32, as torchmetrics and `self.log` in an
            epoch's end hook keep them: equal to 1e-6.
        stop_at: The training batch, counted over epochs, in which "stopped" is told to stop.
        timeout_s: How long one run may take.
        beside: What it is compared with; `one` where the loader shuffles, which Lightning does in
            another order.
    """

    model: str
    data: str | None = "basic.Plain"
    flags: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data_args: Mapping[str, Any] = field(default_factory=dict)
    subcommand: str = "fit"
    right: Mapping[str, Right] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    values_differ: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ()
    stop_at: int = 7
    timeout_s: float = 60
    beside: str = PLAIN

    @property
    def layouts(self) -> list[str]:
        """The layouts it is run on."""
        left_out = {
            self.beside,
            *self.leave_out,
            *(("stopped",) if self.subcommand != "fit" else ()),
        }
        return [layout for layout in LAYOUTS if layout not in left_out]

    @property
    def gpu_layouts(self) -> list[str]:
        """Those with a GPU; beside a plain Trainer, or beside `gpu` where a loader shuffles."""
        left_out = {"one"} if self.beside == "one" else set()
        return [on for on, off in ON_CPUS.items() if off in set(self.layouts) - left_out]

    def right_on(self, layout: str) -> Right | None:
        """What is right on a layout; `None` for "the same as under a plain Trainer"."""
        return self.right.get(ON_CPUS.get(layout, layout))

    def trainer_flags(self) -> dict[str, Any]:
        """The Trainer's flags, those of the layout left out."""
        common = {
            "accelerator": "cpu",
            "precision": "64-true",
            "max_epochs": 2,
            "log_every_n_steps": 1,
        }
        return {**common, **self.flags}

    def config(self, layout: str) -> dict[str, Any]:
        """What the config file of a run says."""
        config: dict[str, Any] = {"trainer": {**self.trainer_flags(), **_layout_flags(layout)}}
        config["model"] = class_spec(self.model, self.model_args)
        if self.data is not None:
            config["data"] = class_spec(self.data, self.data_args)
        return config


def _layout_flags(layout: str) -> dict[str, Any]:
    if layout in GPU_LAYOUTS:
        return {"accelerator": "gpu", **GPU_LAYOUTS[layout]}
    return LAYOUTS[layout]


def class_spec(name: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """How a config file names a class of `users/`, or any class by its whole path."""
    path = name if name.startswith(OWN_PATHS) else f"tests.wild.users.{name}"
    return {"class_path": path, "init_args": dict(init_args)}


def callbacks(*names: str | tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """The Trainer's flag for callbacks, each a class or a class and its arguments."""
    pairs = [(name, {}) if isinstance(name, str) else name for name in names]
    return {"callbacks": [class_spec(name, args) for name, args in pairs]}
