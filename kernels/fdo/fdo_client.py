"""What every FDO client can do."""

from __future__ import annotations

import abc

from kernels.preprocessing.format import SparseDenseMatmulInputStats

__all__ = ["FDOClient"]


class FDOClient(abc.ABC):
    """Gathers statistics of batches, one client a process, and shares them between processes.

    Example:
        >>> client = NPZFileFDOClient("/shared/fdo")
        >>> for step in range(100):
        ...     batch, statistics = preprocess_sparse_dense_matmul_input(...)
        ...     client.record(statistics)
        >>> client.publish()
        >>> # wait here until all processes have published
        >>> update_preprocessing_parameters(feature_specs, client.load(), num_sc_per_device)
    """

    @abc.abstractmethod
    def record(self, data: SparseDenseMatmulInputStats) -> None:
        """Keep the statistics of a batch in this process.

        Args:
            data: What `preprocess_sparse_dense_matmul_input` returned.
        """

    @abc.abstractmethod
    def publish(self) -> None:
        """Make what this process has recorded visible to all processes."""

    @abc.abstractmethod
    def load(self) -> SparseDenseMatmulInputStats:
        """The largest values that any process has published, by stack."""
