"""All that exact resuming reads and writes of Lightning's private parts, in one place.

Lightning has no public way to say "go on from here": it resumes by rules of its own, which leave out a validation, a
scheduler's step, a metric's mean. For each private name the public way that was looked for is given beside it;
`tests/checkpoint/with_torch/test_lightning_internals.py` tells which Lightning has lost or changed one.
"""

from __future__ import annotations

import builtins
import inspect
import os
from collections.abc import Callable
from functools import reduce
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch.loops import evaluation_loop, fit_loop, training_epoch_loop
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.utilities.combined_loader import _SUPPORTED_MODES, CombinedLoader
from torchmetrics import Metric

Progress = dict[str, Any]
"""`checkpoint["loops"]["fit_loop"]`: the counters of all loops of a fit, under dotted names."""


def run_hook(trainer: L.Trainer, owner: Any, hook: str, arguments: tuple[Any, ...]) -> None:
    """Run one hook of one callback, or of the module, as Lightning does. Lightning runs those of all callbacks."""
    model = trainer.lightning_module
    before, model._current_fx_name = model._current_fx_name, hook  # for self.log, which asks where it is called
    try:
        getattr(owner, hook)(*(() if owner is model else (trainer, model)), *arguments)
    finally:
        model._current_fx_name = before


