"""Files and folders that no run should stumble over."""

import os
from pathlib import Path

LONG_NAME = "n" * 300

_TEXTS: dict[str, str | bytes] = {
    "file.txt": "This is a file.\n",
    "has_file/lightning_logs": "a file where runs go",
    "empty.yaml": "",
    "list.yaml": "[1, 2]\n",
    "number.yaml": "5\n",
    "text.yaml": "hello\n",
    "null.yaml": "null\n",
    "self.yaml": "trainer: &t\n  max_epochs: 1\n  logger: *t\n",
    "self_list.yaml": "trainer:\n  callbacks: &c [*c]\n",
    "laughs.yaml": "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep.yaml": "trainer: " + "[" * 5000 + "]" * 5000,
    "huge.yaml": "# nothing\n" * 110_000,
    "trainer_list.yaml": "trainer: [1]\n",
    "trainer_null.yaml": "trainer: null\n",
    "trainer_text.yaml": "trainer: fast\n",
    "model_list.yaml": "model: [1]\n",
    "model_number.yaml": "model: 5\n",
    "model_args.yaml": "model:\n  class_path: lightning_app.model.LinearModule\n  init_args: 5\n",
    "data_list.yaml": "data: [1]\n",
    "double.yaml": "trainer:\n  max_epochs: 1\n  max_epochs: 2\n",
    "broken.yaml": "trainer:\n  max_epochs: [1,\n",
    "unknown.yaml": "trainer:\n  max_epoch: 1\n",
    "unknown_top.yaml": "trainr:\n  max_epochs: 1\n",
    "number_key.yaml": "5: 1\n",
    "python.yaml": "trainer: !!python/object/apply:os.system ['touch executed']\n",
    "tag.yaml": "trainer: !nope 5\n",
    "tabs.yaml": "trainer:\n\tmax_epochs: 1\n",
    "nul.yaml": "trainer: \0\n",
    "two.yaml": "trainer:\n  max_epochs: 1\n---\ntrainer:\n  max_epochs: 2\n",
    "date.yaml": "trainer:\n  max_epochs: 2020-01-01\n",
    "latin1.yaml": "# caf\u00e9\n".encode("latin-1"),
    "utf16.yaml": "trainer:\n  max_epochs: x\n".encode("utf-16"),
    "binary.yaml": bytes(range(256)) * 20,
    "large_number.yaml": "model:\n  init_args:\n    lr: 1e400\n",
    "folder/inner.txt": "",
    "good.yaml": "trainer:\n  max_epochs: 1\n  gradient_clip_val: .inf\n",
    "anchors.yaml": "trainer: {limit_train_batches: &n 2, limit_val_batches: *n}\n",
}


def make_odd_files(folder: Path) -> None:
    """Put them into a folder."""
    for name, text in _TEXTS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.mkfifo(folder / "pipe")
    os.symlink("nothing", folder / "dangling")
    os.symlink("loop", folder / "loop")
