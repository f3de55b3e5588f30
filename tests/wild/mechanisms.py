"""What the cases guard: each mechanism, broken on purpose, and the cases that then have to fail."""

from tests.wild import mechanisms_of_runs, mechanisms_of_steps

MECHANISMS = {**mechanisms_of_steps.MECHANISMS, **mechanisms_of_runs.MECHANISMS}