class Loops:
    """The loops of a Trainer's `fit`: where they stand, and how they are put elsewhere.

    `Trainer.fit_loop` is public; what is in it is not, and `Trainer` shows of it only `current_epoch`,
    `global_step`, `num_training_batches` and `callback_metrics`.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self.fit: Any = trainer.fit_loop
        self.epoch: Any = trainer.fit_loop.epoch_loop
        self.validation: Any = trainer.fit_loop.epoch_loop.val_loop
        self.connector = trainer._logger_connector  # Trainer.logged_metrics shows what it holds, not how it counts

    # --- where they stand

    @property
    def train_loaders(self) -> list[Any]:
        """Trainer.train_dataloader gives them nested as the user passed them."""
        return _flattened(self.fit)

    @property
    def validation_loaders(self) -> list[Any]:
        """Trainer.val_dataloaders gives them nested as the user passed them."""
        return _flattened(self.validation)

    def accumulating(self) -> bool:
        """Whether the gradients of this batch wait for the next: Trainer has the number of batches, not the rule."""
        return bool(self.epoch._should_accumulate())

    def at_last_batch(self) -> bool:
        """Trainer.is_last_batch leaves out an epoch that a limit ends."""
        return bool(self.epoch._num_ready_batches_reached())

    def validation_is_due(self) -> bool:
        """Trainer has the interval, not the rule."""
        fetcher = self.fit._data_fetcher
        return fetcher is not None and bool(self.epoch._should_check_val_fx(fetcher))

    def validates_by_time(self) -> bool:
        """Trainer.val_check_interval is 1.0 then."""
        return getattr(self.trainer, "_val_check_time_interval", None) is not None

    def can_stop(self) -> bool:
        """Whether the least number of epochs and steps is reached: Trainer has the numbers, not the rule."""
        return bool(self.fit._can_stop_early)

    def counters(self) -> dict[str, float]:
        """What the loops count and do not save, or save a step behind; no public way to any of them."""
        return {
            "steps_logged": self.epoch._batches_that_stepped,
            "train_reloaded": self.fit._last_train_dl_reload_epoch,
            "validation_reloaded": self.validation._last_val_dl_reload_epoch,
        }

    def set_counters(self, counters: dict[str, Any]) -> None:
        self.epoch._batches_that_stepped = counters["steps_logged"]
        self.fit._last_train_dl_reload_epoch = counters["train_reloaded"]
        self.validation._last_val_dl_reload_epoch = counters["validation_reloaded"]

    def modes_before_validation(self) -> dict[str, bool]:
        """Which modules were training before a validation put all into eval mode: kept nowhere in public."""
        return dict(self.validation._module_mode.mode)

    # --- putting them elsewhere

    def set_progress(self, progress: Progress) -> None:
        """Every counter of every loop as in the file. Loop.load_state_dict would also mark them as restarting."""
        for name, state in progress.items():
            if not name.endswith("state_dict"):
                reduce(getattr, name.split("."), self.fit).load_state_dict(state)

    def finish_batch(self) -> None:
        """What follows on_train_batch_end: the step's metrics are taken over and logged."""
        self.connector._first_loop_iter = self.epoch.batch_progress.current.ready == 1
        self.connector.on_batch_end()
        self.epoch.batch_progress.increment_completed()
        self.connector.update_train_step_metrics()

    def finish_advance(self) -> None:
        """What follows a batch's validation: a plateau scheduler with `interval="step"` steps."""
        self.connector._first_loop_iter = self.epoch.batch_progress.current.ready == 1
        self.epoch.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self.accumulating():
            self.epoch._batches_that_stepped += 1

    def finish_epoch(self) -> None:
        """What follows on_train_epoch_end, as in _FitLoop.on_advance_end: plateau schedulers step, means are logged."""
        self.connector.epoch_end_reached()
        self.connector.on_epoch_end()
        if self.at_last_batch():
            self.epoch.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        self.epoch._batches_that_stepped -= 1
        self.connector.update_train_epoch_metrics()
        self.epoch._batches_that_stepped += 1
        self.fit.epoch_progress.increment_completed()

    def go_on_with_an_epoch(self) -> None:
        """Next comes an epoch's start, as if this process had ended the one before."""
        self._set_stages(fit_loop.RestartStage.NONE, training_epoch_loop.RestartStage.NONE, restarting=False)

    def go_on_within_the_epoch(self, validate: bool) -> None:
        """Next comes the batch after the current one, or first the validation; or the epoch's end after its last."""
        self._set_stages(
            fit_loop.RestartStage.RESTARTED_MID_EPOCH,
            training_epoch_loop.RestartStage.RESTARTED_ON_LAST,
            restarting=True,
        )
        if validate:
            self.validation._restart_stage = evaluation_loop.RestartStage.RESTARTED_MID_EVALUATION
        elif self.validation_is_due():
            self._skip_one_advance()
        elif self.at_last_batch():
            self.leave_no_batch()
        ready = self.epoch.batch_progress.current.ready
        self.connector._first_loop_iter = ready == 1 if ready else None  # None begins the means anew
        fetcher = self.fit._data_fetcher
        assert fetcher is not None
        # The loop adds the batches of the epoch to what has been fetched, and a replay has fetched them already.
        fetcher.fetched = max(0, fetcher.fetched - ready)

    def _set_stages(self, fit: Any, epoch: Any, restarting: bool) -> None:
        """_FitLoop.restarting is a property that sets the loops below too, and by rules of its own."""
        self.fit._restart_stage, self.epoch._restart_stage = fit, epoch
        self.validation._restart_stage = evaluation_loop.RestartStage.NONE
        self.fit._restarting = self.validation._restarting = False
        self.epoch._restarting = restarting
        self.fit._resuming_from_checkpoint = self.fit._loaded_from_state_dict = False

    def _skip_one_advance(self) -> None:
        """The validation of the last batch is done; restarting, the loop passes by it once more."""

        def skip(_: Any) -> None:
            del self.epoch.on_advance_end
            self.epoch._skip_next_val = False

        self.epoch.on_advance_end = skip

    def leave_no_batch(self) -> None:
        """What comes next in the epoch is its end."""
        fetcher = self.fit._data_fetcher
        fetcher.iterator, fetcher.batches, fetcher.done = iter(()), [], True

    # --- the training loader's passes

    def before_first_pass(self, act: Callable[[CombinedLoader], bool]) -> None:
        """Have `act` called with each new training loader before its first pass begins.

        `configure_optimizers` may begin one (`Trainer.estimated_stepping_batches`), long before any hook.
        If `act` returns True, Lightning does not give the loaders the states of the file.
        """
        fit = self.fit
        lightnings_own = type(fit)._load_combined_loader_states

        def load() -> None:
            if not act(fit._combined_loader):
                lightnings_own(fit)

        fit._load_combined_loader_states = load

    def leave_passes_alone(self) -> None:
        self.fit.__dict__.pop("_load_combined_loader_states", None)

    def begin_pass(self) -> Any:
        """Begin one pass over the training loader. Returns what gives out its batches."""
        fetcher = self.fit._data_fetcher
        for loader in self.fit._combined_loader.flattened:
            _set_sampler_epoch(loader, self.fit.epoch_progress.current.processed)
        iter(fetcher)
        return getattr(fetcher, "iterator_wrapper", fetcher)  # with training_step(dataloader_iter) it is another

    def fetched_by_the_step(self) -> int | None:
        """The batches that `training_step(dataloader_iter)` took by itself; None where Lightning fetches."""
        fetcher = self.fit._data_fetcher
        return fetcher.fetched if fetcher is not None and hasattr(fetcher, "iterator_wrapper") else None

    def has_prefetched(self) -> bool:
        return bool(getattr(self.fit._data_fetcher, "batches", None))

    # --- running means: self.log(..., on_epoch=True)

    def results(self) -> tuple[dict[str, Any], list[str]]:
        """What training has logged in the epoch so far, as tensors and plain values, and what cannot be written."""
        written, refused = {}, []
        for key, result in self.epoch._results.items():
            if result.has_reset:
                continue
            if result.meta.sync.group is not None:
                refused.append(f"the mean of '{result.meta.name}' over a process group of its own")
                continue
            written[key] = {"meta": _meta_to_plain(result.meta), "updates": result._update_count}
            if result.is_tensor:
                names = ["value", *(["cumulated_batch_size"] if result.meta.is_mean_reduction else [])]
                written[key]["sums"] = {name: getattr(result, name).detach().cpu().clone() for name in names}
                written[key]["last"] = None if result._forward_cache is None else result._forward_cache.detach().cpu()
        return written, refused

    def set_results(self, results: dict[str, Any], device: torch.device) -> None:
        results_here = self.epoch._results
        for key, saved in results.items():
            result = _ResultMetric(_meta_from_plain(saved["meta"], self.trainer), is_tensor="sums" in saved)
            if "sums" in saved:
                for name, value in saved["sums"].items():
                    setattr(result, name, value.to(device))
                result._forward_cache = None if saved["last"] is None else saved["last"].to(device)
            else:
                result.value = self.trainer.lightning_module.get_submodule(saved["meta"]["metric_attribute"])
            result._update_count = saved["updates"]
            results_here[key] = result


