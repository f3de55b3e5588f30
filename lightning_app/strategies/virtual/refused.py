"""What cannot keep the promise of virtual ranks, refused in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torchmetrics import Metric

from lightning_app import inside
from lightning_app.hooks import has_hook
from lightning_app.strategies.loaders.loader import step_over_iterator
from lightning_app.strategies.virtual.determinism import FIXED, WORKSPACE

ASKED_BY = "--virtual_ranks"
SYNCS_BATCHNORM = (
    "it takes the statistics of all devices at once, and virtual ranks run one after the other: "
    "leave one of them out"
)


def check_run(trainer: Trainer, num_ranks: int, world_size: int, syncs_batchnorm: bool) -> None:
    """Refuse a run for what it is asked to do.

    Args:
        trainer: That is about to run.
        num_ranks: How many virtual ranks there are.
        world_size: How many processes.
        syncs_batchnorm: SyncBatchNorm is asked for.

    Raises:
        MisconfigurationException: It cannot be the same on any number of devices.
    """
    model = trainer.lightning_module
    name = type(model).__name__
    datamodule = getattr(trainer, "datamodule", None)
    device = trainer.strategy.root_device.type
    if world_size > num_ranks:
        raise MisconfigurationException(too_many_devices(num_ranks, world_size))
    if device not in ("cpu", "cuda"):
        raise _refusal(f"not tried on {device} devices: use --accelerator cpu")
    if trainer.state.fn == TrainerFn.PREDICTING:
        raise _refusal("it is for fit, validate and test: predict without it")
    if syncs_batchnorm:
        raise _refusal(f"--sync_batchnorm: {SYNCS_BATCHNORM}")
    if step := step_over_iterator(trainer):
        raise _refusal(f"{step} takes the loader's iterator, which cannot be given in parts")
    if world_size > 1 and inside.validates_by_time(trainer):
        raise _refusal(
            "a --val_check_interval by time is decided by a clock, which differs on each process: "
            "give it in batches, or as a share of an epoch"
        )
    for owner in (model, datamodule):
        if owner is not None and has_hook(owner, "on_before_batch_transfer"):
            raise _refusal(
                f"{type(owner).__name__}.on_before_batch_transfer gets a whole batch, and "
                "virtual ranks have parts of it: use `on_after_batch_transfer`, or `collate_fn`"
            )
    for path, module in model.named_modules():
        if isinstance(module, Metric) and module.dist_sync_on_step:
            raise _refusal(
                f"{path} has dist_sync_on_step=True, and waits in each step: leave it out"
            )
        if isinstance(module, nn.SyncBatchNorm):
            raise _refusal(f"{path} is a SyncBatchNorm: {SYNCS_BATCHNORM}")
    if trainer.state.fn != TrainerFn.FITTING:
        return
    if not model.automatic_optimization:
        raise _refusal(
            f"{name} uses manual optimization, and only a loss that training_step returns can be "
            "weighed and added up: run without --virtual_ranks, or use automatic optimization"
        )
    sparse = [p for p, m in model.named_modules() if getattr(m, "sparse", False) is True]
    if sparse and isinstance(model.get_submodule(sparse[0]), (nn.Embedding, nn.EmbeddingBag)):
        raise _refusal(
            f"{sparse[0]} has sparse=True, and only dense gradients are added up in a fixed order"
        )


BATCH_HOOKS = tuple(
    f"on_{stage}_batch_{when}"
    for stage in ("train", "validation", "test")
    for when in ("start", "end")
)


def hooks_of_batches(trainer: Trainer) -> Iterator[str]:
    """The user's hooks that get a batch, which is not what they may expect."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for owner in (trainer.lightning_module, *callbacks):
        for hook in BATCH_HOOKS:
            module = getattr(getattr(owner, hook, None), "__module__", None) or ""
            if has_hook(owner, hook) and not module.startswith(("lightning_app.", "lightning.")):
                yield f"{type(owner).__name__}.{hook}"


def check_loaders(trainer: Trainer) -> None:
    """Refuse a loop that is about to take its batches of several loaders at once.

    Raises:
        MisconfigurationException: It is.
    """
    if not inside.takes_one_loader(trainer):
        raise _refusal(
            "a step takes its batch of several loaders at once, whose parts may differ: use one "
            "loader, not in a list or dict"
        )


def check_parameters(model: nn.Module) -> None:
    """Refuse what acts on the gradient of a part as if it were that of the batch.

    Raises:
        MisconfigurationException: A parameter has such a hook.
    """
    for name, parameter in model.named_parameters():
        if getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise _refusal(
                f"{name} has a hook after its gradient is accumulated, which would see that of "
                "each part: remove the hook, or run without --virtual_ranks"
            )


def too_many_devices(num_ranks: int, num_devices: int) -> str:
    """The line that refuses more devices than virtual ranks."""
    most = f"at most {num_ranks} devices can share {num_ranks} virtual ranks"
    return f"{ASKED_BY} {num_ranks}: {num_devices} devices: {most}"


def _refusal(why: str) -> MisconfigurationException:
    return MisconfigurationException(f"{ASKED_BY}: {why}")


@contextmanager
def refused_by_determinism() -> Iterator[None]:
    """Make one line of torch's error about an operation that has no fixed order.

    Raises:
        MisconfigurationException: That error came.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "does not have a deterministic implementation" in text:
            raise _refusal(
                f"{text.split(' ')[0]} has no deterministic implementation on this GPU in torch: "
                "leave it out of the model, or run without virtual ranks"
            ) from error
        if "uses CuBLAS" in text:
            raise _refusal(
                "kernels cannot be fixed: matrices were multiplied on the GPU before the run, or "
                f"the environment has another {WORKSPACE}; set {WORKSPACE}={FIXED} there"
            ) from error
        raise


def collective(what: str) -> MisconfigurationException:
    """The refusal of something in a step that would wait for other processes."""
    return _refusal(
        f"{what} in a step would wait for all virtual ranks, which run one after the other: use it "
        "in a hook at the epoch's end"
    )
