"""What looks like a secret by its name is in none of the files that a run leaves."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_app.masking import is_secret, masked, masked_arguments
from tests.in_process import InProcess

SECRET = "hunter2-and-more"


class Secretive(BoringModel):
    """Takes secrets, uses them, and saves its hyperparameters."""

    def __init__(self, api_key: str, login: dict[str, str], pad_token: str = "<pad>") -> None:
        super().__init__()
        assert api_key == login["password"] == SECRET
        self.save_hyperparameters()


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "passwd",
        "secret",
        "client_secret",
        "api_key",
        "openai_api_key",
        "token",
        "hf_token",
        "my_access_token",
        "WANDB_API_KEY",
        "private_key",
    ],
)
def test_secrets_by_their_names(name: str) -> None:
    assert is_secret(name)
    assert masked({"a": [{name: "x"}]}) == {"a": [{name: "***"}]}
    for given in ([f"--model.{name}", "x"], [f"--model.init_args.{name}=x"]):
        assert "x" not in " ".join(masked_arguments(given)).split("model.")[1].replace("init", "")


@pytest.mark.parametrize(
    "name", ["pad_token", "eos_token", "tokenizer", "num_tokens", "key", "lr", "secretary"]
)
def test_other_names(name: str) -> None:
    assert not is_secret(name)
    assert masked({name: "x"}) == {name: "x"}
    assert list(masked_arguments([f"--model.{name}", "x"])) == [f"--model.{name}", "x"]


def test_secrets_within_an_argument() -> None:
    given = ["--model", '{"class_path": "a.B", "init_args": {"password": "x y", "lr": 1}}']
    hidden = '{"class_path": "a.B", "init_args": {"password": ***, "lr": 1}}'
    assert list(masked_arguments(given)) == ["--model", hidden]


@pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated
def test_a_run_has_it_and_its_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    model: Any = ("--model", f"{__name__}.Secretive", "--max_epochs", "1")
    login = ("--model.login", f"{{password: {SECRET}}}")
    outcome = run(*model, "--model.api_key", SECRET, *login)
    assert outcome.status == 0, outcome.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "hparams.yaml", "last.ckpt"} < names
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    config = next(path for path in files if path.name == "config.yaml")
    assert "<pad>" in config.read_text()
    run.refused("--model.api_key is masked, as it is in configs of runs", "--config", str(config))
    outcome = run("--config", str(config), "--model.api_key", SECRET, *login, "--max_epochs", "2")
    assert outcome.status == 0, outcome.stderr
