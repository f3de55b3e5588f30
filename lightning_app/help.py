"""The flags that people use; `--help all` shows every one."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from lightning_app.command import command

_TEXT = """\
usage: {command} [fit | validate | test | predict | plan] [flags]

Trains a model on any devices, and shows how every batch is split over them.
Without a subcommand: fit. `plan` tells what a run would be on devices that are not here.

where it runs
  --devices N               how many, or which: 2, 0,1 or -1 for all
  --accelerator NAME        auto, gpu, cpu or mps
  --strategy NAME           ddp: a process per device; dp: replicas in one process
  --precision NAME          32-true, 16-mixed, bf16-mixed, 64-true
  --virtual_ranks V         the numbers of V ranks, bit for bit, on up to V devices

what it trains
  --model CLASS             import path of a LightningModule; --model.NAME VALUE for its arguments
  --data CLASS              import path of a LightningDataModule; --data.NAME VALUE likewise
  --optimizer CLASS         in place of the model's own; --lr_scheduler CLASS goes with it
  --config FILE             flags from a YAML file; those after it override it
  --seed_everything N       42, unless given

how long
  --max_epochs N            10, unless given; or --max_steps N
  --limit_train_batches N   how many batches an epoch has at most
  --accumulate_grad_batches N
                            batches for each optimizer step
  --gradient_clip_val X     the largest norm of the gradients
  --fast_dev_run            one batch of everything; writes nothing

what is kept
  --ckpt_path FILE          goes on from a checkpoint: last, best, continue or a file
  --weights_from FILE       a new run that begins with a file's weights
  --save_every_s S          saves within an epoch, too, every S seconds
  --default_root_dir FOLDER where lightning_logs is; here, unless given
  --logger CLASS            in place of TensorBoard; false for none
  --monitor NAME            the metric of the best checkpoint; --mode min | max

faster
  --steps_per_execution K   K optimizer steps in one iteration of the Trainer's loop
  --compile                 torch.compile for the model's modules
  --data_on_device          all training samples stay on the device

examples
  {command}
  {command} --devices 2 --strategy ddp
  {command} --model mine.Model --data mine.Data --max_epochs 3
  {command} --ckpt_path last --devices 3
  {command} test --ckpt_path best

--help all shows every flag, --model.help CLASS what a model takes, --print_config the
whole configuration as YAML, and --version what is installed.
"""
_PACKAGES = ("lightning-any-devices", "torch", "lightning")


def shows_help(arguments: Sequence[str]) -> bool:
    """Print the short help or the versions, if that is what a command line asks for.

    Args:
        arguments: What follows the program's name.
    """
    if "--version" in arguments:
        print(", ".join(f"{package} {_version(package)}" for package in _PACKAGES))
        return True
    asked = [i for i, argument in enumerate(arguments) if argument in ("-h", "--help")]
    if not asked or arguments[asked[0] + 1 : asked[0] + 2] == ["all"]:
        return False
    print(_TEXT.format(command=command()), end="")
    return True


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the program may run from a clone
        return "(not installed)"


def without_all(arguments: Sequence[str]) -> list[str]:
    """The arguments as the parser takes them: for `--help all` it has `--help`."""
    found: list[str] = []
    for argument in arguments:
        if not (argument == "all" and found[-1:] in (["-h"], ["--help"])):
            found.append("--help" if argument == "--help=all" else argument)
    return found
