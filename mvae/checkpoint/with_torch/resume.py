"""A resumed run that equals an uninterrupted one, to the bit."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

VALIDATION, EPOCH_END, SCHEDULER_STEP = "validation", "epoch end", "scheduler step"

_BATCHES = "epoch_loop.batch_progress"
_VALIDATING = "epoch_loop.val_loop.batch_progress"


class ExactResume(Callback):
    """Put into the checkpoint what Lightning leaves out, so that a resumed run equals one that was never interrupted.

    It adds ``callbacks["ExactResume"]``, of tensors and plain values:

    - ``generators``: the states of Python's, NumPy's and torch's random generators (and the accelerator's, where
      there is one), for each process. Dropout and the noise of a VAE are drawn from them.
    - ``metrics``: the last value of everything logged. Lightning saves *before* ``ReduceLROnPlateau`` looks at the
      epoch's loss, has no loss to show it after resuming, and leaves that step out. Here it is made up for.
    - ``should_stop``: whether early stopping had ended the run.
    - ``next``: what was to come, where Lightning resumes with something else: the ``validation`` after a batch
      (Lightning leaves it out), the ``epoch end`` after its last batch (likewise), the ``scheduler step`` at an
      epoch's very end (left out; and with ``max_steps`` an epoch is). Otherwise None.

    The position in the data is saved by Lightning for a loader that has ``state_dict`` and ``load_state_dict``, as
    ``CSRLoader`` does. With a plain ``DataLoader`` resuming is exact from an epoch's end, not from within one.

    Put it last among the callbacks: one after it could draw random numbers that the saved states do not know of.

    Exact are files saved after a batch, a validation or an epoch, as ``ModelCheckpoint`` does, when resumed with the
    same data, settings, versions and number of threads. Not brought back: gradients that were still being accumulated,
    and, within an epoch, the running mean of a training metric logged with ``on_epoch=True``.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._step_owed = self._stop_owed = False

    @property
    def state_key(self) -> str:
        return "ExactResume"

    def on_save_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"][self.state_key] = {
            "generators": _from_every_process(trainer, generator_states(model.device)),
            "metrics": {name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "next": _what_comes_next(trainer, checkpoint["loops"]["fit_loop"]),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def on_load_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Move the loops' progress on by a moment, to where Lightning resumes with what comes next."""
        progress = checkpoint["loops"]["fit_loop"]
        next_ = checkpoint["callbacks"].get(self.state_key, {}).get("next")
        if next_ == VALIDATION:
            progress.update(_validation_begun(progress))
        elif next_ == EPOCH_END:
            progress[_BATCHES] = _all_completed(progress[_BATCHES])
        elif next_ == SCHEDULER_STEP and trainer.max_steps != -1:
            progress.update(_epoch_ended(progress))

    def on_train_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        saved, self._saved = self._saved, None
        self._step_owed = self._stop_owed = False
        if saved is None:
            return
        trainer.callback_metrics.update(saved["metrics"])
        if trainer.fit_loop.restarting and trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self._stop_owed = saved["should_stop"]  # once the epoch's end is done, as in an uninterrupted run
        else:
            trainer.should_stop = saved["should_stop"]
        set_generator_states(_own(trainer, saved["generators"]), model.device)
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if saved["next"] == SCHEDULER_STEP:
            _step_plateau_schedulers(trainer, model)
            iter(fetcher)  # begins the epoch's pass again: a DataLoader draws from the generators as it begins one
        elif saved["next"] == EPOCH_END:
            fetcher.iterator = iter(())  # no batch is left of the epoch

    def on_train_epoch_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        # True until the epoch that the file was saved in has ended, and Lightning then steps no plateau scheduler.
        # It would step it after this hook, so that is when it is made up for: as the next epoch starts.
        loop = trainer.fit_loop
        self._step_owed = loop.restarting and loop.epoch_loop._num_ready_batches_reached()
        trainer.should_stop = trainer.should_stop or self._stop_owed

    def on_train_epoch_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if self._step_owed:
            self._step_owed = False
            _step_plateau_schedulers(trainer, model)

    def on_train_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.on_train_epoch_start(trainer, model)


def _step_plateau_schedulers(trainer: L.Trainer, model: L.LightningModule) -> None:
    """What Lightning does at the end of an epoch; `current_epoch` is already the next one."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.interval == "epoch" and trainer.current_epoch % config.frequency == 0:
            value = trainer.callback_metrics.get(config.monitor or "")
            if value is not None:
                trainer.fit_loop.epoch_loop.scheduler_progress.increment_ready()
                model.lr_scheduler_step(config.scheduler, value)
                trainer.fit_loop.epoch_loop.scheduler_progress.increment_completed()


# --- the loops' progress, as Lightning counts it


def _what_comes_next(trainer: L.Trainer, progress: dict[str, Any]) -> str | None:
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    if _is_ending(progress["epoch_progress"]):  # in on_train_epoch_end
        return SCHEDULER_STEP
    if _is_ending(progress[_BATCHES]):  # in on_train_batch_end
        if fetcher is not None and loop._should_check_val_fx(fetcher):
            return VALIDATION
        if loop._num_ready_batches_reached():
            return EPOCH_END
    return None


def _is_ending(progress: dict[str, Any]) -> bool:
    """Whether a batch or an epoch has been processed and its last hooks are running."""
    counts = progress["current"]
    return counts["ready"] == counts["processed"] == counts["completed"] + 1


def _all_completed(progress: dict[str, Any]) -> dict[str, Any]:
    """What is under way, completed."""
    done = {count: progress[count] | {"completed": progress[count]["processed"]} for count in ("total", "current")}
    return progress | done


def _validation_begun(fit_loop: dict[str, Any]) -> dict[str, Any]:
    """The batch completed, the validation begun and no batch of it done: resumed from there, Lightning validates."""
    before = fit_loop[_VALIDATING]["total"]["completed"]
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    total = {name: before + count for name, count in begun.items()}
    return {
        _BATCHES: _all_completed(fit_loop[_BATCHES]),
        _VALIDATING: {"total": total, "current": begun, "is_last_batch": False},
    }


def _epoch_ended(fit_loop: dict[str, Any]) -> dict[str, Any]:
    """The epoch completed and no batch of the next one begun."""
    none = dict.fromkeys(fit_loop[_BATCHES]["current"], 0)
    return {
        "state_dict": {key: value for key, value in fit_loop["state_dict"].items() if key != "combined_loader"},
        "epoch_progress": _all_completed(fit_loop["epoch_progress"]),
        _BATCHES: _all_completed(fit_loop[_BATCHES]) | {"current": none, "is_last_batch": False},
    }


# --- random generators


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of all random generators, as tensors and plain values: ``weights_only=True`` loads them."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    key, position = numpy["state"]["key"], numpy["state"]["pos"]
    states: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": dict(numpy) | {"state": {"key": torch.from_numpy(key.astype(np.int64)), "pos": int(position)}},
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Continue every generator from where :func:`generator_states` found it."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = numpy["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": {"key": key, "pos": numpy["state"]["pos"]}})
    torch.set_rng_state(states["torch"].cpu())
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type].cpu())


def _from_every_process(trainer: L.Trainer, mine: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def _own(trainer: L.Trainer, everyone: list[dict[str, Any]]) -> dict[str, Any]:
    if len(everyone) != trainer.world_size:
        rank_zero_warn(f"Saved by {len(everyone)} processes and resumed by {trainer.world_size}: it will not be exact.")
    return everyone[trainer.global_rank % len(everyone)]
