"""What no run can begin with is one line, exit code 2 and nothing written; and `--weights_from`."""

import copy
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from typing_extensions import override

from lightning_app.checkpoint.io import find_checkpoint, load
from lightning_app.model import LinearModule
from lightning_app.own_part import KEY
from tests.in_process import InProcess

pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated
BORING = "lightning.pytorch.demos.boring_classes.BoringModel"
PROGRESS = "epoch_loop.batch_progress"
OPTIMIZER = "epoch_loop.automatic_optimization.optim_progress"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capsys)


DATA = ("--data.length", "300")
FIT = (*DATA, "--model.optimizer", "Adam", "--max_steps", "8")


def test_the_checkpoint_itself_is_taken(run: InProcess, checkpoint: Path) -> None:
    outcome = run(*FIT, "--ckpt_path", str(checkpoint))
    assert outcome.status == 0, outcome.stderr


def _text(path: Path) -> None:
    path.write_text("hello, this is a text")


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "x")


def _torchscript(path: Path) -> None:
    module = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(module, path)  # type: ignore[no-untyped-call, unused-ignore]


def _old_and_cut(path: Path) -> None:
    torch.save({"a": torch.zeros(9)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-3])


NO_CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "text": _text,
    "empty": Path.touch,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "archive": _archive,
    "torchscript": _torchscript,
    "old, and cut": _old_and_cut,
}


def test_no_checkpoints(run: InProcess, checkpoint: Path) -> None:
    for name, make in NO_CHECKPOINTS.items():
        make(run.folder / name)
        for flag in ("--ckpt_path", "--weights_from"):
            run.refused(f"{flag} {name} is not a whole checkpoint", flag, name)
    (run.folder / "locked").mkdir()
    for path, line in {
        "nope": "nope does not exist",
        "memory://nope": "memory://nope does not exist",
        "foo://nope": "Protocol not known: foo",
        "x" * 300: "does not exist",
        "https://nope.invalid/a.ckpt": "download it, and name the file",
        "simplecache::http://nope.invalid/a.ckpt": "download it, and name the file",
    }.items():
        run.refused(line, "--ckpt_path", path)
        run.refused(line, "test", "--ckpt_path", path)
    run.refused("choose one of them", "--ckpt_path", "last", "--weights_from", "a")


