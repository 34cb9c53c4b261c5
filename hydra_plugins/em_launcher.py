"""The launcher of em's sweeps, in the package where Hydra looks for plugins: one job per GPU, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore


class GpuLauncher(BasicLauncher):
    """Runs the jobs of a sweep by joblib, one per GPU, if each of them needs one; else one after the other."""

    config: Any
    hydra_context: Any
    task_function: Any

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run the jobs with these words; return their results."""
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

        from em.cli.hydra import needs_one_gpu
        from em.runtime.gpus import list_visible_gpus

        gpus, load = len(list_visible_gpus()), self.hydra_context.config_loader.load_sweep_config
        # Fewer jobs would leave most GPUs idle, while one after the other they sample and judge on all.
        many = gpus > 1 and 2 * len(job_overrides) >= gpus
        configs = [load(self.config, list(words)) for words in job_overrides] if many else []
        if not many or not all(map(needs_one_gpu, configs, job_overrides)):
            return super().launch(job_overrides, initial_job_idx)
        on_one_gpu = [[*words, "one_gpu=true"] for words in job_overrides]
        if any(config.dry_run for config in configs):
            return super().launch(on_one_gpu, initial_job_idx)
        print(
            f"{len(job_overrides)} jobs on {gpus} GPUs, one GPU per job (hydra/launcher=basic: one after the other)",
            flush=True,
        )
        jobs, side_by_side = self.task_function, JoblibLauncher(n_jobs=min(gpus, len(job_overrides)))
        jobs.returns_errors = True
        side_by_side.setup(hydra_context=self.hydra_context, task_function=jobs, config=self.config)
        results = side_by_side.launch(on_one_gpu, initial_job_idx)
        jobs.add_results(str(self.config.hydra.sweep.dir), [each.return_value for each in results])
        return results


ConfigStore.instance().store(
    group="hydra/launcher",
    name="gpus",
    node={"_target_": "hydra_plugins.em_launcher.GpuLauncher"},
    provider="em",
)
