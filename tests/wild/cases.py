"""All cases, by their names."""

from tests.wild import cases_of_data, cases_of_models, cases_of_runs
from tests.wild.case import Case

CASES: dict[str, Case] = {
    **cases_of_data.CASES,
    **cases_of_models.CASES,
    **cases_of_runs.CASES,
}