def _put(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


LOADER = ("loops", "fit_loop", "state_dict", "combined_loader")
FIT_LOOP = ("loops", "fit_loop")
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "no version": (_drop("pytorch-lightning_version"), "it has no 'pytorch-lightning_version'"),
    "version": (_put("pytorch-lightning_version", value="x"), "_version is 'x'"),
    "newer": (_put("pytorch-lightning_version", value="99.0"), "saved by Lightning 99.0, and this"),
    "older": (_put("pytorch-lightning_version", value="1.5.0"), "not as Lightning 1.5.0 saves it"),
    "no weights": (_drop("state_dict"), "it has no 'state_dict': name another"),
    "weights": (_put("state_dict", value=[1]), "its 'state_dict' is of type list, not dict"),
    "weight": (_put("state_dict", "net.fc.bias", value="x"), "net.fc.bias is a str"),
    "no epoch": (_drop("epoch"), "it has no 'epoch'"),
    "epoch": (_put("epoch", value="two"), "its 'epoch' is of type str, not int"),
    "step": (_put("global_step", value=None), "its 'global_step' is of type NoneType, not int"),
    "no loops": (_drop("loops"), "it has no 'loops'"),
    "loops": (_put("loops", value=3), "its 'loops' is of type int, not dict"),
    "no fit loop": (_drop("loops", "fit_loop"), "it has no 'fit_loop'"),
    "no progress": (_drop(*FIT_LOOP, PROGRESS), f"its progress has no {PROGRESS}"),
    "progress": (_put(*FIT_LOOP, PROGRESS, value="x"), f"its progress.{PROGRESS} is of type str"),
    "count": (_put(*FIT_LOOP, PROGRESS, "total", "ready", value="x"), "ready is 'x', not a count"),
    "negative": (_put(*FIT_LOOP, PROGRESS, "total", "ready", value=-1), "ready is -1, not a count"),
    "truth": (_put(*FIT_LOOP, PROGRESS, "is_last_batch", value=7), "is 7, not true or false"),
    "loaders": (_put(*LOADER, value=5), "its 'combined_loader' is of type int, not list"),
    "loader": (_put(*LOADER, 0, value="x"), "it does not fit this run"),
    "position": (
        _put(*LOADER, 0, "position", value="x"),
        "no position in the data: its 'position'",
    ),
    "passes": (_put(*LOADER, 0, "passes", value=1.5), "no position in the data: its 'passes'"),
    "no seed": (_drop(*LOADER, 0, "seed"), "no position in the data: its 'seed'"),
    "only weights": (_drop("optimizer_states"), "holds only a model's weights, not a run"),
    "optimizers": (_put("optimizer_states", value="x"), "'optimizer_states' is of type str, not"),
    "optimizer": (_put("optimizer_states", value=[3]), "not fit this run's optimizer: Attr"),
    "no optimizer": (_put("optimizer_states", value=[]), "it has 0 optimizers and 0 schedulers"),
    "group": (_drop("optimizer_states", 0, "param_groups", 0, "betas"), "it has no betas for Adam"),
    "groups": (_put("optimizer_states", 0, "param_groups", value=[]), "different number of param"),
    "rate": (
        _put("optimizer_states", 0, "param_groups", 0, "lr", value="x"),
        "it does not fit this run",
    ),
    "moment": (_drop("optimizer_states", 0, "state", 0, "exp_avg"), "optimizer: KeyError('exp_"),
    "no schedulers": (_drop("lr_schedulers"), "it has no 'lr_schedulers'"),
    "callbacks": (_put("callbacks", value=[]), "its 'callbacks' is of type list, not dict"),
    "switches": (_put(KEY, "switches", value={"eval": []}), "it has no 'frozen'"),
    "validated": (_put(KEY, "validated", 0, value="1"), "its 0 is of type str, not int"),
    "trained by": (_put(KEY, "trained_by", value={}), "it has no 'optimizers'"),
    "virtual ranks": (_put(KEY, "virtual_ranks", value=4), "its 'virtual_ranks' is of type int"),
    "loss": (
        _put(KEY, "epoch_loss", value=torch.zeros(3)),
        "'epoch_loss' is not a sum and a weight",
    ),
    "plan": (_put(KEY, "coverage_planned", value=[1]), "its 'coverage_planned' is of type list"),
    "event files": (_put(KEY, "event_files", value=[1]), "its 'event_files' is of type list"),
    "own part": (_put(KEY, value=[1]), "its 'lightning_app' is of type list, not dict"),
    "splits": (_put(KEY, "splits", value=[1]), "it does not fit this run"),
}


def test_missing_and_wrong_parts(run: InProcess, content: Any) -> None:
    path = str(run.folder / "wrong.ckpt")
    for name, (change, line) in WRONG.items():
        wrong = copy.deepcopy(content)
        if name in ("no optimizer", "group"):
            del wrong[KEY]["trained_by"]  # as plain Lightning saves it
        change(wrong)
        torch.save(wrong, path)
        run.refused(line, *FIT, "--ckpt_path", path)
        if name in ("own part", "plan"):
            run.refused(line, "test", "--ckpt_path", path)
    for saved, line in (
        ([1], "it holds a list, not a checkpoint"),
        (torch.zeros(2), "it holds a Tensor, not a checkpoint"),
        ({}, "it has no 'state_dict'"),
        (content["state_dict"], f"to use only its weights: --weights_from {path}"),
        ({**content, "hyper_parameters": {"a": Path("b")}}, "it holds pathlib.PosixPath"),
    ):
        torch.save(saved, path)
        run.refused(line, *FIT, "--ckpt_path", path)
        run.refused(line, "test", "--ckpt_path", path)


class OwnKeys(LinearModule):
    """Keeps values under words that this project has for its own."""

    words = ("epoch_loss", "splits", "coverage", "switches", "trained_by", "callback_metrics")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(dict.fromkeys(self.words, 0.25))

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert [checkpoint[word] for word in self.words] == [0.25] * len(self.words)


def test_all_keys_but_one_are_the_users(run: InProcess) -> None:
    model = ("--model", f"{__name__}.OwnKeys")
    outcomes = [
        run(*DATA, *model, "--max_epochs", "1"),
        run(*DATA, *model, "--max_epochs", "2", "--ckpt_path", "last"),
        run("test", *DATA, *model, "--ckpt_path", "last"),
    ]
    assert [(o.status, o.stderr) for o in outcomes] == [(0, "")] * 3
    assert "epoch 2/2" in outcomes[1].stdout


