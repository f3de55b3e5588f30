"""Odd command lines and environments, and legitimate ones that look odd."""

from pathlib import Path


def _read(file: str) -> dict[str, str]:
    lines = (Path(__file__).parent / file).read_text().splitlines()
    pairs = (line.split(" => ") for line in lines if line and not line.startswith("#"))
    return dict(pairs)


REFUSED = _read("refused.txt")
SIBLINGS = _read("siblings.txt")
WHOLE = "a whole run"

LATE = {  # known once an epoch has ended: what it logs may come in any hook
    "--callbacks EarlyStopping --callbacks.monitor nope": "conditioned on metric `nope`",
    "--callbacks ModelCheckpoint --callbacks.monitor nope": "could not find the monitored key",
    "--optimizer SparseAdam": "--optimizer SparseAdam(",
    "--optimizer SGD --lr_scheduler StepLR --lr_scheduler.step_size 0": (
        "--lr_scheduler StepLR(step_size=0, gamma=0.1, last_epoch=-1): ZeroDivisionError"
    ),
    "--optimizer SGD --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor nope": (
        "conditioned on metric nope"
    ),
    "predict --model tests.user_modules.Wide --devices 2 --strategy ddp_fork": (
        "`Trainer.predict` requires `forward` method to run."
    ),
}

ACCEPTED = (
    "--fast_dev_run",
    "--fast_dev_run 3 --devices 2 --strategy dp",
    "validate",
    "test --devices 1,",
    "predict",
    "--devices [0]",
    "--devices 2 --strategy dp --gradient_clip_val 0.5 --gradient_clip_algorithm value",
    "--devices 2 --strategy ddp_fork",
    "--strategy ddp",
    "--min_epochs 1 --max_epochs 2",
    "--min_steps 1 --max_steps 3",
    "--max_epochs -1 --max_steps 2",
    "--max_epochs 0",
    "--max_time 00:00:00:00",
    "--seed_everything 4294967295",
    "--seed_everything false",
    "--gradient_clip_val 0",
    "--gradient_clip_val .inf",
    "--limit_train_batches 0.5 --limit_val_batches 0",
    "--num_sanity_val_steps -1 --val_check_interval 1.0",
    "--log_every_n_steps 0 --reload_dataloaders_every_n_epochs 1",
    "--accumulate_grad_batches 2 --detect_anomaly",
    "--precision bf16-mixed",
    "--precision 64 --profiler simple",
    "--barebones",
    "--logger false --enable_checkpointing false",
    "--logger CSVLogger --logger.save_dir new/folder",
    "--default_root_dir new/folder",
    "--default_root_dir folder",
    "--callbacks ModelCheckpoint --callbacks.monitor val/loss --callbacks.filename a/{epoch}",
    "--callbacks EarlyStopping --callbacks.monitor train/loss",
    "--trainer.callbacks+=LearningRateMonitor",
    "--optimizer Adam --optimizer.lr 1e-3 --lr_scheduler StepLR --lr_scheduler.step_size 1",
    "--config good.yaml",
    "--config anchors.yaml --model.lr 1e-2",
    "--model tests.user_modules.Submodule --data tests.user_modules.Shuffled",
    "--data.num_workers 1",
    "--save_every_s 0.5 --steps_per_execution 4",
    "--monitor val/r2 --log_shapes off --run_name lr=0.1",
    "GLOO_SOCKET_IFNAME=junk CUDA_VISIBLE_DEVICES=junk TMPDIR=missing",
    "MASTER_PORT=0 WORLD_SIZE=1 RANK=0",
    "SLURM_NTASKS=4 SLURM_JOB_NAME=bash",
    "HOME=missing COLUMNS=x LANG=nope TERM=nope",
)
