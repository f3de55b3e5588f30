"""Train a model on any devices, and see how every batch is split over them.

python train.py                                    one GPU, or the CPU
python train.py --devices 2 --strategy ddp         a process per GPU, or per CPU rank
python train.py --devices 2 --strategy dp          replicas in one process
python train.py --config configs/tutorial.yaml     the tutorial's own run
python train.py --ckpt_path last                   go on where the last run stopped
python train.py test --ckpt_path last              validate | test | predict
python train.py --fast_dev_run                     one batch of everything, nothing written
python train.py --model my_package.Model --data my_package.Data
python train.py --help                             the flags that people use
"""

from lightning_app.__main__ import main

if __name__ == "__main__":
    main()