class OwnWay(BoringModel):
    """Renames what it loads, and has a layer that Lightning makes later."""

    @override
    def configure_model(self) -> None:
        self.late = nn.Linear(2, 2)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.replace("old", "late"): v for name, v in state.items()}


def test_another_model_or_optimizer(run: InProcess, checkpoint: Path) -> None:
    given = ("--ckpt_path", str(checkpoint))
    sizes = "of another model than LinearModule, or of other sizes: net.fc.weight is (2, 5), not"
    run.refused(sizes, *FIT, *given, "--data.input_size", "7")
    run.refused(sizes, "predict", *DATA, *given, "--data.input_size", "7")
    run.refused("it has no layer.weight", "--model", BORING, *given)
    run.refused("it has no layer.weight", "test", "--model", BORING, *given)
    for other in ("SGD", "AdamW", "LBFGS"):
        line = f"it was trained by Adam, and this run has {other}"
        run.refused(line, *DATA, "--model.optimizer", other, "--max_steps", "8", *given)


def test_a_model_that_loads_its_own_way_is_left_alone(run: InProcess) -> None:
    own = ("--model", f"{__name__}.OwnWay", "--fast_dev_run", "--ckpt_path", "own.ckpt")
    assert run("--model", f"{__name__}.OwnWay", "--max_epochs", "1").status == 0
    saved = load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    state = saved["state_dict"]
    saved["state_dict"] = {name.replace("late", "old"): v for name, v in state.items()}
    torch.save(saved, "own.ckpt")
    outcome = run("test", *own)
    assert outcome.status == 0, outcome.stderr


def _predicted(run: InProcess, *flags: str) -> Tensor:
    shutil.rmtree("lightning_logs", ignore_errors=True)
    outcome = run("predict", *DATA, *flags)
    assert outcome.status == 0, outcome.stderr
    prediction: Tensor = load("lightning_logs/version_0/predictions.pt", weights_only=True)
    return prediction


def test_weights_alone(run: InProcess, checkpoint: Path, content: Any) -> None:
    files = {
        "whole.ckpt": content,
        "weights.ckpt": {k: v for k, v in content.items() if "optimizer" not in k},
        "plain.pt": content["state_dict"],
    }
    for name, saved in files.items():
        torch.save(saved, name)
    torch.save(content, "old.pt", _use_new_zipfile_serialization=False)
    expected = _predicted(run, "--ckpt_path", str(checkpoint))
    assert not torch.equal(_predicted(run), expected)
    for name in (*files, "old.pt"):
        assert torch.equal(_predicted(run, "--weights_from", name), expected)
    assert torch.equal(_predicted(run, "--ckpt_path", "old.pt"), expected)
    # Training begins anew with them, with any optimizer: a step of length zero leaves them.
    stand = ("--model.lr", "1e-30", "--model.optimizer", "SGD", *DATA)
    assert run("fit", *stand, "--max_epochs", "1", "--weights_from", "plain.pt").status == 0
    trained = load(find_checkpoint("last", ".") or "", weights_only=True)
    assert trained["global_step"] == 10
    for name, weight in trained["state_dict"].items():
        assert torch.equal(weight, content["state_dict"][name])


def test_weights_in_float64_are_not_rounded(run: InProcess, content: Any) -> None:
    precise = {name: w.double() + 1e-12 for name, w in content["state_dict"].items()}
    torch.save(precise, "precise.pt")
    flags = ("--precision", "64-true", "--model.lr", "1e-300", "--max_epochs", "1", *DATA)
    assert run("fit", *flags, "--weights_from", "precise.pt").status == 0
    trained = load(find_checkpoint("last", ".") or "", weights_only=True)
    for name, weight in trained["state_dict"].items():
        assert torch.equal(weight, precise[name])


def test_weights_that_do_not_fit(run: InProcess, checkpoint: Path) -> None:
    torch.save({"a": 1, "b": [2]}, "numbers.pt")
    torch.save([1], "list.pt")
    run.refused("it has no net.fc.weight", "--weights_from", "numbers.pt")
    run.refused("it has no weights by name", "--weights_from", "list.pt")
    wrong = ("--data.input_size", "7", "--weights_from", str(checkpoint))
    run.refused("net.fc.weight is (2, 5), not (2, 7)", *wrong)
    later = ("--model", f"{__name__}.OwnWay", "--weights_from", str(checkpoint))
    run.refused("makes its layers in configure_model", *later)
