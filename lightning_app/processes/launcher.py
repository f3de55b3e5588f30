"""How the later ranks are started on this machine: as Lightning does it, to end with this one."""

from typing_extensions import override

from lightning_app import inside
from lightning_app.errors import UsageError
from lightning_app.processes import ranks


class RankLauncher(inside.SubprocessLauncher):
    """Starts a process for each later rank.

    Lightning's observer, which looks after them every five seconds, would kill this process by
    SIGKILL, without a word, where one fails.
    """

    @override
    def _call_children_scripts(self) -> None:
        if self.num_processes > 1 and ranks.have_run():
            raise UsageError(
                "a run of several processes has to be the first in its script, which each of them "
                "begins anew: give this one a script of its own"
            )
        with ranks.started_as_ranks():
            super()._call_children_scripts()
        started, self.procs = self.procs, []
        first = self.cluster_environment.node_rank() * self.num_processes
        ranks.watch(dict(enumerate(started, first + 1)))
