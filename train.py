"""Train a model on any devices, and see how every batch is split over them.

python train.py                                    one GPU, or the CPU
python train.py --devices 2 --strategy ddp         a process per GPU, or per CPU rank
python train.py --devices 2 --strategy dp          replicas in one process
python train.py --config configs/tutorial.yaml     the tutorial's own run
python train.py --ckpt_path last                   go on where the last run stopped
python train.py test --ckpt_path last              validate | test | predict
python train.py --fast_dev_run                     one batch of everything, nothing written
python train.py --model my_package.Model --data my_package.Data
python train.py --help                             every flag
"""

from lightning_app.processes.environment import check_environment
from lightning_app.processes.leaving import leave
from lightning_app.processes.ranks import end_with_parent
from lightning_app.processes.signals import listening
from lightning_app.processes.waiting import say_if_slow

if __name__ == "__main__":
    end_with_parent()
    check_environment()  # of which Lightning reads some as it is imported
    say_if_slow("loading PyTorch and Lightning")
    with listening():  # from the first moment: PyTorch is loaded for seconds
        from lightning_app.cli import main

        main()
    leave()
