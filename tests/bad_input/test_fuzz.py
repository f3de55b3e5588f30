"""Whatever is on the command line or in a config: a whole run, or one line and nothing written."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_input.odd_files import LONG_NAME, make_odd_files
from tests.bad_input.running import refused_well, stopped_well, went_well
from tests.train_to_end import Forks

FIRST = ("--strategy=dp", "--data.length=20", "--data.val_length=10")
LAST = ("--accelerator=cpu", "--max_epochs=1", "--max_time=00:00:00:10")  # or it takes for ever

TRAINER = [
    *("accumulate_grad_batches", "barebones", "benchmark", "check_val_every_n_epoch"),
    *("default_root_dir", "detect_anomaly", "deterministic", "devices"),
    *("enable_autolog_hparams", "enable_checkpointing", "enable_model_summary"),
    *("enable_progress_bar", "fast_dev_run", "gradient_clip_algorithm"),
    *("gradient_clip_val", "inference_mode", "limit_predict_batches", "limit_test_batches"),
    *("limit_train_batches", "limit_val_batches", "log_every_n_steps", "logger"),
    *("max_steps", "min_epochs", "min_steps", "model_registry", "num_sanity_val_steps"),
    *("overfit_batches", "plugins", "precision", "profiler"),
    *("reload_dataloaders_every_n_epochs", "strategy", "sync_batchnorm"),
    *("use_distributed_sampler", "val_check_interval", "callbacks"),
]
MODEL = ["lr", "optimizer", "log_shapes", "input_size", "nope"]
DATA = [
    *("batch_size", "length", "val_length", "input_size", "output_size", "noise_std"),
    *("seed", "nope"),
]
OWN = [
    *("ckpt_path", "seed_everything", "save_every_s", "steps_per_execution"),
    *("data_on_device", "weights_only"),
]
FLAGS = [*TRAINER, *(f"model.{m}" for m in MODEL), *(f"data.{d}" for d in DATA), *OWN]
OPTIMIZERS = ("optimizer", "optimizer.lr", "lr_scheduler", "lr_scheduler.step_size")
WORDS = ("--", "-", "-h x", "fit", "--nope", "--nope=1", "--=", "=", "--config", "--trainer", "")

ODD_VALUES = [
    *("", " ", "x", "-1", "0", "1", "2", "7", "0.5", "-0.5", "1.5", "1e3", "1e400", "nan"),
    *(".nan", "inf", ".inf", "true", "false", "null", "[]", "[1]", "[[0]]", "{}", "{a: 1}"),
    *("1,,2", "0,0", "file.txt", "folder", "new/folder", "/proc/none", "dangling", "loop"),
    *(LONG_NAME, "nope://x", "9" * 20, "4294967296", "--", "é", "\x1b[31m", "a b", "a: b"),
    *("*a", "&a", "!!python/none", "auto", "last", "SGD", "Adam", "StepLR", "CSVLogger"),
    *("EarlyStopping", "norm", "64", "ddp_fork", "single_device", "os.getcwd"),
    *("torch.nn.Linear", "no.such.Class", "simple", "every", "warn"),
]
ODD = st.sampled_from(ODD_VALUES)
VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    *("TORCHELASTIC_RUN_ID", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "PL_GLOBAL_SEED"),
    *("OMP_NUM_THREADS", "TMPDIR", "HOME", "COLUMNS"),
)
VALUE = st.one_of(ODD, ODD, ODD, st.text(st.characters(exclude_characters="\0"), max_size=6))
FLAG = st.builds("--{}={}".format, st.sampled_from((*FLAGS, *OPTIMIZERS)), VALUE)
ARGV = st.lists(st.one_of(FLAG, FLAG, FLAG, st.sampled_from(WORDS)), min_size=1, max_size=3)

SCALAR: Any = st.one_of(ODD, st.none(), st.booleans(), st.integers(-3, 9), st.floats())
TREE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(ODD, inner, max_size=2)),
    max_leaves=4,
)
CONFIG = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "trainer": st.one_of(st.dictionaries(st.sampled_from(TRAINER), TREE, max_size=2), TREE),
            "model": st.one_of(
                st.fixed_dictionaries(
                    {"init_args": st.dictionaries(st.sampled_from(MODEL), TREE, max_size=2)}
                ),
                TREE,
            ),
            "data": st.one_of(
                st.fixed_dictionaries(
                    {"init_args": st.dictionaries(st.sampled_from(DATA), TREE, max_size=2)}
                ),
                TREE,
            ),
            "seed_everything": TREE,
            "nope": TREE,
        },
    ),
    TREE,
)
YAML = st.one_of(
    CONFIG.map(lambda config: yaml.safe_dump(config, allow_unicode=True).encode()),
    CONFIG.map(lambda config: yaml.safe_dump(config).encode()[:-3]),  # cut off
    st.binary(max_size=30),
)


def check(
    forks: Forks,
    argv: list[str],
    config: bytes | None = None,
    env: Mapping[str, str] = {},
) -> None:
    """Run a command line, and see that it ends as it may."""
    with tempfile.TemporaryDirectory() as folder:
        make_odd_files(Path(folder))
        first = list(FIRST)
        if config is not None:
            (Path(folder) / "fuzzed.yaml").write_bytes(config)
            first.append("--config=fuzzed.yaml")
        ended = forks.run(*first, *argv, *LAST, cwd=Path(folder), env=env, limit_s=40)
        ends = (refused_well, went_well, stopped_well)
        assert any(well(ended) for well in ends), (argv, config, env, ended)


def as_often_as(max_examples: int) -> settings:
    few = max_examples < 1000
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=few,  # the same ones in every run
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@given(ARGV)
@as_often_as(100)
def test_any_flags(forks: Forks, argv: list[str]) -> None:
    check(forks, argv)


@given(YAML)
@as_often_as(100)
def test_any_config(forks: Forks, config: bytes) -> None:
    check(forks, [], config)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(ARGV, st.one_of(st.none(), YAML))
@as_often_as(2000)
def test_any_of_many(forks: Forks, argv: list[str], config: bytes | None) -> None:
    check(forks, argv, config)


def values_of(name: str, names: Sequence[str]) -> list[str]:
    """A sixth of the odd values, another one than for the names beside it."""
    return ODD_VALUES[names.index(name) % 6 :: 6]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag(flag: str, forks: Forks) -> None:
    for value in values_of(flag, FLAGS):
        check(forks, [f"--{flag}={value}"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", VARIABLES)
def test_each_variable(name: str, forks: Forks) -> None:
    for value in values_of(name, VARIABLES):
        check(forks, [], env={name: value})
