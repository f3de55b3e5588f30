"""All cases, by their names."""

from tests.wild.case import Case

CASES: dict[str, Case] = {
    "plain": Case("basic.Regression"),
    "own generator": Case("basic.Regression", "basic.ShuffledByItself"),
    "validate": Case("basic.Regression", subcommand="validate"),
    "test": Case("basic.Regression", subcommand="test"),
}
