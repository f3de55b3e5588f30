"""Where a process is, by the variables of torchrun and Slurm alone."""

import pytest

from lightning_app.cli.layout import Layout, follow
from lightning_app.processes.placement import (
    SLURM,
    TORCHRUN,
    Placement,
    first_host,
    global_rank,
    local_rank,
    placement,
    restarts,
    tasks_per_node,
)

OF_TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "run",
    "RANK": "5",
    "WORLD_SIZE": "6",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RESTART_COUNT": "2",
}  # 4 + 2 processes
OF_SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "1",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "3,2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def test_torchrun_tells_the_place() -> None:
    expected = Placement(TORCHRUN, 5, 6, 1, 2, 1, 2, "node1", 29400)
    assert placement(OF_TORCHRUN) == expected
    assert (global_rank(OF_TORCHRUN), local_rank(OF_TORCHRUN), restarts(OF_TORCHRUN)) == (5, 1, 2)
    assert placement(OF_TORCHRUN | OF_SLURM) == expected  # as within `srun torchrun`


def test_srun_tells_the_place_whatever_the_job_is_called() -> None:
    expected = Placement(SLURM, 4, 5, 1, 2, 1, 2, "gpu07", 15000 + 3457)
    for name in ("train", "bash", "interactive"):
        assert placement(OF_SLURM | {"SLURM_JOB_NAME": name}) == expected
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    placed = placement(OF_SLURM | own)
    assert placed is not None
    assert (placed.address, placed.port) == ("10.0.0.1", 1234)


def test_a_batch_script_and_a_single_task_are_not_a_place() -> None:
    in_script = {k: v for k, v in OF_SLURM.items() if "STEP" not in k}
    assert placement(in_script) is None
    assert placement(OF_SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert placement({}) is None
    assert (global_rank({}), global_rank({"LOCAL_RANK": "3"})) == (0, 3)


@pytest.mark.parametrize(
    ("text", "tasks"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("8(x2)", [8, 8]), ("", [])]
)
def test_slurms_numbers_of_tasks(text: str, tasks: list[int]) -> None:
    assert tasks_per_node(text) == tasks


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[3]", "gpu3"),
        ("rack[1,3]-node,b", "rack1-node"),
        ("", None),
    ],
)
def test_slurms_first_host(hosts: str, first: str | None) -> None:
    assert first_host(hosts) == first


def placed(world_size: int = 4, here: int = 2, launcher: str = TORCHRUN) -> Placement:
    return Placement(launcher, 0, world_size, 0, here, 0, world_size // here, "node1", 29400)


@pytest.mark.parametrize("devices", ["auto", -1, 2, "2", [0, 1]])
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_flags_that_are_left_out_follow_the_launcher(devices: object, strategy: str) -> None:
    layout = follow(Layout(devices=devices, strategy=strategy), placed())  # type: ignore[arg-type]
    expected = devices if devices in (2, "2", [0, 1]) else 2
    assert layout == Layout("auto", expected, 2, "ddp")


def test_a_launcher_with_one_process_is_one_device() -> None:
    assert follow(Layout(), placed(1, 1)) == Layout(devices=1)
    two_replicas = Layout(devices=2, strategy="dp")
    assert follow(two_replicas, placed(1, 1)) == two_replicas


@pytest.mark.parametrize(
    ("asked", "launcher", "line"),
    [
        (
            Layout(devices=4),
            TORCHRUN,
            "--devices 4: torchrun has started 2 processes on this host; leave the flag out, or "
            "start as many by `torchrun --nproc-per-node 4`",
        ),
        (
            Layout(devices=1),
            SLURM,
            "--devices 1: srun has started 2 processes on this host; leave the flag out, or "
            "start as many by `srun --ntasks-per-node 1`",
        ),
        (
            Layout(num_nodes=3),
            SLURM,
            "--num_nodes 3: srun has started the run on 2; leave the flag out, or start it by "
            "`srun -N 3`",
        ),
        (
            Layout(strategy="dp"),
            TORCHRUN,
            "--strategy dp: torchrun has started 4 processes, which train together under "
            "`--strategy ddp`: use that, or leave the flag out",
        ),
        (Layout(strategy="ddp_fork"), TORCHRUN, "--strategy ddp_fork: torchrun has started 4"),
        (Layout(strategy="single_device"), SLURM, "--strategy single_device: srun has started 4"),
    ],
)
def test_a_flag_that_contradicts_is_refused(asked: Layout, launcher: str, line: str) -> None:
    with pytest.raises(ValueError, match=r"^--") as caught:
        follow(asked, placed(launcher=launcher))
    assert str(caught.value).startswith(line)


def test_several_nodes_need_a_launcher() -> None:
    with pytest.raises(ValueError, match="torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend"):
        follow(Layout(devices=4, num_nodes=2), None)
    assert follow(Layout(num_nodes=2), None, starts_nodes=True) == Layout(num_nodes=2)
