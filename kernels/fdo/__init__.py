"""Feedback on limits: statistics of batches are recorded, shared between processes, and applied.

    preprocess ──statistics──► client.record ──► client.publish ──► files of all processes
    specs ◄──update_preprocessing_parameters── statistics of all ◄── client.load

This is the way of jax-tpu-embedding, for programs that run their own loop. A run of emberay needs
none of it: the driver gathers the same statistics and makes a new plan of them
(`kernels.EmbeddingPlan.with_raised_limits`).
"""

from kernels.fdo.csv_file_fdo_client import CSVFileFDOClient
from kernels.fdo.fdo_client import FDOClient
from kernels.fdo.file_fdo_client import NPZFileFDOClient
from kernels.fdo.parameters import update_preprocessing_parameters

__all__ = [
    "CSVFileFDOClient",
    "FDOClient",
    "NPZFileFDOClient",
    "update_preprocessing_parameters",
]
