"""The environment variables that the doctor looks at; no other leaves the machine."""

CHOOSING = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
"""Those that choose devices. Others named CUDA_* lead to libraries, and are left alone."""

SLURM = (
    "SLURM_GPUS_ON_NODE",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "SLURM_GPUS_PER_TASK",
    "SLURM_GPUS_PER_NODE",
    "SLURM_GPU_BIND",
    "SLURM_TRES_PER_TASK",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
)
"""Those of a SLURM job that tell how GPUs were given out."""

LOOKED_AT = (
    *CHOOSING,
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "DISABLE_MPS",
    "SLURM_JOB_ID",
    *SLURM,
)
