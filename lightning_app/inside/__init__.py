"""What this project has to know of Lightning from within: names that are not its public API.

They are used here alone. Tests compare runs with those of a plain `Trainer`; they fail if one of
these names changes.
"""

from lightning_app.inside.loaders import (
    limit_of,
    loaders_done,
    notes_indices,
    num_prefetched,
    predict_loader,
    running_iterators,
    takes_loaders_in_turn,
    training_iterators,
)
from lightning_app.inside.logged import (
    add_result,
    after_epoch_hooks,
    before_epoch_values,
    is_first_batch,
    leave_epochs,
    logged_as,
    put_values_of,
    renew,
    results,
    set_value_of_step,
    training_results,
    value_of_step,
)
from lightning_app.inside.loops import follow, give_back, precede
from lightning_app.inside.quick_logs import log_quickly
from lightning_app.inside.start import (
    connect,
    has_usual_checkpoint_io,
    is_lightnings_handler,
    leave_sigterm_alone,
    replace_launcher,
    replace_spawning_launcher,
)
from lightning_app.inside.steps import (
    count_batch,
    forget_signature,
    is_log_step,
    optimizer_steps,
    remember_signature,
    running_hook,
    set_hook,
    skips_backward,
    validates_by_time,
)

__all__ = [
    "add_result",
    "after_epoch_hooks",
    "before_epoch_values",
    "connect",
    "count_batch",
    "follow",
    "forget_signature",
    "give_back",
    "has_usual_checkpoint_io",
    "is_first_batch",
    "is_lightnings_handler",
    "is_log_step",
    "leave_epochs",
    "leave_sigterm_alone",
    "limit_of",
    "loaders_done",
    "log_quickly",
    "logged_as",
    "notes_indices",
    "num_prefetched",
    "optimizer_steps",
    "precede",
    "predict_loader",
    "put_values_of",
    "remember_signature",
    "renew",
    "replace_launcher",
    "replace_spawning_launcher",
    "results",
    "running_hook",
    "running_iterators",
    "set_hook",
    "set_value_of_step",
    "skips_backward",
    "takes_loaders_in_turn",
    "training_iterators",
    "training_results",
    "validates_by_time",
    "value_of_step",
]
