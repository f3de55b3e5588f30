"""All cases, by their names."""

from dataclasses import replace

from tests.wild import cases_of_data, cases_of_models, cases_of_runs
from tests.wild.case import Case

CASES: dict[str, Case] = {
    **cases_of_data.CASES,
    **cases_of_models.CASES,
    # Of callbacks, loggers and schedules a third rank shows nothing more.
    **{
        name: replace(case, leave_out=(*case.leave_out, "ddp3"))
        for name, case in cases_of_runs.CASES.items()
    },
}