def _flattened(loop: Any) -> list[Any]:
    return [] if loop._combined_loader is None else loop._combined_loader.flattened


_META = (
    "fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx", "dataloader_idx",
    "metric_attribute",
)  # fmt: skip


def _meta_to_plain(meta: _Metadata) -> dict[str, Any]:
    function = meta.reduce_fx.__name__
    sync = {"should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
    builtin = meta.reduce_fx is getattr(builtins, function, None)
    return {name: getattr(meta, name) for name in _META} | {"reduce_fx": function, "builtin": builtin, "sync": sync}


def _meta_from_plain(saved: dict[str, Any], trainer: L.Trainer) -> _Metadata:
    function = getattr(builtins if saved["builtin"] else torch, saved["reduce_fx"])
    meta = _Metadata(**{name: saved[name] for name in _META}, reduce_fx=function)
    sync = saved["sync"]
    meta.sync = _Sync(
        fn=trainer.strategy.reduce, _should=sync["should"], rank_zero_only=sync["rank_zero_only"], _group=None
    )
    return meta


def metric_states(model: torch.nn.Module) -> dict[str, Any]:
    """What a module's torchmetrics have gathered: most keep it out of the `state_dict`."""
    return {
        name: {"states": dict(metric.metric_state), "updates": metric.update_count}
        for name, metric in model.named_modules()
        if isinstance(metric, Metric) and metric.update_called
    }


def set_metric_states(model: torch.nn.Module, saved: dict[str, Any]) -> None:
    """Put back what `metric_states` found, on the device that each metric is on."""
    for name, metric in model.named_modules():
        if isinstance(metric, Metric) and name in saved:
            for state, value in saved[name]["states"].items():
                moved = [v.to(metric.device) for v in value] if isinstance(value, list) else value.to(metric.device)
                setattr(metric, state, moved)
            metric._update_count = saved[name]["updates"]  # `update_count` can only be read


def without_iterating(loader: CombinedLoader) -> None:
    """Let a combined loader know its length, and begin no pass. In public it can only begin one."""
    loader._iterator = _SUPPORTED_MODES[loader._mode]["iterator"](loader.flattened, loader._limits)


def cycles(loader: CombinedLoader) -> list[bool] | None:
    """Which loaders of `max_size_cycle` have been gone through once; None in the other modes."""
    flags = getattr(loader._iterator, "_consumed", None)
    return None if flags is None else list(flags)


def set_cycles(loader: CombinedLoader, flags: list[bool] | None) -> None:
    """Put back what `cycles` found."""
    if flags is not None and loader._iterator is not None:
        loader._iterator.__dict__["_consumed"] = list(flags)


def iterators(loader: CombinedLoader) -> list[Any]:
    """The iterators of a pass that has begun, one for each loader."""
    return [] if loader._iterator is None else loader._iterator.iterators


def running_hook() -> tuple[Any, str]:
    """Whose hook is running, a callback's or the module's, and which: told by the frames that Lightning calls it from.

    `LightningModule` keeps the name only, and forgets it while a checkpoint is saved.
    """
    names = {"_call_callback_hooks": "callback", "_call_lightning_module_hook": "pl_module"}
    found: tuple[Any, str] = (None, "")
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in names and frame.f_locals.get("hook_name") != "on_save_checkpoint":
            found = frame.f_locals.get(names[frame.f_code.co_name]), frame.f_locals["hook_name"]
        frame = frame.f_back
    return found


def seed_of_everything() -> int | None:
    """What `seed_everything` was called with: it leaves it in the environment, and no function gives it back."""
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return int(seed) if seed.lstrip("-").isdigit() else None
