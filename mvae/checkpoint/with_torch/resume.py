"""A resumed run that equals an uninterrupted one, to the bit."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from mvae.checkpoint.with_torch import lightning_internals as internals
from mvae.checkpoint.with_torch import loader_position as loaders
from mvae.checkpoint.with_torch import moments
from mvae.checkpoint.with_torch.generators import Snapshot, plain, seed_all, set_generator_states, take
from mvae.checkpoint.with_torch.held_state import HeldState
from mvae.checkpoint.with_torch.lightning_internals import Loops
from mvae.checkpoint.with_torch.random_workers import draw_random_numbers
from mvae.errors import CheckpointError


class ExactResume(Callback):
    """Put into the checkpoint what Lightning leaves out, so that a resumed run equals one that was never interrupted.

    Equal is every weight, moment, learning rate, batch, random number and logged metric. It adds
    `callbacks["ExactResume"]`, of tensors and plain values: the moment of the save, the random generators, where
    the loaders stand, the running means of what is logged with `on_epoch=True` (torchmetrics too), gradients that are
    still being accumulated, which parameters are frozen, and whether EarlyStopping had ended the run.

    Where in the data a run goes on:

    - a loader with `state_dict` and `load_state_dict` is given its state, and one pass is begun;
    - of a `DataLoader` over a map-style data set, without workers, the sampler is moved on, and nothing is fetched;
    - with workers the batches used already in the epoch are drawn again (with `persistent_workers` those of the
      epochs before too), and how long that took is said;
    - so they are for an `IterableDataset`, a sampler or loader of your own, and several loaders at once. For these
      the data draws from a stream of random numbers of its own, seeded from torch's generator as each pass begins, so
      the numbers are other ones than without this callback.

    Generators and counters that a loader, data set, sampler or transform holds as attributes are found and put back.
    A callback or module whose hook was to run after the one that saved is run on resume.

    Not exact, and said both when it is saved and when it is resumed:

    - a save inside a batch (an exception or Ctrl-C in a step), which is begun again, and as an epoch starts;
    - a save after a batch, if the module or a later callback has an `on_train_batch_end` of its own;
    - within an epoch: StochasticWeightAveraging, `training_step(dataloader_iter)`, and a loader that has a state
      and no length;
    - random numbers drawn in persistent workers for *validation*, once they have been started;
    - torchdata's loader with several processes, and `val_check_interval` as a time.

    Named before the first step, as an error within an epoch: other loaders, rows, batch size, workers or number of
    processes than in the file (the last as a warning, where the loader has `for_any_number_of_processes`); as a
    warning: another seed. Nobody can find state that is kept elsewhere, such as in a module's plain attributes.

    A run that EarlyStopping had ended stays ended with the same settings, and goes on with the patience that you pass
    if that is another.

    Args:
        mid_epoch: what to do with a file from within an epoch if its loader can only be brought back by drawing the
            batches again that were used already: `"replay"` draws them and says how long it took, `"refuse"` is
            an error, `"approximate"` begins the pass anew, so that other batches are left for the epoch.
    """

    def __init__(self, mid_epoch: Literal["refuse", "replay", "approximate"] = "replay") -> None:
        if mid_epoch not in ("refuse", "replay", "approximate"):
            raise ValueError(f"mid_epoch is {mid_epoch!r}; expected 'refuse', 'replay' or 'approximate'.")
        self.mid_epoch = mid_epoch
        self._forget()

    def _forget(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._progress: dict[str, Any] = {}
        self._moment = moments.START
        self._weights: dict[str, Any] | None = None
        self._patience: dict[EarlyStopping, int] = {}
        self._stop_owed = self._stays_stopped = False
        self._passes = loaders.Passes()
        self._validation = HeldState([])
        self._before_validation: Snapshot | None = None
        self._states_at_end: list[Any] | None = None
        self._random_validation: bool | None = None

    @property
    def state_key(self) -> str:
        return "ExactResume"

    # --- watching

    def setup(self, trainer: L.Trainer, model: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._forget()
            self._passes.device = trainer.strategy.root_device
            Loops(trainer).before_first_pass(self._adopt)

    def _adopt(self, loader: CombinedLoader) -> bool:
        self._passes.adopt(loader)
        return self._saved is not None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if Loops(trainer).validation_is_due():
            self._before_validation = take(trainer.strategy.root_device)

    def on_train_epoch_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        trainer.should_stop, self._stop_owed = trainer.should_stop or self._stop_owed, False

    def on_train_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self._states_at_end = self._passes.states()  # once the fit has ended, the loaders are reset

    def teardown(self, trainer: L.Trainer, model: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            Loops(trainer).leave_passes_alone()
            self._passes.release()

    # --- saving

    def on_save_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._saved is not None:  # resumed, and not yet trained: nothing has changed
            checkpoint["callbacks"][self.state_key] = self._saved
            return
        loops, progress = Loops(trainer), checkpoint["loops"]["fit_loop"]
        saver, hook = internals.running_hook()
        now = moments.moment(progress, hook, trainer.validating)
        left = moments.left_out(trainer, saver, hook, but=self) if hook == moments.HOOKS.get(now) else []
        mine, refused = self._own_part(loops, now)
        everyone = _from_every_process(trainer, mine)
        inexact = refused + _inexact(loops, now, hook, left) + self._of_validation(loops)
        for reason in inexact:
            rank_zero_warn(f"A checkpoint is saved from which a run does not resume exactly: {reason}.")
        checkpoint["callbacks"][self.state_key] = {
            "moment": now,
            "inexact": inexact,
            "generators": [part.pop("generators") for part in everyone],
            "processes": everyone,
            "metrics": _values(trainer.callback_metrics),
            "logged": _values(trainer.logged_metrics),
            "progress_bar": _values(trainer.progress_bar_metrics),
            "should_stop": trainer.should_stop,
            "stoppers": _stoppers(trainer),
            "left_out": moments.names_of(left),
            "counters": loops.counters(),
            "epoch_cut_short": now in (moments.EPOCH_END, moments.EPOCH_ENDED) and not loops.at_last_batch(),
            "accumulate": trainer.accumulate_grad_batches,
            "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
            "in_eval": _in_eval(loops, now),
            "run": _run(loops),
        }

    def _own_part(self, loops: Loops, now: str) -> tuple[dict[str, Any], list[str]]:
        """What each process has to itself."""
        results, refused = loops.results()
        model, device = loops.trainer.lightning_module, loops.trainer.strategy.root_device
        states = self._states_at_end
        if states is None:
            states = self._passes.states() if loops.trainer.world_size > 1 else []
        may_be = now not in (moments.START, moments.EPOCH_START, moments.EPOCH_ENDED)
        accumulated = may_be and (not model.automatic_optimization or loops.accumulating())
        part = {
            "generators": plain(self._generators(device, now), device),
            "position": self._passes.note() | {"fetched_by_the_step": loops.fetched_by_the_step()},
            "loader_states": states,
            "validation": {
                "held": self._validation.now(),
                "begun": list(map(loaders.has_workers, loops.validation_loaders)),
            },
            "results": results,
            "metric_states": internals.metric_states(model),
            "gradients": _gradients(model) if accumulated else {},
        }
        return part, refused

    def _of_validation(self, loops: Loops) -> list[str]:
        started = list(filter(loaders.has_workers, loops.validation_loaders))
        if started and self._random_validation is None:
            self._random_validation = any(map(draw_random_numbers, started))
        said = "persistent workers draw random numbers for validation, and where theirs stand is not in the file"
        return [said] if started and self._random_validation else []

    def _generators(self, device: torch.device, now: str) -> Snapshot:
        """Where the generators stood at the point the run will go on from."""
        if now == moments.IN_BATCH or (self._passes.fetching and self._passes.before_fetch is not None):
            return self._passes.before_fetch or take(device)
        if now == moments.IN_VALIDATION and self._before_validation is not None:
            return self._before_validation
        return take(device)

    # --- resuming

    def on_load_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take note of the file before the Trainer follows it."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        saved = checkpoint["callbacks"].get(self.state_key, {})
        if not saved.keys() >= {"moment", "processes", "generators"}:
            rank_zero_warn(
                "The checkpoint holds no state of ExactResume: it is resumed as Lightning does, not exactly."
            )
            return
        self._saved, self._moment = saved, saved["moment"]
        self._passes.resuming = True
        trainer.num_sanity_val_steps = 0  # the run did that as it began; Lightning does it again after an epoch's end
        progress = checkpoint["loops"]["fit_loop"]
        self._stays_stopped = self._was_stopped_and_stays_so(trainer, saved, checkpoint["callbacks"])
        if saved["epoch_cut_short"] and not self._stays_stopped and _steps_are_left(trainer, checkpoint):
            progress.update(moments.epoch_not_ended(progress))
            self._moment = moments.BETWEEN_BATCHES
        self._progress = deepcopy({key: value for key, value in progress.items() if key != "state_dict"})
        self._loader_states = progress["state_dict"].get("combined_loader", [])
        types = {name: value.dtype for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        if any(types.get(name, value.dtype) != value.dtype for name, value in checkpoint["state_dict"].items()):
            self._weights = checkpoint  # loaded again when the model has the precision of the run

    def _was_stopped_and_stays_so(self, trainer: L.Trainer, saved: dict[str, Any], states: dict[str, Any]) -> bool:
        if not saved["should_stop"]:
            return False
        now = _stoppers(trainer)
        stopped_early = [key for key in saved["stoppers"] if states.get(key, {}).get("stopping_reason", 0)]
        if not stopped_early:
            if not moments.has(trainer, callbacks.Timer):
                rank_zero_warn("The run had been asked to stop as the checkpoint was saved; it goes on.")
            return False
        if all(now.get(key) == saved["stoppers"][key] for key in stopped_early):
            rank_zero_info("EarlyStopping had ended this run. Resume it with more patience to train on.")
            return True
        self._patience = {stopper: stopper.patience for stopper in trainer.early_stopping_callbacks}
        return False

    def on_fit_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if self._weights is not None:
            trainer.strategy.load_model_state_dict(self._weights, strict=model.strict_loading)
            self._weights = None
        for stopper, patience in self._patience.items():
            rank_zero_info(f"EarlyStopping goes on with a patience of {patience}, not the file's {stopper.patience}.")
            stopper.patience = patience

    def on_train_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        loops = Loops(trainer)
        self._validation = HeldState(loops.validation_loaders)
        if self._saved is not None:
            self._go_on(loops, self._saved)
            self._saved = None

    def _go_on(self, loops: Loops, saved: dict[str, Any]) -> None:
        trainer = loops.trainer
        own = saved["processes"][trainer.global_rank % len(saved["processes"])]
        if len(saved["processes"]) != trainer.world_size:
            own = own | {"results": {}}  # the running means of an epoch are of other processes' shares
        within = self._moment in moments.WITHIN_EPOCH
        self._compare(loops, saved, own, within)
        for reason in saved["inexact"]:
            rank_zero_warn(f"The run does not resume exactly: {reason}.")
        loops.set_progress(moments.before_what_is_under_way(self._progress, self._moment))
        loops.set_counters(saved["counters"])
        self._put_back(loops, saved, own)
        self._finish(loops, saved)
        due = self._moment == moments.AFTER_BATCH and loops.validation_is_due()
        if self._moment == moments.AFTER_BATCH and not due:
            loops.finish_advance()
        self._begin(loops, own, within, validate=due or self._moment == moments.IN_VALIDATION)
        if self._stays_stopped and within and loops.can_stop():
            self._stop_owed = True  # once the epoch's end is done, as in an uninterrupted run
            loops.leave_no_batch()
        else:
            trainer.should_stop = trainer.should_stop or self._stays_stopped
        missing = set_generator_states(_own(trainer, saved["generators"]), trainer.strategy.root_device)
        if trainer.global_rank >= len(saved["generators"]):
            seed_all(trainer.global_rank + int(torch.randint(2**62, ())))  # a new process: not the numbers of another
        if missing:
            rank_zero_warn(f"The checkpoint holds no state of the generators {missing}: the run will not be exact.")

    def _put_back(self, loops: Loops, saved: dict[str, Any], own: dict[str, Any]) -> None:
        trainer, model = loops.trainer, loops.trainer.lightning_module
        loops.set_results(own["results"], trainer.strategy.root_device)
        internals.set_metric_states(model, own["metric_states"])
        trainer.callback_metrics.update(saved["metrics"])
        trainer.logged_metrics.update(saved["logged"])
        trainer.progress_bar_metrics.update(saved["progress_bar"])
        frozen, in_eval = set(saved["frozen"]), set(saved["in_eval"])
        for name, parameter in model.named_parameters():
            if parameter.requires_grad != (name not in frozen):
                parameter.requires_grad = name not in frozen
            if name in own["gradients"]:
                parameter.grad = own["gradients"][name].to(parameter.device, parameter.dtype)
        for name, module in model.named_modules():
            module.training = name not in in_eval
        if moments.has(trainer, callbacks.GradientAccumulationScheduler):
            trainer.accumulate_grad_batches = saved["accumulate"]

    def _finish(self, loops: Loops, saved: dict[str, Any]) -> None:
        """Do what came after the save in the hook that saved, and right after it."""
        trainer = loops.trainer
        hook = moments.HOOKS.get(self._moment, "")
        for owner in moments.found_again(trainer, saved["left_out"]) if hook else ():
            self._saved = self._for_a_save_by(owner, self._saved or saved)
            if hook == "on_train_batch_end" and not moments.needs_no_batch(owner):
                continue
            arguments = (None, None, trainer.fit_loop.batch_idx) if hook == "on_train_batch_end" else ()
            internals.run_hook(trainer, owner, hook, arguments)
        if self._moment == moments.AFTER_BATCH:
            loops.finish_batch()
        elif self._moment == moments.AFTER_VALIDATION:
            loops.finish_advance()
        elif self._moment == moments.EPOCH_END:
            loops.finish_epoch()

    def _for_a_save_by(self, owner: Any, saved: dict[str, Any]) -> dict[str, Any]:
        """What a file says that such a hook saves: the same moment, with one hook less to run."""
        after = saved["left_out"].index(moments.names_of([owner])[0]) + 1
        parts = [part | {"loader_states": part["loader_states"] or self._loader_states} for part in saved["processes"]]
        return saved | {"left_out": saved["left_out"][after:], "processes": parts}

    def _begin(self, loops: Loops, own: dict[str, Any], within: bool, validate: bool) -> None:
        """Bring the loaders to where they stood, and the loops to what comes next."""
        note, replay = own["position"], self.mid_epoch == "replay"
        states = own["loader_states"] or self._loader_states
        for loader, had_workers in zip(loops.validation_loaders, own["validation"]["begun"], strict=False):
            if had_workers and loaders.persistent(loader):
                iter(loader)  # its workers were there already, and starting them draws a random number
        if not within and (self._moment == moments.START or loops.trainer.current_epoch == 0):
            self._passes.go_on(loops, note, states, 0, replay)
        elif not within or loops.at_last_batch():
            self._passes.go_on_after(loops, note, states, replay)
        else:
            fetched = note["fetched_by_the_step"]
            batches = loops.fit.batch_idx + 1 if fetched is None else fetched
            self._passes.go_on(loops, note, states, batches, replay)
        if within:
            loops.go_on_within_the_epoch(validate)
        else:
            loops.go_on_with_an_epoch()
        self._validation.set(own["validation"]["held"])

    def _compare(self, loops: Loops, saved: dict[str, Any], own: dict[str, Any], within: bool) -> None:
        """Name what differs from the run that was saved, before the first step.

        Raises:
            CheckpointError: within an epoch its place in the data cannot be found.
        """
        run, way = _run(loops), own["position"]["way"]
        if within and way in (loaders.REPLAY, loaders.STREAM) and self.mid_epoch != "replay":
            self._refuse(
                f"the way back into the pass is to draw its batches again, and mid_epoch is '{self.mid_epoch}'"
            )
        for name, before in saved["run"].items():
            if run[name] == before:
                continue
            said = f"{name} is {run[name]}, and was {before} as the checkpoint was saved"
            if name == "seed":
                rank_zero_warn(
                    f"seed_everything was called with {run[name]}, and with {before} in the run that saved the "
                    "checkpoint. The random generators go on as they stood, but what a seed decides beforehand (a "
                    "split, the order of a DistributedSampler) may be another."
                )
            elif within and name in ("loaders", "processes") and not (name == "processes" and _any_number(loops)):
                self._refuse(said)
            else:
                rank_zero_warn(f"The run will not be exact: {said}.")

    def _refuse(self, reason: str) -> None:
        if self.mid_epoch != "approximate":
            raise CheckpointError(
                f"The checkpoint is from within an epoch, and it cannot be resumed exactly: {reason}. Resume it as it "
                "was, from a checkpoint of an epoch's end, or with ExactResume(mid_epoch='approximate')."
            )
        rank_zero_warn(f"The run is resumed within an epoch, approximately: {reason}.")


def _inexact(loops: Loops, now: str, hook: str, left: list[Any]) -> list[str]:
    """Why no exact way leads from this moment; empty where one does."""
    trainer = loops.trainer
    within = now in moments.WITHIN_EPOCH and now != moments.IN_BATCH and not loops.at_last_batch()
    late = (left if hook else [trainer.lightning_module]) if now == moments.AFTER_BATCH else []
    reasons = [
        f"what {type(owner).__name__}.on_train_batch_end does after the save is not in the file"
        for owner in late
        if moments.overrides(owner, "on_train_batch_end")
        and not (moments.needs_no_batch(owner) or moments.changes_nothing(owner))
    ]
    if now in _NO_WAY_FROM:
        reasons.append(_NO_WAY_FROM[now])
    if within and moments.has(trainer, callbacks.StochasticWeightAveraging):
        reasons.append("StochasticWeightAveraging sets itself up only as an epoch starts, and this is within one")
    if within and loops.fetched_by_the_step() is not None:
        reasons.append("training_step takes the batches itself (dataloader_iter), and its hooks see the one before")
    if within and loops.has_prefetched() and any(map(loaders.stateful, loops.train_loaders)):
        reasons.append("a loader with a state and no length is read one batch ahead, and its state is past that batch")
    if trainer.world_size > 1 and any(map(loaders.of_torchdata, loops.train_loaders)):
        reasons.append("with several processes torchdata's loader gives another order in the epochs that follow")
    if loops.validates_by_time():
        reasons.append("val_check_interval is a time, and no two runs take the same")
    return reasons


_NO_WAY_FROM = {
    moments.IN_BATCH: "it is saved inside a batch, which is begun again on what it has changed already",
    moments.EPOCH_START: "it is saved as an epoch starts, and the hooks that have run by then are run again",
}


def _stoppers(trainer: L.Trainer) -> dict[str, list[Any]]:
    """What each EarlyStopping stops by."""
    names = ("patience", "min_delta", "stopping_threshold", "divergence_threshold", "check_finite")
    return {
        stopper.state_key: [getattr(stopper, name) for name in names] for stopper in trainer.early_stopping_callbacks
    }


def _steps_are_left(trainer: L.Trainer, checkpoint: dict[str, Any]) -> bool:
    return trainer.max_steps == -1 or checkpoint["global_step"] < trainer.max_steps


def _run(loops: Loops) -> dict[str, Any]:
    """What must be the same for a resumed run to be exact."""
    return {
        "loaders": loaders.described(loops.train_loaders),
        "processes": loops.trainer.world_size,
        "seed": internals.seed_of_everything(),
    }


def _in_eval(loops: Loops, now: str) -> list[str]:
    if now in (moments.IN_VALIDATION, moments.AFTER_VALIDATION):
        return [name for name, training in loops.modes_before_validation().items() if not training]
    return [name for name, module in loops.trainer.lightning_module.named_modules() if not module.training]


def _gradients(model: L.LightningModule) -> dict[str, torch.Tensor]:
    return {name: p.grad.detach().cpu() for name, p in model.named_parameters() if p.grad is not None}


def _values(metrics: Any) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
        for name, value in metrics.items()
    }


def _any_number(loops: Loops) -> bool:
    """Whether the loaders say that their place is the same for any number of processes, as `mvae.data.loader` does."""
    return all(getattr(loader, "for_any_number_of_processes", False) for loader in loops.train_loaders)


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
