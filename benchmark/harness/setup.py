"""What all jobs of one call share: where they compute, where their records go, how they are done, who is told."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from benchmark.common.errors import UserError
from benchmark.harness import provenance
from benchmark.harness.child import portable
from benchmark.harness.child.process import start_server
from benchmark.harness.job import Job, Options
from benchmark.harness.progress import Progress
from benchmark.records.record import Provenance
from benchmark.records.store import Store
from benchmark.suites.bench import Bench
from methods.api import Experts

MERGED = "merged.safetensors"


@dataclass(frozen=True)
class Setup:
    """Bench, store, options and progress, passed whole beside a job."""

    bench: Bench
    store: Store
    options: Options
    progress: Progress
    shared: Path
    """A folder of this call's own, gone at its end."""

    def merged(self, job: Job) -> Path:
        """Where the merge of a job is saved."""
        return self.store.folder(job.spec) / MERGED

    @functools.cached_property
    def experts(self) -> Experts:
        """The experts that this process judges merges on. No method's code comes near them."""
        return self.bench.experts()

    @functools.cached_property
    def packed(self) -> Experts:
        """The experts as the processes of methods are handed them; what of them lies in memory is written once."""
        parts = [part for part in (self.experts.encoder, *self.experts.heads.values()) if part is not None]
        start_server({type(module).__module__ for part in parts for module in part.modules()})
        try:
            return portable.pack(self.experts, self.shared)
        except (OSError, SafetensorError) as error:
            cause = error if isinstance(error, OSError) else OSError(error)
            raise UserError(
                f"cannot write experts to {self.shared}: {error}",
                "The processes of methods read them there. Set TMPDIR to a folder with more room.",
            ) from cause

    @property
    def batch_size(self) -> int:
        """Of the evaluation."""
        return self.options.batch_size or self.bench.suite.batch_size

    def provenance(self) -> Provenance:
        """The provenance of a run that starts now."""
        return provenance.describe(self.bench, self.options.argv, self.options.batch_size)
